"""Resume: take a run up again after a kill, a stop or a failure, as the search that was begun.

The ledger says what is finished; nothing is unpickled and no time stamp is trusted. Optuna's study is
made again, trials without an end are handed out first (the same number and parameters, one attempt
more), and whatever they had finished is read from the store.

Refused, with the difference, if the stored search-space file, the data, our code or the processor
changed since: the finished trials could not stand beside the new ones. How long a search lasts
(`FREE` keys) may change. More trials are refused where the time budget or the patience would let none begin.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eed_search.config import plugins
from eed_search.config.loader import load, parse, read_table, to_text
from eed_search.config.sent_plugins import bring
from eed_search.config.spec import SharedStorage, Spec
from eed_search.core.errors import EedSearchError, RunError, SpecError
from eed_search.runs.events import Requested, Tracked
from eed_search.runs.home import SPACE_FILE
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.moved import path_now
from eed_search.runs.run_folder import with_absolute_data
from eed_search.runs.run_lock import driving
from eed_search.search import provenance
from eed_search.search.driver import ResumeInfo, drive, ray_workers
from eed_search.search.execution.workers import LocalWorkers, Pipeline, Workers
from eed_search.search.interrupts import interrupts
from eed_search.search.journal import Journal
from eed_search.search.listener import Listener, Silent
from eed_search.search.outcome import record_of
from eed_search.search.remaining import ended_early, to_reopen, work_left
from eed_search.storage.store import write_atomic
from eed_search.system.private import clear_leftovers

_PATIENCE_S = 30.0
FREE = (
    "search.trials",
    "search.time_budget_s",
    "search.patience",
    "search.trial_timeout_s",
    "search.front_probability",
    "storage.url",
)
_LENGTH = ("trials", "time_budget_s", "patience")  # keys of `search`: who changes one wants more trials


def resume(
    folder: Path,
    *,
    pipeline: Pipeline,
    listener: Listener,
    trials: int | None = None,
    allow_drift: bool = False,
    force: bool = False,
    storage: str | None = None,
    workers: Workers | None = None,
) -> RunView:
    """Take a run up again, and bring it to its end.

    Args:
        folder: The run's.
        pipeline: What one trial does.
        listener: Told of everything from here on.
        trials: Trials in all, instead of what the run's file says; a finished run is extended so.
        allow_drift: Go on although something changed; what, is written down.
        force: Take up a run that was cancelled.
        storage: URL of the shared storage, instead of what the run's file says.
        workers: Where trials run; Ray on this machine by default.

    Returns:
        The run as its ledger tells it.

    Raises:
        RunError: If it still runs, has nothing left to do, was cancelled, or something changed.
        SpecError: If the run's own search-space file is wrong by now, or its data are gone.
    """
    folder = folder.expanduser().resolve()
    with ExitStack() as stack:
        stack.enter_context(driving(folder))
        clear_leftovers()
        view = _read(folder)
        _bring_plugins(folder, view, storage)
        spec = _asked(stored_spec(folder, view), view, trials, storage)
        _check_state(view, spec, force, folder)
        left = work_left(view, spec)
        drift = changes(view, spec) if left else []
        if drift and not allow_drift:
            raise RunError(
                f"run {view.name}: cannot go on as it was begun, because something changed since:\n"
                + "".join(f"  {line}\n" for line in drift)
                + "Put it back; or launch under another name, which reuses every finished stage that still fits; or"
                f" accept it: `eed-search resume {view.name} --allow-drift`"
            )
        there = workers or (stack.enter_context(ray_workers()) if left else LocalWorkers())
        stop = stack.enter_context(interrupts())
        there.slots(spec.resources)
        changed = spec.to_plain() != _begun_with(view)
        if changed or not (folder / SPACE_FILE).exists():
            write_atomic(folder / SPACE_FILE, to_text(spec).encode("utf-8", "backslashreplace"), private=True)
        if not view.name:  # killed before its first event
            return drive(spec, folder, pipeline, listener, there, stop)
        notes = provenance.version_notes(view.facts) if left else []
        again = ResumeInfo(tuple(to_reopen(view, spec)), tuple(drift), tuple(notes), changed)
        return drive(spec, folder, pipeline, listener, there, stop, again)


def _read(folder: Path) -> RunView:
    """Read a run; one that was killed before it wrote anything is empty.

    Raises:
        RunError: If there is none.
    """
    if (folder / SPACE_FILE).is_file():
        Ledger(folder / FILE_NAME, write=True).close()
    return read_run(folder)


def mark_cancelled(folder: Path) -> None:
    """Write down that a run without a driver is cancelled, and close what it left open in Optuna's study and in MLflow.

    Args:
        folder: The run's; one that is cancelled already gets what its MLflow did not take then.

    Raises:
        RunError: If it runs.
    """
    with driving(folder), Ledger(folder / FILE_NAME, write=True) as ledger:
        clear_leftovers()
        journal = Journal(ledger, Silent(), 0, 1)
        view = journal.view
        journal.append(Requested("cancel", offline=True))
        for number in view.unfinished():
            journal.result(record_of(number, view.proposals[number], None))
        _close_views(folder, journal)
        journal.end("cancelled", "cancel")


def _close_views(folder: Path, journal: Journal) -> None:
    """Bring Optuna's study and MLflow to a cancelled run's end; what cannot be told of it is noted."""
    from eed_search.search.sampling.study import STUDY_FILE, close_study, rebuild_study

    view = journal.view
    try:
        spec = stored_spec(folder, view)
        if (folder / STUDY_FILE).exists():
            close_study(rebuild_study(view, spec, folder / STUDY_FILE))
    except EedSearchError as error:
        journal.note(f"{STUDY_FILE} could not be told of the end ({str(error).splitlines()[0]})")
    if not view.name:  # killed before its first event
        return
    from eed_search.tracking.mlflow_log import MlflowTracker

    try:
        spec = stored_spec(folder, view)
        journal.open_tracker(MlflowTracker(spec, folder.parent, view.name, view.uid))
    except EedSearchError as error:
        journal.append(Tracked({"complete": False}))
        journal.note(f"MLflow could not be told of the end ({str(error).splitlines()[0]})")
    journal.close_tracker("cancelled", None, _PATIENCE_S)


def stored_spec(folder: Path, view: RunView) -> Spec:
    """Read a run's own search-space file; where it is gone, what the ledger kept of it.

    Raises:
        SpecError: If it is wrong by now.
    """
    path = folder / SPACE_FILE
    spec = with_absolute_data(load(path) if path.exists() else parse(view.spec, f"run {view.name}"))
    if spec.data.path is None:
        return spec
    there = path_now(spec.data.path, view.home, folder.parent)
    return spec.model_copy(update={"data": spec.data.model_copy(update={"path": there})})


def _bring_plugins(folder: Path, view: RunView, storage: str | None) -> None:
    """Fetch the user's code that the run's file names, where this machine lacks it and shared storage has it.

    Raises:
        StoreError: If the storage cannot be reached, or the code's folder cannot be written here.
    """
    path = folder / SPACE_FILE
    try:
        plain = read_table(path) if path.exists() else dict(view.spec)
    except SpecError:
        return  # whoever reads the file says what is wrong
    own = plain.get("storage")
    bring(plugins.entries(plain), storage or (own.get("url") if isinstance(own, dict) else None))


def changes(view: RunView, spec: Spec) -> list[str]:
    """Say what differs between a run's start and now, one line each; none if it may go on."""
    if not view.name:
        return []
    lines = [
        f"{SPACE_FILE}: {line}"
        for line in provenance.spec_drift(_begun_with(view), spec.to_plain())
        if line.partition(":")[0] not in FREE
    ]
    return lines + provenance.drift(view.facts, view.origin, provenance.origin(spec), spec)


