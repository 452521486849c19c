"""One search from its file to its frontier: claim the folder, prepare, run the trials, check the frontier.

    claim HOME/NAME → workers → dense base (whole machine) → baselines and trials side by side
    → finals (whole machine, one at a time, until the frontier is stable) → report → end

The driver's main thread does everything but the trials: it alone writes the ledger. A search that
was interrupted goes through the same phases again (`resume`), and each does only what its ledger
lacks. This module loads neither torch nor Ray; the workers do.
"""

from __future__ import annotations

import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.config.sent_plugins import share
from eed_search.config.spec import Spec
from eed_search.core.errors import EedSearchError, FailureReason, MachineFault, TrialFailure
from eed_search.core.failpoints import fail_point
from eed_search.core.texts import as_utf8
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.frontier.points import stalled
from eed_search.frontier.static_constraints import StaticConstraints, to_facts
from eed_search.runs import requests
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.events import Requested, Resumed, RunDescribed
from eed_search.runs.home import check_home
from eed_search.runs.ledger import FILE_NAME, RESUME, Ledger, RunView
from eed_search.runs.records import Reference, RungResult, TrialRecord, ValidationRound
from eed_search.runs.replicas import Copier, copied
from eed_search.runs.run_folder import check_name, claim, with_absolute_data
from eed_search.runs.run_lock import driving
from eed_search.search import provenance
from eed_search.search.execution.monitor import baseline_label, trial_label
from eed_search.search.execution.workers import Pipeline, Poll, SessionLost, Work, Workers
from eed_search.search.interrupts import Stop, interrupts
from eed_search.search.journal import Journal
from eed_search.search.listener import Listener
from eed_search.search.outcome import (
    FAULT_KEY,
    RUNG_KEY,
    TRACEBACK_KEY,
    failure,
    failure_of,
    out_of_time,
    problem_of,
    record_of,
)
from eed_search.search.racing.incumbents import choose, incumbents_of
from eed_search.search.racing.rung_scheduler import RungScheduler, dominated_record, with_earlier
from eed_search.search.remaining import baselines_to_train, ended_early, work_left
from eed_search.search.revalidation import Mark, RevalidationStep, What, next_step
from eed_search.search.sampling.proposal_cost import Costs
from eed_search.storage.shared_storage import Storage
from eed_search.storage.store import write_atomic
from eed_search.system.machine_faults import fault_in, machine_fault

if TYPE_CHECKING:
    from eed_search.pipeline.search_context import SearchContext
    from eed_search.search.execution.ray_workers import RayWorkers
    from eed_search.search.sampling.trial_queue import TrialQueue
    from eed_search.tracking.mlflow_log import State

RAY_LOG, ERRORS_FOLDER, REPORT_FOLDER = "ray.log", "errors", "report"
MOST_LOSSES = 2  # a trial whose worker is lost is tried again so often
_TICK_S = 0.5
_FINALS: dict[What, str] = {
    "confirm": "attack at its own threshold",
    "final_latencies": "final latency",
    "recheck": "check on fresh images",
}
_SLOWER = 0.1  # by this share may the dense base's latency differ at a resume, unsaid
_CANCEL_PATIENCE_S = 10.0


