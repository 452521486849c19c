"""The real program: how fast it answers and what it loads."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.calling import ROOT, environment, python
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_view

HEAVY = ("torch", "ray", "mlflow", "optuna", "torchvision", "plotly", "onnxruntime", "sklearn")

LOADED = f"""
import sys
from eed_search.cli.app import app
try:
    app(sys.argv[1:], prog_name="eed-search")
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *[name for name in {HEAVY!r} if name in sys.modules])
"""


def _eed(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eed_search.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.realtime
def test_help_answers_at_once() -> None:
    """It loads little more than what reads the command line; torch would make it ten times as slow."""
    least = min(_computing_s("-c", "import typer, rich.console") for _ in range(3))
    assert min(_computing_s("-m", "eed_search.cli", "--help") for _ in range(3)) < 4 * least


def _computing_s(*arguments: str) -> float:
    """Seconds that a Python computes for, whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(), capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_loads_no_numpy_either() -> None:
    """Only typer and what it needs."""
    result = python(LOADED + "print('numpy' in sys.modules, 'pydantic' in sys.modules)", "--help")
    assert result.stdout.splitlines()[-2:] == ["loaded:", "False False"]


@pytest.mark.parametrize("arguments", [("--help",), ("check", "digits"), ("check", "--help"), ("launch", "--help")])
def test_light_commands_load_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """Neither torch nor Ray, Optuna, MLflow."""
    result = python(LOADED, *arguments)
    assert result.stdout.splitlines()[-1] == "loaded:", result.stderr


def test_report_loads_nothing_heavy(tmp_path: Path) -> None:
    """A result can be read where torch is broken."""
    write_ledger(tmp_path / "one", make_view())
    for arguments in ((), ("--json",)):
        result = python(LOADED, "report", "--home", tmp_path, *arguments)
        assert result.stdout.splitlines()[-1] == "loaded:", result.stderr


def test_mistakes_end_the_process_with_their_code(tmp_path: Path) -> None:
    """The exit code reaches the shell; stdout stays empty."""
    file = tmp_path / "case.yaml"
    file.write_text("name: t\n", encoding="utf-8")
    result = _eed("check", file)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.splitlines()[0].startswith("case.yaml: threat: is missing; give a value")


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """`eed-search report | head -1` prints no traceback."""
    write_ledger(tmp_path / "one", make_view())
    line = f'"{sys.executable}" -m eed_search.cli report --json --home "{tmp_path}" | head -1'
    result = subprocess.run(
        line, shell=True, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert (result.stdout, result.stderr) == ("{\n", "")


def test_the_program_works_from_any_folder(tmp_path: Path) -> None:
    """The packaged files are found wherever the call comes from; nothing is left there."""
    result = _eed("check", "digits", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
def test_doctor_finds_this_machine_ready(tmp_path: Path) -> None:
    """On a machine that runs these tests nothing is wrong; nothing is left in the home."""
    result = python(LOADED, "doctor", "--home", tmp_path)
    assert "WRONG" not in result.stdout
    for what in ("Python", "packages", "processor", "disk", "SQLite", "torch", "torchvision"):
        assert any(line.split(":")[0].split()[-1] == what for line in result.stdout.splitlines()), what
    assert "Ready: start with `eed-search launch`" in result.stdout
    assert result.stdout.splitlines()[-1] == "loaded:"
    assert list(tmp_path.iterdir()) == []