def _begun_with(view: RunView) -> dict[str, Any]:
    """The search-space file that a run was begun with, with the defaults of keys that were not there yet."""
    try:
        return parse(view.spec, f"run {view.name}").to_plain()
    except SpecError:  # file of a version whose keys mean something else
        return view.spec


def _asked(spec: Spec, view: RunView, trials: int | None, storage: str | None) -> Spec:
    """Put what a caller asks for in place of what the run's file says."""
    if trials is not None:
        if trials < (num := len(view.proposals)):
            raise RunError(f"--trials {trials}: run {view.name} has proposed {num} already; give at least that many")
        spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": trials})})
    if storage is not None:
        spec = spec.model_copy(update={"storage": SharedStorage(url=storage)})
    return spec


def _check_state(view: RunView, spec: Spec, force: bool, folder: Path) -> None:
    name, num = view.name, len(view.trials)
    if view.state == "cancelled" and not force:
        raise RunError(
            f"run {name}: was cancelled after {num} trials; `eed-search resume {name} --force` takes it up all the same"
        )
    if view.state != "finished":
        return
    shown = view.tracker.get("complete", True)  # whether MLflow has everything
    unchanged = spec.to_plain() == _begun_with(view)
    if (why := ended_early(view, spec)) and (_wants_more(view, spec) or (unchanged and shown)):
        key = why.partition(" ")[0]
        raise RunError(
            f"run {name}: is finished, with {num} trials, and proposes no more because of {why}. Give {key} a higher value,"
            f" or null, in {folder / SPACE_FILE}, then `eed-search resume {name}`"
        )
    if unchanged and shown:
        raise RunError(
            f"run {name}: is finished, with {num} trials: nothing is left to resume. Add trials with"
            f" `eed-search resume {name} --trials {2 * num}`, or look at it with `eed-search report {name}`"
        )


def _wants_more(view: RunView, spec: Spec) -> bool:
    before, now = (plain.get("search", {}) for plain in (_begun_with(view), spec.to_plain()))
    return any(before.get(key) != now.get(key) for key in _LENGTH)
