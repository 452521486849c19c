"""`eed-search launch --dry-run`: what it says, and that it leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import Result

from eed_search.config.loader import load
from eed_search.runs.ledger import FILE_NAME, Ledger
from eed_search.system.cores import usable_cores
from tests.cli.calling import call, python

FILE = """
name: small
threat: {eps: 0.1}
data: {num_train: 64, num_validation: 30, num_fresh: 20}
model: {width: 32}
base: {epochs: 1, batch_size: 16, attack: {steps: 1}}
members: {score_samples: 16, finetune: {epochs: 1, batch_size: 16, attack: {steps: 1}}}
joint: {epochs: 1, batch_size: 16, attack: {steps: 1}}
evaluation: {steps: 2}
latency: {rounds: 3, block_ms: 1}
baselines: {sizes: []}
search:
  trials: 3
  sampler: random
  space: {num_members: [1, 2], score: [erm], size: [0.5], subsets: all, recovery: labels}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path


def _dry(file: Path, home: Path, *more: object) -> Result:
    return call("launch", file, "--home", home, "--dry-run", *more)


def _state(folder: Path) -> dict[str, tuple[bytes, int] | None]:
    """Every path below a folder, with the bytes and the time of the last change of each file."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_it_says_what_a_launch_would_do_and_makes_nothing(file: Path, tmp_path: Path) -> None:
    """Trials, what varies, the space, the name, the store, cost by stage, time, disk; no home, no Ray, no MLflow."""
    code = (
        "import sys; from eed_search.cli.app import app; app(sys.argv[1:], standalone_mode=False);"
        " print(sorted({'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = python(code, "launch", file, "--home", tmp_path / "home", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert lines[0] == f"Dry run of {file}: nothing is started, nothing is written"
    assert "  search    3 trials (random), no baselines" in lines
    assert "  varies    num_members, beta, omega, gamma, gate_threshold" in lines
    assert "space     2 members, 2 teams of them, whatever the loss weights and the gate" in lines
    assert "rungs     members and joint: one trial in 3 goes on at once, the others wait" in lines
    assert f"run       small-1 (free) in {tmp_path / 'home'}" in lines
    assert "store     holds nothing of this search yet" in lines
    stages = [line.split("  ")[1] for line in lines if line.startswith("  ") and line[2:3].isalpha()]
    assert stages[-6:] == ["base", "scores", "members", "joint fine-tuning", "attacks", "latency"]
    assert any(line.startswith("time      ") for line in lines)
    assert any(line.startswith("disk      ") and "GB are free" in line for line in lines)
    assert set(tmp_path.iterdir()) == {file}


def test_a_home_is_byte_identical_afterwards(file: Path, tmp_path: Path) -> None:
    """With a store whose base is there, an altered artifact, a ledger and a run's lock nothing is touched.

    The name is taken, so after the forecast it ends as a launch would: with the refusal and exit code 7.
    """
    from eed_search.pipeline.context import StageContext
    from eed_search.pipeline.training import dense_base, scores_stage
    from eed_search.storage.store import Store

    home = tmp_path / "home"
    shop = StageContext(load(file), Store(home / "store"), lambda text: None)
    base, _ = dense_base(shop)
    scores = scores_stage(shop, "erm", base).made_in(shop.store)
    (home / "store" / "scores.1" / scores.key / "meta.json").write_text('{"altered": 1}')
    (home / "mine").mkdir()
    (home / "mine" / "driver.lock").touch()
    with Ledger(home / "mine" / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": "mine", "spec": load(file).to_plain()})
        ledger.append("proposal", {"params": {}}, 0)
    before = _state(home)
    result = _dry(file, home, "--name", "mine")
    assert "store     holds 1 of 1 base, 0 of 1 scores, 0 of 2 members" in result.stdout.splitlines()
    assert _state(home) == before
    assert (
        "run       mine is there already (interrupted, 0 of 3 trials finished); a launch would be refused; a resume"
        " would run 1 again and 2 more"
    ) in result.stdout.splitlines()
    assert "time      " in result.stdout
    assert result.exit_code == 7
    assert result.stderr.startswith("error: --name mine: ")
    assert "resume it with `eed-search resume mine`" in result.stderr


def test_json_holds_the_same_for_programs(file: Path, tmp_path: Path) -> None:
    """One object on stdout, both ends of every figure; notes of `--set` in it."""
    result = _dry(file, tmp_path / "home", "--json", "--trials", 5)
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["trials"] == 5
    assert found["run"] == {"name": "small-1", "state": "free", "num_ended": 0, "num_again": 0, "num_trials": 0}
    assert found["rungs"] == ["members", "joint"]
    assert found["space"] == {"members": 2, "teams": 2}
    assert found["store"]["base"] == {"there": 0, "of": 1}
    total = found["wall_s"]["total"]
    parts = [found["wall_s"][part] for part in ("base", "baselines and trials", "finals")]
    assert 0 < total["low"] <= total["high"]
    assert total["high"] == pytest.approx(sum(part["high"] for part in parts))
    assert {stage["stage"] for stage in found["stages"]} >= {"base", "members", "attacks"}
    assert found["slots"] == usable_cores()
    assert 0 < found["disk_bytes"]["ledger"] < found["disk_bytes"]["run"]


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--set", "serch.trials=3"), 3, "error: 1 mistake; nothing was started"),
        (("--name", "../x"), 7, "error: --name ../x: is not allowed"),
        (("--set", "resources.cpu=1000"), 3, "is more than this machine has"),
        (("--set", "data.num_validation=1700"), 4, "images asked for, the source has 1797"),
    ],
)
def test_mistakes_end_as_those_of_a_launch_do(
    file: Path, tmp_path: Path, more: tuple[str, ...], code: int, words: str
) -> None:
    """The same message and exit code, and no home."""
    result = _dry(file, tmp_path / "home", *more)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert not (tmp_path / "home").exists()


def test_data_that_would_be_downloaded_are_asked_for(file: Path, tmp_path: Path) -> None:
    """A launch would fetch CIFAR-10; a dry run says so and fetches nothing."""
    (tmp_path / "data").mkdir()
    result = _dry(file, tmp_path / "home", "--set", "data.source=cifar10", "--data", tmp_path / "data")
    assert result.exit_code == 4
    assert "a launch would download it there" in result.stderr
    assert list((tmp_path / "data").iterdir()) == []


def test_json_alone_is_wrong_use(file: Path, tmp_path: Path) -> None:
    """A launch prints its progress; nothing is started."""
    result = call("launch", file, "--home", tmp_path / "home", "--json")
    assert result.exit_code == 2
    assert "goes with --dry-run" in result.stderr
    assert not (tmp_path / "home").exists()
