"""What a launch would find at its home: by name, without a trace."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from eed_search.config.loader import parse
from eed_search.core.errors import RunError
from eed_search.runs.ledger import FILE_NAME, Ledger
from eed_search.runs.preview import preview, read_untouched
from eed_search.runs.records import TrialRecord, to_json
from eed_search.runs.run_lock import DRIVER_FILE
from eed_search.system.processes import Process, this_process

SPEC = parse({"name": "t", "threat": {"eps": 0.1}, "search": {"trials": 5}}, "t")


def _run(folder: Path, *, ended: str = "", driver: Process | None = None) -> Path:
    """A run with one trial that is finished and one under way."""
    folder.mkdir(parents=True)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": folder.name, "spec": SPEC.to_plain()})
        for number in range(2):
            ledger.append("proposal", {"params": {}}, number)
        ledger.append("result", to_json(TrialRecord(0, {}, "done")), 0)
        if ended:
            ledger.append("end", {"state": ended})
    if driver is not None:
        (folder / DRIVER_FILE).write_text(json.dumps(asdict(driver)))
    return folder


def _bytes(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_the_first_free_name_is_taken(tmp_path: Path) -> None:
    """As a launch counts: the file's name with the first number that is free."""
    assert preview(tmp_path, SPEC, None).name == "t-1"
    (tmp_path / "t-1").mkdir()
    found = preview(tmp_path, SPEC, None)
    assert (found.name, found.state, found.refusal(tmp_path)) == ("t-2", "free", "")


@pytest.mark.parametrize(
    ("ended", "driver", "state", "advice"),
    [
        ("finished", None, "finished", "add trials with `eed-search resume mine --trials N`"),
        ("stopped", None, "stopped", "resume it with `eed-search resume mine`"),
        ("", None, "interrupted", "resume it with `eed-search resume mine`"),
        ("", Process(2**22 + 1, 1), "interrupted", "resume it with `eed-search resume mine`"),
        ("", this_process(), "running", "watch it with `eed-search status mine --watch`"),
    ],
)
def test_a_taken_name_says_how_that_run_stands(
    tmp_path: Path, ended: str, driver: Process | None, state: str, advice: str
) -> None:
    """One finished trial, one that would run again, of five; and what a launch would answer."""
    folder = _run(tmp_path / "mine", ended=ended, driver=driver)
    before = _bytes(tmp_path)
    found = preview(tmp_path, SPEC, "mine")
    assert (found.state, found.num_ended, found.num_again, found.num_trials) == (state, 1, 1, 5)
    assert f"{folder} exists already ({state}); {advice}" in found.refusal(tmp_path)
    assert _bytes(tmp_path) == before


def test_a_folder_that_is_no_search_is_taken_all_the_same(tmp_path: Path) -> None:
    """A launch would not use it."""
    (tmp_path / "mine").mkdir()
    found = preview(tmp_path, SPEC, "mine")
    assert found.state == "no search"
    assert "exists already (no search); choose another --name" in found.refusal(tmp_path)


@pytest.mark.parametrize("name", ["store", "../x", "", "a b", "x" * 65])
def test_a_name_that_is_not_allowed_is_refused(tmp_path: Path, name: str) -> None:
    """In the words of a launch."""
    with pytest.raises(RunError, match="is not allowed; take up to 64 letters"):
        preview(tmp_path, SPEC, name)


def test_a_home_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    """A file where a folder is needed; nothing is tried out."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written \\(Not a directory\\); choose another --home"):
        preview(tmp_path / "file" / "home", SPEC, None)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(RunError, match="Permission denied"):
            preview(tmp_path / "locked" / "home", SPEC, None)


def test_events_that_are_still_in_the_log_are_read(tmp_path: Path) -> None:
    """A driver holds the ledger open: its newest events lie in the write-ahead log."""
    folder = _run(tmp_path / "mine")
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("note", {"text": "new"})
        assert (folder / f"{FILE_NAME}-wal").stat().st_size > 0
        before = _bytes(tmp_path)
        assert read_untouched(folder).notes == ["new"]
        assert _bytes(tmp_path) == before


def test_a_damaged_ledger_is_named_where_it_lies(tmp_path: Path) -> None:
    """Not by its copy."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / FILE_NAME).write_bytes(b"no database, but long enough to be taken for one" * 40)
    with pytest.raises(RunError, match=str(tmp_path / "mine")):
        read_untouched(tmp_path / "mine")
