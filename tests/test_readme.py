"""The README's own commands and its example file: what it tells a reader to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from eed_search.cli.app import app
from eed_search.config.loader import load
from eed_search.config.spec import Range
from tests.cli.calling import ROOT, call, python

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in _blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


OURS = [line for line in _commands() if line.startswith("eed-search ")]
# Those that end within seconds and need neither data nor an earlier search.
CHEAP = [line for line in OURS if line.split()[1] in ("--help", "check", "doctor") and "--data" not in line]


def test_the_readme_shows_every_command() -> None:
    """Every command that exists stands in the README, and no other."""
    shown = {line.split()[1] for line in OURS} - {"--help"}
    assert shown == {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }


@pytest.mark.parametrize(
    "line", [pytest.param(one, marks=pytest.mark.whole) if " doctor" in one else one for one in CHEAP]
)
def test_a_cheap_command_works_as_written(line: str, tmp_path: Path) -> None:
    """Run from an empty folder: exit code 0, nothing on stderr, nothing left behind."""
    main = "import sys; sys.argv[0] = 'eed-search'; from eed_search.cli import main; main()"
    done = python(main, *shlex.split(line)[1:], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", OURS)
def test_every_option_in_the_readme_exists(line: str) -> None:
    """Commands that take long are at least spelt as the program spells them."""
    words = shlex.split(line)[1:]
    if words[0].startswith("-"):
        return
    known = call(words[0], "--help").stdout
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert f" {option} " in known, option


def test_options_named_in_the_text_exist() -> None:
    """Options in running text are those of some command."""
    text = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    known = "".join(
        call(command, "--help").stdout for command in ("launch", "check", "report", "export", "attack", "ui")
    )
    for option in set(re.findall(r"`(--[a-z-]+)", text)):
        assert f" {option} " in known, option


def test_the_example_file_passes_check(tmp_path: Path) -> None:
    """The search-space file by example is a right one, and says what its comments say."""
    (block,) = _blocks("yaml")
    file = tmp_path / "my-digits.yaml"
    file.write_text(block, encoding="utf-8")
    assert call("check", file).exit_code == 0
    space = load(file).search.space
    assert space.omega == Range(low=0, high=10)
    assert space.size.values == (0.25, 0.5)  # type: ignore[union-attr]


@pytest.mark.parametrize("line", [line for line in _commands() if line.startswith("make ")])
def test_make_knows_its_targets(line: str) -> None:
    """`make launch` and `make test` exist (listed, not run)."""
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_bundle_example_runs_without_torch(tmp_path: Path) -> None:
    """The Python lines give a label and a number of members for each image, and load no torch."""
    import torch

    from eed_search.deployment.bundle import GateSettings, Replay, write_bundle
    from eed_search.deployment.onnx_export import to_onnx
    from eed_search.deployment.runtime import GatedClassifier

    members = [to_onnx(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), (1, 8, 8)) for _ in range(2)]
    gate = GateSettings("threshold", 0.5, 1.0, 1.0)
    images = np.zeros((3, 1, 8, 8), np.float32)
    answer = GatedClassifier.from_onnx(members, gate).predict(images)
    replay = Replay(images, answer.labels, answer.num_members_run, num_skipped=0)
    write_bundle(
        tmp_path / "best",
        members,
        gate,
        (1, 8, 8),
        10,
        replay=replay,
        claims={},
        config={},
        search_space_yaml="name: x\n",
    )
    (block,) = _blocks("python")
    done = python(block + "print('torch' in sys.modules)", cwd=tmp_path)
    assert done.stderr == ""
    assert re.fullmatch(r"\[\d \d \d \d \d\] \[[12 ]+\]\nFalse\n", done.stdout), done.stdout


def test_links_lead_to_files() -> None:
    """Relative links are not broken."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
