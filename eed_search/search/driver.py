"""One search from its file to its frontier: claim the folder, prepare, run the trials, check the frontier.

    claim HOME/NAME → workers → dense base (whole machine) → baselines and trials side by side
    → finals (whole machine, one at a time, until the frontier is stable) → report → end

The driver's main thread does everything but the trials: it alone writes the ledger. A search that
was interrupted goes through the same phases again (`resume`), and each does only what its ledger
lacks. This module loads neither torch nor Ray; the workers do.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from eed_search.config.sent_plugins import share
from eed_search.config.spec import Spec
from eed_search.core.errors import EedSearchError, MachineFault
from eed_search.core.failpoints import fail_point
from eed_search.core.texts import as_utf8
from eed_search.runs import requests
from eed_search.runs.events import Resumed, RunDescribed
from eed_search.runs.home import check_home
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView
from eed_search.runs.replicas import copied
from eed_search.runs.run_folder import check_name, claim, with_absolute_data
from eed_search.runs.run_lock import driving
from eed_search.search import provenance
from eed_search.search.execution.workers import Pipeline, SessionLost, Workers
from eed_search.search.interrupts import Stop, exit_code, interrupts
from eed_search.search.journal import Journal
from eed_search.search.listener import Listener
from eed_search.search.outcome import failure_of
from eed_search.search.phase_context import PhaseContext, Stopped
from eed_search.search.preparation import prepare
from eed_search.search.remaining import ended_early
from eed_search.search.revalidation_phase import revalidate
from eed_search.search.trial_phase import TrialPhase
from eed_search.storage.shared_storage import Storage
from eed_search.system.machine_faults import machine_fault

if TYPE_CHECKING:
    from eed_search.search.execution.ray_workers import RayWorkers
    from eed_search.tracking.mlflow_log import State

RAY_LOG, REPORT_FOLDER = "ray.log", "report"
_CANCEL_PATIENCE_S = 10.0


@dataclass(frozen=True)
class ResumeInfo:
    """What a driver that takes a run up again changes, as the ledger's `resume` event keeps it.

    Attributes:
        reopened: Trials that ended only because the search was stopped or its time was over: they run again.
        drift: What differs from before and was accepted, one line each.
        notes: What differs and is only said.
        changed: Whether the search-space file is another one now.
    """

    reopened: tuple[int, ...] = ()
    drift: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    changed: bool = False


def run(
    spec: Spec,
    *,
    home: Path,
    name: str | None,
    pipeline: Pipeline,
    listener: Listener,
    workers: Workers | None = None,
) -> RunView:
    """Run a search on this machine, with all its CPUs and GPUs.

    The first interrupt (Ctrl-C, SIGTERM, SIGHUP) stops it: running trials are ended, what is finished is
    kept, timed no further, and reported; the second raises KeyboardInterrupt.

    Args:
        spec: The search.
        home: Everything that is written lies below it; made if absent.
        name: The run's folder below `home`; by default the spec's name with the first free number.
        pipeline: What one trial does.
        listener: Told of everything, in the caller's thread.
        workers: Where trials run; Ray on this machine by default.

    Returns:
        The run as its ledger tells it; `state` is `finished`, `stopped` or `cancelled`.

    Raises:
        RunError: If the name is taken or not allowed, or `home` cannot be written to.
        SpecError: If a trial asks for more than the machine has, or nothing can lie below `home`.
        EedSearchError: What went wrong with the data or the dense base; the ledger's end says so too.
    """
    home = check_home(home).expanduser().resolve()
    spec = with_absolute_data(spec)
    check_name(home, name)
    if spec.storage.url:
        Storage(spec.storage.url).check()
    with ExitStack() as stack:
        there = workers or stack.enter_context(ray_workers())
        stop = stack.enter_context(interrupts())  # after Ray, whose import takes SIGTERM for itself
        if spec.resources.gpu == "auto":
            spec, why = pipeline.share_gpus(spec, there.num_gpus, there.num_cpus)
            listener.on_stage(why)
        there.slots(spec.resources)
        folder = claim(home, spec, name)
        stack.enter_context(driving(folder))
        return drive(spec, folder, pipeline, listener, there, stop)


def drive(
    spec: Spec,
    folder: Path,
    pipeline: Pipeline,
    listener: Listener,
    workers: Workers,
    stop: Stop,
    again: ResumeInfo | None = None,
) -> RunView:
    """Go through the phases of a run whose driver lock is held.

    Args:
        spec: The search.
        folder: The run's.
        pipeline: What one trial does.
        listener: Told of everything.
        workers: Where trials run.
        stop: Set when the search is to end.
        again: What is different this time; none for a run that begins.

    Returns:
        The run as its ledger tells it.
    """
    with ExitStack() as stack:
        from eed_search.search.execution.ray_glue import forget_tune
        from eed_search.search.execution.ray_session import ray_log

        forget_tune(folder)
        stack.enter_context(ray_log(folder / RAY_LOG))
        copier = stack.enter_context(copied(spec, folder))
        if spec.storage.url:
            share(spec.plugins, spec.storage.url)
        ledger = stack.enter_context(Ledger(folder / FILE_NAME, write=True))
        slots = workers.slots(spec.resources)
        journal = Journal(ledger, listener, spec.search.trials, slots)
        context = PhaseContext(spec, folder, pipeline, journal, workers, slots, stop, copier)
        search = _Search(context, again)
        workers.when_stuck(search.give_up)
        view = search.run()
        if copier and (problem := copier.save(folder / REPORT_FOLDER)):
            listener.on_stage(problem)
        return view


@contextmanager
def ray_workers(clock: Callable[[], float] = time.monotonic) -> Iterator[RayWorkers]:
    """Start Ray on this machine for as long as the block lasts.

    Args:
        clock: Seconds by which it is told who hangs.
    """
    from eed_search.search.execution.ray_session import local_ray

    with local_ray() as session:
        from eed_search.search.execution.ray_workers import RayWorkers

        yield RayWorkers(session.machine, clock=clock, watch=session.watch, scratch=session.scratch)


def command_line() -> str:
    """Write the command that started this process."""
    return as_utf8(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


# ---------------------------------------------------------------- the search


@dataclass
class _Search:
    """The phases of one search, in order; `run` is the table of contents."""

    context: PhaseContext
    again: ResumeInfo | None = None

    def run(self) -> RunView:
        """Go through the phases; whatever happens, the ledger says how it ended."""
        stop = self.context.stop
        try:
            self._begin()
            try:
                setting = prepare(self.context)
                TrialPhase(self.context, resumed=self.again is not None).run(setting)
                fail_point("driver.trials_done")
                revalidate(self.context, setting)
            except Stopped:
                pass
            except SessionLost:
                if not stop.is_set():  # else whoever ended the search ended Ray with it
                    raise
            self._finish()
        except BaseException as error:
            fault = machine_fault(error)
            self._fail(error, fault)
            if not fault:
                raise
            raise MachineFault(self._advice(fault)) from error
        return self.context.view

    def give_up(self, lost: str) -> NoReturn:
        """End this process from another thread, while the main one waits for a Ray that is gone.

        Args:
            lost: What is gone.
        """
        cause = self.context.stop.cause
        self._fail(SessionLost(lost), lost)
        goes_on = f"`eed-search resume {self.context.folder.name}` goes on"
        said = f"Stopped by {cause}. What is finished is kept; {goes_on}" if cause else f"error: {self._advice(lost)}"
        print(said, file=sys.stderr, flush=True)
        os._exit(exit_code(cause) if cause else MachineFault.exit_code)

    def _advice(self, fault: str) -> str:
        name = self.context.folder.name
        return f"run {name}: {fault}. What is finished is kept and no trial is to blame; then `eed-search resume {name}` goes on"

    # ------------------------------------------------------------ begin

    def _begin(self) -> None:
        if self.again is not None:
            self._take_up(self.again)
            return
        facts = {
            "versions": provenance.versions(),
            "command": command_line(),
            "machine": provenance.machine(self.context.workers.num_cpus, self.context.workers.num_gpus),
        }
        uid = f"{self.context.folder.name}-{uuid.uuid4().hex[:12]}"
        code = {"code": provenance.code_files()}
        self.context.journal.append(
            RunDescribed(
                self.context.folder.name, self.context.spec.to_plain(), facts, str(self.context.home), uid, code
            )
        )

    def _take_up(self, again: ResumeInfo) -> None:
        requests.withdraw(self.context.folder)  # what the last driver did not hear
        self.context.journal.append(
            Resumed(
                reopened=tuple(again.reopened),
                drift=tuple(again.drift),
                command=command_line(),
                facts={
                    "versions": provenance.versions(),
                    "machine": provenance.machine(self.context.workers.num_cpus, self.context.workers.num_gpus),
                },
                origin=None if self.context.view.base is None else provenance.origin(self.context.spec),
                spec=self.context.spec.to_plain() if again.changed else None,
                home=str(self.context.home) if again.changed else None,
            )
        )
        for note in (*again.notes, *(f"resumed although changed: {line}" for line in again.drift)):
            self.context.journal.note(note)

    # ------------------------------------------------------------ the end

    def _finish(self) -> None:
        state: State = "finished"
        if self.context.stop.is_set():
            state = "cancelled" if self.context.stop.cause == "cancel" else "stopped"
        folder = None
        fail_point("driver.report")
        if self.context.view.base is not None and state != "cancelled":
            from eed_search.tracking.report import write_report
            from eed_search.tracking.summary import summarise

            self.context.journal.stage("report")
            folder = self.context.folder / REPORT_FOLDER
            write_report(summarise(replace(self.context.view, state=state)), folder)
        patience = {"patience_s": _CANCEL_PATIENCE_S} if state == "cancelled" else {}
        self.context.journal.close_tracker(state, folder, **patience)
        self.context.journal.end(state, self.context.stop.cause or ended_early(self.context.view, self.context.spec))

    def _fail(self, error: BaseException, fault: str = "") -> None:
        """Write down why the search broke, as far as that can be written; the error itself goes on to the caller."""
        reason = fault or (str(error) if isinstance(error, EedSearchError) else failure_of(error)[1])
        state: State = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        if isinstance(error, SessionLost) and (cause := self.context.stop.cause):
            state, reason = "stopped", cause
        if not isinstance(error, SessionLost):  # which is no end of any trial
            with suppress(Exception):
                self.context.close_open_trials()
        with suppress(Exception):
            self.context.journal.close_tracker(state, None, _CANCEL_PATIENCE_S)
        with suppress(Exception):
            self.context.journal.end(state, reason)