class _Stopped(Exception):
    """Somebody asked the search to stop."""


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

    The first interrupt (Ctrl-C, SIGTERM) stops it: running trials are ended, what is finished is
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
        view = _Search(spec, folder, pipeline, journal, workers, slots, stop, again, copier).run()
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

    spec: Spec
    folder: Path
    pipeline: Pipeline
    journal: Journal
    workers: Workers
    slots: int
    stop: Stop
    again: ResumeInfo | None = None
    copier: Copier | None = None
    _trial_queue: TrialQueue | None = None
    _last_tick: float = 0.0
    _now: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder.parent

    @property
    def view(self) -> RunView:
        return self.journal.view

    def run(self) -> RunView:
        """Go through the phases; whatever happens, the ledger says how it ended."""
        try:
            self._begin()
            try:
                setting = self._prepare()
                self._trials(setting)
                fail_point("driver.trials_done")
                self._revalidate(setting)
            except _Stopped:
                pass
            self._finish()
        except BaseException as error:
            fault = machine_fault(error)
            self._fail(error, fault)
            if not fault:
                raise
            raise MachineFault(
                f"run {self.folder.name}: {fault}. What is finished is kept and no trial is to blame; then `eed-search"
                f" resume {self.folder.name}` goes on"
            ) from error
        return self.view

    # ------------------------------------------------------------ begin

    def _begin(self) -> None:
        if self.again is not None:
            self._take_up(self.again)
            return
        facts = {
            "versions": provenance.versions(),
            "command": command_line(),
            "machine": provenance.machine(self.workers.num_cpus, self.workers.num_gpus),
        }
        uid = f"{self.folder.name}-{uuid.uuid4().hex[:12]}"
        code = {"code": provenance.code_files()}
        self.journal.append(RunDescribed(self.folder.name, self.spec.to_plain(), facts, str(self.home), uid, code))

    def _take_up(self, again: ResumeInfo) -> None:
        requests.withdraw(self.folder)  # what the last driver did not hear
        self.journal.append(
            Resumed(
                reopened=tuple(again.reopened),
                drift=tuple(again.drift),
                command=command_line(),
                facts={
                    "versions": provenance.versions(),
                    "machine": provenance.machine(self.workers.num_cpus, self.workers.num_gpus),
                },
                origin=None if self.view.base is None else provenance.origin(self.spec),
                spec=self.spec.to_plain() if again.changed else None,
                home=str(self.home) if again.changed else None,
            )
        )
        for note in (*again.notes, *(f"resumed although changed: {line}" for line in again.drift)):
            self.journal.note(note)

    # ------------------------------------------------------------ the dense base

    def _prepare(self) -> SearchContext | None:
        """Get the dense base; none where nothing is left to do that needs it."""
        before = self.view.base
        if before is not None and not work_left(self.view, self.spec):
            self._open_tracker()
            return None
        self._read_data()
        self.journal.stage("dense base")
        opened = False

        def poll() -> None:
            # All that takes seconds: better beside the base's training than after it. A wrong
            # tracking.uri shows before much of it is done.
            nonlocal opened
            if not opened:
                opened = True
                self._open_tracker()
                from eed_search.search.sampling.portfolio import load

                load(self.spec)
            self._poll()

        given = {"spec": self.spec, "store_root": self.home / "store"}
        try:
            setting: SearchContext = self._alone("prepare", given, "dense base", poll)
        except TrialFailure as error:
            if error.reason != "timeout":
                raise
            raise TrialFailure("timeout", f"dense base: {error}") from error
        poll()
        if problem := problem_of(setting.base.measurement):
            raise TrialFailure("diverged", f"dense base: {problem}; take a lower base.lr or base.clip_norm")
        if before is not None:
            return self._as_before(setting, before)
        self._keep(setting)
        return setting

    def _read_data(self) -> None:
        """Read the images first, and say what was read before anything is trained on them."""
        view = self.view
        if "data" in view.facts:
            return
        self.journal.stage("data")
        facts: DataFacts = self._alone(
            "read_data", {"spec": self.spec, "store_root": self.home / "store"}, "data", self._poll
        )
        measured = view.facts | {"data": facts.to_plain()}
        self.journal.data(RunDescribed(view.name, view.spec, measured, view.home, view.uid), facts)

    def _keep(self, setting: SearchContext) -> None:
        measured: dict[str, Any] = {
            "num_classes": setting.num_classes,
            "image_shape": list(setting.image_shape),
            "reference_ms": setting.base.measurement.latency.latency_ms.value,
            "gate_ms": setting.gate_ms,
        }
        if setting.profiles:
            measured["forms"] = to_facts(setting.profiles)
        view = self.view
        # The data's files are hashed now: a source may have been downloaded only just before.
        of = provenance.origin(self.spec)
        self.journal.append(RunDescribed(view.name, view.spec, view.facts | measured, view.home, view.uid, of))
        self.journal.base(setting.base)
        for note in setting.notes:
            self.journal.note(note)

    def _as_before(self, setting: SearchContext, base: Reference) -> SearchContext:
        """Go on with the base and the reference latency that all finished trials were measured against."""
        took, takes = (one.measurement.latency.latency_ms.value for one in (base, setting.base))
        if abs(takes / took - 1) > _SLOWER:
            self.journal.note(
                f"at the resume the dense base took {takes:.4g} ms, at the start {took:.4g} ms; latencies are ratios to"
                " it and stay on the first scale"
            )
        if setting.base.measurement.artifact != base.measurement.artifact:
            self.journal.note("at the resume the dense base was another one than at the start")
        for note in setting.notes:  # such as a base that was altered, and made again
            self.journal.note(note)
        return replace(setting, base=base, gate_ms=self.view.facts.get("gate_ms", setting.gate_ms))

    # ------------------------------------------------------------ baselines and trials

    def _trials(self, setting: SearchContext | None) -> None:
        """Run the baselines and the trials side by side."""
        if setting is None:
            return
        from eed_search.search.sampling.study import STUDY_FILE, close_study, open_study, rebuild_study
        from eed_search.search.sampling.trial_queue import TrialQueue

        self.journal.stage("baselines and trials")
        path = self.folder / STUDY_FILE
        budget = self.spec.search.time_budget_s
        study = (
            open_study(path, self.view.name, self.spec)
            if self.again is None
            else rebuild_study(self.view, self.spec, path)
        )
        racing = self._race()
        try:
            fail_point("study.rebuilt")
            self._trial_queue = TrialQueue(
                study,
                self.spec,
                unfinished={number: self.view.proposals[number] for number in self.view.unfinished()},
                max_concurrent=self.slots,
                deadline=None if budget is None else time.monotonic() + budget - self.journal.used_s,
                on_proposal=self.journal.proposal,
                should_stop=self.stop.is_set,
                enough=lambda: stalled(self.view, self.spec.search.patience),
                cost=Costs(self.view),
                beforehand=StaticConstraints.of(self.view, self.spec),
                racing=racing,
                on_resume=lambda number, rung: self.journal.decision(number, rung, RESUME),
                incumbents=self._incumbents if self.spec.search.image_racing else None,
            )
            baselines = baselines_to_train(self.view, self.spec)
            work = Work(self.spec, setting, baselines, self._trial_queue, self.folder, 1 + self.view.num_resumes)
            try:
                self.workers.side_by_side(self.pipeline, work, self)
                if not self.stop.is_set():
                    self._settle_waiting(self._trial_queue)
            finally:
                self._trial_queue.close()
        finally:
            behind = close_study(study)
        if behind:
            self.journal.note(f"{STUDY_FILE} could not be written ({behind}); a resume makes it again")
        self._close_open_trials()
        self._raise_if_stopped()

    def _settle_waiting(self, trial_queue: TrialQueue) -> None:
        """End the trials that still wait: others are surely better, or the time was over and nobody has judged them."""
        judged = not trial_queue.out_of_time
        for number in trial_queue.paused():
            params = self.view.proposals[number]
            self._settle(dominated_record(number, self.view) if judged else out_of_time(number, params))

    def _race(self) -> RungScheduler | None:
        """Make the race from the ledger; a decision that was taken and not written down any more is written now."""
        if not self.spec.search.racing:
            return None
        racing = RungScheduler.replay(self.view, self.spec.search.eta)
        waiting = set(racing.paused())
        for number in self.view.unfinished():
            reports = self.view.reports.get(number)
            if reports and not reports[-1].decision:
                self.journal.decision(number, reports[-1].rung, "pause" if number in waiting else "continue")
        return racing

    def _incumbents(self, number: int) -> tuple[Incumbent, ...]:
        """Say whom a trial is held against, image by image: those of its first time, if it was cut off."""
        kind = self.spec.search.latency_objective
        if number not in self.view.incumbents:
            self.journal.incumbents(number, choose(self.view, kind))
        return incumbents_of(self.view, self.view.incumbents[number], kind)

    def on_attempt(self, number: int) -> None:
        """A trial starts."""
        self.journal.attempt(number)

    def on_end(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial came to a rung or its end, or was stopped."""
        if fault := (result or {}).get(FAULT_KEY):
            raise MachineFault(fault)
        if (reading := (result or {}).get(RUNG_KEY)) is not None:
            self._at_rung(number, reading)
            return
        if trace := (result or {}).get(TRACEBACK_KEY):
            self._keep_traceback(trial_file(number), str(trace))
        self._settle(record_of(number, self.view.proposals[number], result))

    def _at_rung(self, number: int, reading: RungResult) -> None:
        """Write down what a trial measured on its way, and whether it goes on."""
        if self._trial_queue is None:
            return
        self.journal.report(number, reading)
        fail_point("race.decide")
        verdict = self._trial_queue.report(number, self.view.reports[number][-1])
        self.journal.decision(number, reading.rung, verdict)

    def on_lost(self, number: int, reason: FailureReason, message: str, trace: str) -> None:
        """A trial's worker is gone: only the infrastructure's fault is a reason to try again."""
        if self.stop.is_set():
            return  # closed with all the others
        if fault := fault_in(trace or message):
            raise MachineFault(fault)
        if trace:
            self._keep_traceback(trial_file(number), trace)
        if reason == "infrastructure" and self.view.losses.get(number, 0) < MOST_LOSSES:
            self.journal.lost(number, message)
            if self._trial_queue is not None:
                self._trial_queue.again(number)
            return
        self._settle(failure(number, self.view.proposals[number], reason, message))

    def _settle(self, record: TrialRecord) -> None:
        """Write a trial's end down, then tell Optuna."""
        record = with_earlier(record, self.view.reports.get(record.number, ()))
        self.journal.result(record)
        fail_point("study.tell")
        if self._trial_queue is not None:
            self._trial_queue.tell(record)

    def on_baseline(self, size: float, baseline: Reference | BaseException) -> None:
        """A baseline ended."""
        label = baseline_label(size)
        if isinstance(baseline, BaseException):
            if fault := machine_fault(baseline):
                raise MachineFault(fault) from baseline
            self._keep_traceback(f"{label.replace(' %', '').replace(' ', '-')}.txt", str(baseline))
            self.journal.note(f"{label} failed ({failure_of(baseline)[1]})")
        elif problem := problem_of(baseline.measurement):
            self.journal.note(f"{label} failed ({problem})")
        else:
            self.journal.baseline(baseline)

    def on_stuck(self, who: str, seconds: float, stopped: str) -> None:
        """A trial, a baseline, the base or a final makes no progress; a process that stands still writes no stacks."""
        more = stopped or ("errors/ holds its stacks" if who.startswith("trial ") else "")
        self.journal.note(
            f"{who}: no progress for {seconds:.0f} s, half of search.trial_timeout_s{f'; {more}' if more else ''}"
        )

    def on_step(self) -> None:
        """Some time has passed."""
        self._tick()

    def stopping(self) -> bool:
        """Whether everything is to end."""
        return self.stop.is_set()

    # ------------------------------------------------------------ finals

    def _revalidate(self, setting: SearchContext | None) -> None:
        """Choose the frontier and check it, alone on the machine, one measurement or decision after the other."""
        if setting is None:
            return
        self.journal.stage("finals")
        tried: set[Mark] = set()
        together = True
        while (one := next_step(self.view, tried, together=together)) is not None:
            if isinstance(one, ValidationRound):
                fail_point("finals.look")
                self.journal.look(one)
                continue
            done = self._revalidate_one(one, setting)
            if done or len(one.finalists) == 1:
                tried |= one.marks()
            else:
                together = False  # so that the one that cannot be timed is found

    def _revalidate_one(self, one: RevalidationStep, setting: SearchContext) -> bool:
        """Do one thing and keep what it found; False if it failed."""
        name = _FINALS[one.what]
        self._now = {one.who: name}
        try:
            given = one.arguments() | {"setting": setting}
            found = self._alone(one.what, given, one.who, self._poll)
        except (_Stopped, SessionLost):
            raise
        except Exception as error:
            if fault := machine_fault(error):
                raise MachineFault(fault) from error
            stands = "the search's figure stands" if len(one.finalists) == 1 else "one by one now"
            self.journal.note(f"{one.who}: no {name}, {stands} ({failure_of(error)[1]})")
            return False
        finally:
            self._now = {}
        for finalist, value in zip(one.finalists, found if isinstance(found, list) else [found], strict=True):
            if problem := problem_of(value):
                self.journal.note(f"{finalist.id}: no {name}, the search's figure stands ({problem})")
            else:
                self.journal.final(finalist.id, value, one.chose_from)
        return True

    # ------------------------------------------------------------ waiting, progress

    def _alone(self, what: str, given: Mapping[str, Any], who: str, poll: Poll) -> Any:
        """Call one function of the pipeline with the whole machine, and end it if it hangs."""
        limit_s = self.spec.search.trial_timeout_s
        return self.workers.alone(
            self.pipeline, what, given, who=who, poll=poll, limit_s=limit_s, on_stuck=self.on_stuck
        )

    def _poll(self) -> None:
        self._tick()
        self._raise_if_stopped()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._last_tick < _TICK_S:
            return
        self._last_tick = now
        self._hear()
        if self.copier:
            self._look_at_copies(self.copier)
        over = {trial_label(number) for number in self.view.trials}
        stages = self._now | {
            who: f"{self._now[who]}, {text}" if who in self._now else text
            for who, text in self.workers.stages().items()
        }
        self.journal.tick({who: text for who, text in stages.items() if who not in over})

    def _hear(self) -> None:
        """Take in what was asked for from outside."""
        if (wish := requests.asked(self.folder)) is None:
            return
        self.journal.append(Requested(wish))
        requests.withdraw(self.folder)
        self.stop.set(wish)

    def _look_at_copies(self, copier: Copier) -> None:
        """Take in what became of the copies on shared storage."""
        if note := copier.take_note():
            self.journal.note(note)
        if copier.lost and not self.stop.is_set():
            self.journal.note("shared storage says that another machine took this search over; this one ends")
            self.stop.set("another machine took it over")

    def _raise_if_stopped(self) -> None:
        if self.stop.is_set():
            raise _Stopped

    # ------------------------------------------------------------ the end

    def _close_open_trials(self) -> None:
        for number in self.view.unfinished():
            self.journal.result(record_of(number, self.view.proposals[number], None))

    def _open_tracker(self) -> None:
        from eed_search.tracking.mlflow_log import MlflowTracker

        self.journal.open_tracker(MlflowTracker(self.spec, self.home, self.view.name, self.view.uid))

    def _finish(self) -> None:
        state: State = "finished"
        if self.stop.is_set():
            state = "cancelled" if self.stop.cause == "cancel" else "stopped"
        folder = None
        fail_point("driver.report")
        if self.view.base is not None and state != "cancelled":
            from eed_search.tracking.report import write_report
            from eed_search.tracking.summary import summarise

            self.journal.stage("report")
            folder = self.folder / REPORT_FOLDER
            write_report(summarise(replace(self.view, state=state)), folder)
        patience = {"patience_s": _CANCEL_PATIENCE_S} if state == "cancelled" else {}
        self.journal.close_tracker(state, folder, **patience)
        self.journal.end(state, self.stop.cause or ended_early(self.view, self.spec))

    def _fail(self, error: BaseException, fault: str = "") -> None:
        """Write down why the search broke, as far as that can be written; the error itself goes on to the caller."""
        reason = fault or (str(error) if isinstance(error, EedSearchError) else failure_of(error)[1])
        state: State = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        if not isinstance(error, SessionLost):  # which is no end of any trial
            with suppress(Exception):
                self._close_open_trials()
        with suppress(Exception):
            self.journal.close_tracker(state, None, _CANCEL_PATIENCE_S)
        with suppress(Exception):
            self.journal.end(state, reason)

    def _keep_traceback(self, file: str, text: str) -> None:
        write_atomic(self.folder / ERRORS_FOLDER / file, text.encode("utf-8", "backslashreplace"))


def trial_file(number: int) -> str:
    """Name the file in `errors/` that holds a trial's traceback."""
    return f"trial-{number}.txt"
