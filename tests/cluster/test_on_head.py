"""What is looked at on a cluster's head before a command runs there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from eed_search.cli.on_head import problems

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def client(**changed: Any) -> dict[str, Any]:
    """What a laptop says of itself."""
    return {"python": PYTHON, "requires": ["ray>=2", "torch>=2 ; python_version > '3'"], **changed}


def test_a_cluster_that_fits_has_no_problem(tmp_path: Path) -> None:
    """The home is made, and nothing is left in it."""
    assert problems(client(), tmp_path / "runs") == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_another_python_is_named(tmp_path: Path) -> None:
    """Both versions."""
    (line,) = problems(client(python="3.99"), tmp_path)
    assert line.startswith(f"Python {PYTHON} on the cluster, 3.99 where you are")


def test_libraries_that_are_missing_or_too_old_are_named_with_the_command(tmp_path: Path) -> None:
    """All at once."""
    needs = ["ray>=99", "no-such-thing", "other ; python_version < '3'"]
    (line,) = problems(client(requires=needs), tmp_path)
    assert "the cluster lacks ray>=99, no-such-thing" in line
    assert "`pip install 'ray>=99' 'no-such-thing'`" in line


@pytest.mark.parametrize("home", ["/proc/none/runs", "/dev/null/runs"])
def test_a_home_that_cannot_be_written_is_named(home: str) -> None:
    """With the option that gives another one."""
    (line,) = problems(client(), Path(home))
    assert line.startswith(f"{home}: cannot be written on the cluster's head")
    assert "--home /mnt/shared/runs" in line
