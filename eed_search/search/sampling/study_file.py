"""Optuna's study in memory, and the SQLite file that shows it, which a thread of its own brings up to date.

SQLite takes tens of milliseconds for a trial, and reads all open ones again for each question: in memory a
question takes microseconds, and neither a proposal nor a resume waits for the file. The file is a view. It may be some
tenths of a second behind, and after a kill is brought up to date from the ledger; what cannot be brought up to date is
written anew, beside the old file until it is whole.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from eed_search.system.modes import make_file

_GATHER_S = 0.3  # a trial changes a dozen times within milliseconds: written once
_PARENTS = ":parent:"  # NSGA-II names the parents of a generation by the storage's own numbers
_QUEUED = "fixed_params"  # how Optuna marks what was asked for; says nothing once a trial has begun


class _Misfit(Exception):
    """What stands in the file cannot become what stands in memory."""


class StudyInFile(InMemoryStorage):
    """Optuna's storage in memory for one study, shown in a file from `show` on.

    Args:
        path: The file.

    Attributes:
        problem: Why the file could not be written when that was tried last; empty if it could.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.problem = ""
        self._path = path
        self._file: _File | None = None
        self._behind: set[int] = set()  # trials that have changed since they were written
        self._news, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def load(self, name: str) -> None:
        """Take up the study of that name that is in the file, if there is one."""
        if not self._path.exists():
            return
        file = _File(self._path, name, None)
        try:
            if not file.found:
                return
            study_id = super().create_new_study(file.directions(), name)
            for _, trial in sorted(file.written.items()):
                super().create_new_trial(study_id, trial)
            for key, value in file.attributes().items():
                super().set_study_system_attr(study_id, key, value)
        finally:
            file.close()

    def show(self) -> None:
        """Bring the file up to date from the next change on: beside a first proposal it would cost that seconds."""
        self._behind = {trial.number for trial in self._trials()}
        self._news.clear()
        self._thread = threading.Thread(target=self._work, name="study's file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Bring the file up to date for the last time, and close it."""
        self._over.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()

    # ------------------------------------------------------------ what changes a study

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial."""
        trial_id = super().create_new_trial(study_id, template_trial)
        self._changed(trial_id)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Keep what was drawn."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        self._changed(trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Keep how a trial is, and its values."""
        done = super().set_trial_state_values(trial_id, state, values)
        self._changed(trial_id)
        return done

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep what we say of a trial."""
        super().set_trial_user_attr(trial_id, key, value)
        self._changed(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep what Optuna says of a trial."""
        super().set_trial_system_attr(trial_id, key, value)
        self._changed(trial_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Keep what Optuna says of the study."""
        super().set_study_system_attr(study_id, key, value)
        self._news.set()

    def _changed(self, trial_id: int) -> None:
        with self._lock:
            self._behind.add(self.get_trial_number_from_id(trial_id))
        self._news.set()

    # ------------------------------------------------------------ the file, in its own thread

    def _work(self) -> None:
        while not self._over.is_set():
            self._news.wait()
            self._over.wait(_GATHER_S)
            self._news.clear()
            self._try()
        self._try()
        if self._file is not None:
            self._file.close()

    def _try(self) -> None:
        """Write what is behind; whatever goes wrong, the search goes on, and all is tried again later."""
        with self._lock:
            behind, self._behind = self._behind, set()
        try:
            self._write(sorted(behind))
            self.problem = ""
        except Exception as error:
            self.problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._file = None
            with self._lock:
                self._behind |= behind

    def _write(self, behind: Sequence[int]) -> None:
        trials = self._trials()
        if self._file is None:
            self._file = self._taken_up(trials) or self._anew(trials)
            behind = range(len(trials))
        try:
            for number in behind:
                self._file.put(trials[number])
        except _Misfit:  # somebody else wrote into it
            self._file.close()
            self._file = self._anew(trials)
        self._file.put_attributes(self._attributes())

    def _taken_up(self, trials: Sequence[FrozenTrial]) -> _File | None:
        """Open the file if what stands in it can become these trials."""
        if not self._path.exists():
            return None
        try:
            file = _File(self._path, self._name(), self.get_study_directions(0))
        except Exception:
            return None  # no study's file, or a damaged one
        if file.fits(trials):
            return file
        file.close()
        return None

    def _anew(self, trials: Sequence[FrozenTrial]) -> _File:
        """Write all of the study into a new file, which takes the old one's place once it is whole."""
        new = self._path.with_name(f".{self._path.name}.new")
        remove_database(new)
        file = _File(new, self._name(), self.get_study_directions(0), only_ours=True)
        try:
            for trial in trials:
                file.put(trial)
            file.put_attributes(self._attributes())
        finally:
            file.close()
        # With the old file go its journals: SQLite would roll them back into the new one.
        remove_database(self._path)
        new.rename(self._path)
        file.open(self._path)
        return file

    def _trials(self) -> list[FrozenTrial]:
        return self.get_all_trials(0, deepcopy=False)

    def _attributes(self) -> Mapping[str, Any]:
        return self.get_study_system_attrs(0)

    def _name(self) -> str:
        return self.get_study_name_from_id(0)


class _File:
    """A study's SQLite file, and what was written into it; used by one thread.

    Args:
        path: The file; made if absent.
        name: The study's.
        directions: Directions of the study, which is made if absent; none only looks for it.
        only_ours: Nobody reads the file before it is closed, so that SQLite may spare its journal.

    Attributes:
        found: Whether the study was there.
        written: What stands in it, by number.
    """

    def __init__(
        self, path: Path, name: str, directions: Sequence[StudyDirection] | None, *, only_ours: bool = False
    ) -> None:
        self._name = name
        self._storage = _relaxed(path, only_ours)
        self.written: dict[int, FrozenTrial] = {}
        self._ids: dict[int, int] = {}
        self._attributes: dict[str, Any] = {}
        try:
            self._study_id, self.found = self._storage.get_study_id_from_name(name), True
        except KeyError:
            self.found = False
            if directions is not None:
                self._study_id = self._storage.create_new_study(directions, name)
            return
        for trial in self._storage.get_all_trials(self._study_id, deepcopy=False):
            self.written[trial.number] = trial
            self._ids[trial.number] = trial._trial_id

    def open(self, path: Path) -> None:
        """Go on with the same file under another name."""
        self._storage = _relaxed(path, False)

    def close(self) -> None:
        """Close it."""
        close_database(self._storage)

    def directions(self) -> list[StudyDirection]:
        """Give the study's directions."""
        return self._storage.get_study_directions(self._study_id)

    def attributes(self) -> dict[str, Any]:
        """Give what Optuna says of the study; trials under their numbers."""
        numbers = {id_: number for number, id_ in self._ids.items()}
        found = self._storage.get_study_system_attrs(self._study_id)
        return {key: [numbers[id_] for id_ in value] if _PARENTS in key else value for key, value in found.items()}

    def fits(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether what stands in the file can become these trials."""
        if not self.found:
            return not self.written
        if len(self.written) > len(trials):
            return False
        return all(_may_become(self.written[number], trials[number]) for number in self.written)

    def put(self, trial: FrozenTrial) -> None:
        """Write a trial as it is now.

        Raises:
            _Misfit: If what stands there cannot become it.
        """
        trial, number = _as_it_is(trial), trial.number
        if number not in self.written:
            self._ids[number] = self._storage.create_new_trial(self._study_id, trial)
        elif not _may_become(before := self.written[number], trial):
            raise _Misfit
        elif _content(before) != _content(trial):
            self._change(self._ids[number], before, trial)
        self.written[number] = trial

    def put_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Write what Optuna says of the study; trials are given by their numbers."""
        for key, value in attributes.items():
            if key not in self._attributes or self._attributes[key] != value:
                theirs = [self._ids[number] for number in value] if _PARENTS in key else value
                self._storage.set_study_system_attr(self._study_id, key, theirs)
                self._attributes[key] = value

    def _change(self, id_: int, before: FrozenTrial, trial: FrozenTrial) -> None:
        if before.state == TrialState.WAITING and trial.state != TrialState.WAITING:
            self._storage.set_trial_state_values(id_, TrialState.RUNNING)
        for name in trial.params.keys() - before.params.keys():
            space = trial.distributions[name]
            self._storage.set_trial_param(id_, name, space.to_internal_repr(trial.params[name]), space)
        for key, value in trial.user_attrs.items():
            if before.user_attrs.get(key) != value:
                self._storage.set_trial_user_attr(id_, key, value)
        for key, value in trial.system_attrs.items():
            if before.system_attrs.get(key) != value:
                self._storage.set_trial_system_attr(id_, key, value)
        if trial.state.is_finished():
            self._storage.set_trial_state_values(id_, trial.state, trial.values)


def close_database(storage: RDBStorage) -> None:
    """Close a storage's file."""
    storage.remove_session()
    storage.engine.dispose()


def remove_database(path: Path) -> None:
    """Remove a SQLite file and its journals."""
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _relaxed(path: Path, only_ours: bool) -> RDBStorage:
    """Open the study's file without waiting for the disk at each of the many small writes.

    A killed process loses nothing by it; after a power cut the study is made again from the ledger.
    """
    from sqlalchemy import URL, event

    make_file(path)
    storage = RDBStorage(URL.create("sqlite", database=str(path)).render_as_string(hide_password=False))
    storage.engine.dispose()  # its first connections do not know the setting yet

    def relax(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")
        if only_ours:
            connection.execute("PRAGMA journal_mode=OFF")

    event.listen(storage.engine, "connect", relax)
    return storage


def _as_it_is(trial: FrozenTrial) -> FrozenTrial:
    """Copy a trial: who draws its parameters writes them into what the storage gave, too."""
    made = copy.copy(trial)
    made.params, made.distributions = dict(trial.params), dict(trial.distributions)
    made.user_attrs, made.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    return made


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """What a reader of the file sees, but for the times."""
    said = {key: value for key, value in trial.system_attrs.items() if key != _QUEUED}
    attributes = json.dumps([trial.user_attrs, said], sort_keys=True)
    return trial.state, trial.values, trial.params, trial.distributions, attributes


def _may_become(before: FrozenTrial, trial: FrozenTrial) -> bool:
    """Whether a trial that was written can have become another one: what has ended stays as it is."""
    if before.state.is_finished():
        return _content(before) == _content(trial)
    if trial.state == TrialState.WAITING:
        same = before.system_attrs.get(_QUEUED) == trial.system_attrs.get(_QUEUED)
        return same and _content(before) == _content(trial)
    said = [(before.params, trial.params), (before.user_attrs, trial.user_attrs)]
    said.append((_said(before), _said(trial)))
    return all(key in now and now[key] == value for then, now in said for key, value in then.items())


def _said(trial: FrozenTrial) -> dict[str, Any]:
    """What Optuna says of a trial; by way of JSON, as the file has it."""
    said: dict[str, Any] = json.loads(json.dumps(trial.system_attrs))
    return {key: value for key, value in said.items() if key != _QUEUED}
