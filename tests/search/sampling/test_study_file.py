"""The study's file: it shows what the study in memory holds, whatever stood in it before and whoever is killed."""

from __future__ import annotations

import sqlite3
import threading
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from eed_search.search.sampling.study import STUDY_FILE, close_study, open_study, own_trials, rebuild_study
from eed_search.search.sampling.study_file import StudyInFile
from eed_search.search.sampling.trial_queue import TrialQueue
from tests.search.sampling.test_study import Ledger, contents, prefix, spec_of, undisturbed, work
from tests.waiting import until


def shown(path: Path) -> dict[int, Any]:
    """What somebody else reads in the file."""
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{path}")
    try:
        return contents(study)
    finally:
        close_study(study)


@pytest.mark.parametrize("sampler", ["portfolio", "nsga2", "qmc"])
def test_the_file_shows_what_memory_holds(tmp_path: Path, sampler: str) -> None:
    """After a whole search; parents of a generation too."""
    _, held = undisturbed(tmp_path / "whole", spec_of(sampler))
    assert shown(tmp_path / "whole" / STUDY_FILE) == held


def test_the_file_follows_while_trials_run(tmp_path: Path) -> None:
    """A trial that is out is RUNNING in it, with what was drawn, before anybody closes it."""
    path = tmp_path / STUDY_FILE
    study = open_study(path, "s", spec_of("random"))
    trial_queue = TrialQueue(study, spec_of("random"))
    trial_queue.propose()
    until(lambda: path.exists() and _states(path)[:1] == ["RUNNING"])
    assert shown(path)[0][2] == own_trials(study)[0].params
    trial_queue.close()
    close_study(study)
    assert _states(path)[0] == "PRUNED"


def test_what_was_written_half_way_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is brought up to date when a trial has begun and when it has ended, at once instead of by its thread."""
    changed = StudyInFile._changed

    def at_once(self: StudyInFile, trial_id: int) -> None:
        changed(self, trial_id)
        trial = self.get_trial(trial_id)
        if self._thread is not None and (not trial.params or trial.state.is_finished()):
            self._try()

    def only_close(self: StudyInFile) -> None:
        self._over.wait()
        assert self._file is not None
        self._file.close()

    monkeypatch.setattr(StudyInFile, "_changed", at_once)
    monkeypatch.setattr(StudyInFile, "_work", only_close)
    _, held = undisturbed(tmp_path / "whole", spec_of("portfolio", 6))
    assert shown(tmp_path / "whole" / STUDY_FILE) == held


def _states(path: Path) -> list[str]:
    database = sqlite3.connect(path)
    try:
        return [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]
    except sqlite3.Error:
        return []  # its tables are being made
    finally:
        database.close()


@pytest.mark.parametrize(
    ("cut", "sampler"),
    [
        (3, "portfolio"),
        *(
            pytest.param(*one, marks=pytest.mark.whole)
            for one in product((3, 9, 14, 22), ("portfolio", "nsga2", "random"))
            if one != (3, "portfolio")
        ),
    ],
)
def test_a_killed_searchs_file_is_brought_up_to_date(tmp_path: Path, sampler: str, cut: int) -> None:
    """The file of a longer time than the ledger tells of, of the same, and of a shorter one."""
    spec = spec_of(sampler)
    whole, _ = undisturbed(tmp_path / "whole", spec)
    path = tmp_path / STUDY_FILE
    for num_events in (cut, cut + 4, cut - 3):
        close_study(rebuild_study(prefix(whole, num_events), spec, path))
        held = rebuild_study(prefix(whole, cut), spec, path)
        close_study(held)
        assert shown(path) == contents(held)
        assert {file.name for file in tmp_path.iterdir()} == {"whole", STUDY_FILE}


def test_what_stands_there_already_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume after a kill: the file of the killed driver goes on."""
    spec = spec_of("portfolio")
    whole, _ = undisturbed(tmp_path / "whole", spec)
    path = tmp_path / STUDY_FILE
    close_study(rebuild_study(prefix(whole, 20), spec, path))
    before = path.stat().st_ino
    close_study(rebuild_study(prefix(whole, 21), spec, path))
    assert path.stat().st_ino == before


@pytest.mark.parametrize("damage", ["garbage", "empty", "another study"])
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: str) -> None:
    spec = spec_of("random")
    whole, held = undisturbed(tmp_path / "whole", spec)
    path = tmp_path / STUDY_FILE
    if damage == "another study":
        close_study(open_study(path, "other", spec))
    else:
        path.write_bytes(b"" if damage == "empty" else b"no database, but long enough to be taken for one " * 50)
    close_study(rebuild_study(whole.view, spec, path))
    assert shown(path) == held


def test_a_file_that_cannot_be_written_holds_nobody_up(tmp_path: Path) -> None:
    """Its folder is a file: trials are proposed and told all the same, and the end says what is lacking."""
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("a file")
    spec, ledger = spec_of("random"), Ledger()
    study = open_study(nowhere / STUDY_FILE, "s", spec)
    work(TrialQueue(study, spec, on_proposal=ledger.proposal), ledger)
    assert len(ledger.view.trials) == spec.search.trials
    assert close_study(study) != ""


def test_room_that_is_made_is_used(tmp_path: Path) -> None:
    """The file could not be written for a while: in the end it lacks nothing."""
    later = tmp_path / "later"
    spec, ledger = spec_of("random"), Ledger()
    study = open_study(later / STUDY_FILE, "s", spec)
    storage = study._storage
    assert isinstance(storage, StudyInFile)
    trial_queue = TrialQueue(study, spec, on_proposal=ledger.proposal)
    assert trial_queue.propose() is not None
    until(lambda: storage.problem)
    later.mkdir()
    trial_queue.again(0)
    work(trial_queue, ledger)
    assert close_study(study) == ""
    assert shown(later / STUDY_FILE) == contents(study)


def test_closing_ends_its_thread(tmp_path: Path) -> None:
    close_study(open_study(tmp_path / STUDY_FILE, "s", spec_of("random")))
    assert "study's file" not in {thread.name for thread in threading.enumerate()}


def test_a_study_that_is_in_the_file_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / STUDY_FILE
    _, held = undisturbed(tmp_path / "whole", spec_of("nsga2"))
    (tmp_path / "whole" / STUDY_FILE).rename(path)
    again = open_study(path, "s", spec_of("nsga2"))
    close_study(again)
    assert contents(again) == held == shown(path)
    assert TrialState.WAITING not in {trial.state for trial in again.trials}
