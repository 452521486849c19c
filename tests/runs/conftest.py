"""A ledger for tests that damage it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_view


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a ledger of some dozens of events, and its copy."""
    return write_ledger(tmp_path_factory.mktemp("whole") / "run", make_view(12))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "run")
