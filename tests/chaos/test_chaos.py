"""Sixteen faults, each provoked for real: `benchmarks/chaos.py`, which also writes docs/chaos.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import chaos
from tests.cli.calling import ROOT, environment

pytestmark = pytest.mark.timeout(3600)


def provoked(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a process of its own: it may mount small disks in a namespace of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "--home", str(home), *words]
    return subprocess.run(command, cwd=home.parent, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.whole
def test_the_quick_ones_are_fine(tmp_path: Path) -> None:
    """Those that need not be waited for; full disks only where small ones can be mounted."""
    done = provoked(tmp_path / "home", "--quick")
    assert "not provoked" not in done.stdout or os.geteuid() != 0, done.stdout
    assert (done.returncode in (0, 3), done.stderr) == (True, ""), done.stdout


@pytest.mark.slow
def test_all_are_fine(tmp_path: Path) -> None:
    """All sixteen, under Ray."""
    done = provoked(tmp_path / "home", "--out", str(tmp_path / "table.md"))
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count("\n| ") == 18


def test_the_table_says_what_is_not_fine() -> None:
    """A row with a problem, one that could not be provoked, and one that is fine."""
    rows = [
        chaos.Row(chaos.FAULTS[0], ("trial 3 is lost", "it is failed"), "", 2.0),
        chaos.Row(chaos.FAULTS[2], (), "needs root", 0.0),
        chaos.Row(chaos.FAULTS[3], (), "", 4.0),
    ]
    lines = [line for line in chaos.table(rows).splitlines() if line.startswith(("| 1 ", "| 3 ", "| 4 "))]
    ends = ["trial 3 is lost; it is failed | 2 |", "not provoked: needs root | 0 |", "fine | 4 |"]
    assert [line.endswith(end) for line, end in zip(lines, ends, strict=True)] == [True] * 3
    assert "1 of 3 are fine" in chaos.table(rows)


def test_there_are_sixteen() -> None:
    """Numbered from 1, each with what must come of it."""
    assert [one.number for one in chaos.FAULTS] == list(range(1, 17))
    assert all(one.wanted for one in chaos.FAULTS)
