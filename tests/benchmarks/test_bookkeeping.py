"""The benchmark of the bookkeeping: it runs, and says what does not hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bookkeeping import Driven, problems, table
from tests.waiting import HANGS_S

ROOT = Path(__file__).parents[2]


def driven(what: str, first_s: float = 5.0, close_s: float = 3.0, memory_mib: float = 400.0) -> Driven:
    return Driven(what, 100, first_s, 60.0, 9.0, close_s, True, memory_mib)


def test_what_does_not_hold_is_said() -> None:
    assert problems([driven("fresh"), driven("resume", first_s=9.9)]) == []
    assert problems([driven("fresh"), driven("resume", first_s=10.5, close_s=61.0, memory_mib=512.0)]) == [
        "resume: MLflow took 61 s after the end",
        "resume: 512 MiB",
        "resume: its first trial begins 5.5 s later than in a fresh launch",
    ]


def test_all_lines_of_the_table_are_of_one_width() -> None:
    assert len({len(line) for line in table([driven("fresh"), driven("resume", 123.4)]).splitlines()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("racing", [[], ["--racing"]])
def test_a_few_trials_run_through(tmp_path: Path, racing: list[str]) -> None:
    """Whatever it finds: MLflow has everything of both drivers."""
    out = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "bookkeeping.py"), "--smoke", "--out", str(out), *racing]
    subprocess.run(command, cwd=ROOT, timeout=HANGS_S, check=False, stdout=subprocess.PIPE)
    found = json.loads(out.read_text())["drivers"]
    assert [one["what"] for one in found] == ["fresh", "resume"]
    assert all(one["complete"] for one in found)
