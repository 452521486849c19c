"""A search under a simulated clock: the searcher and the scheduler are the very objects that Ray Tune drives.

Nothing is trained and Ray is not started: a trial is an iterator that says how long its next report
takes and what it holds. A search of days runs in seconds, on one machine, the same each time.

The calls come in the order of `TuneController` (read in ray 2.60, `tune/execution/tune_controller.py`):

at the start
    `scheduler.set_search_properties`, without metric and mode; the searcher has a space of its own and is
    not called.

in each step, until nothing changes any more, and then one event
    1. The searcher is asked first, and while fewer than one trial is PENDING (`max_concurrent` of a
       `ConcurrencyLimiter` instead of one, if there is one), whether or not a worker is free:
       `searcher.suggest` → a trial → `scheduler.on_trial_add`.
    2. `scheduler.choose_trial_to_run`, whether or not a worker is free: a PAUSED trial it names becomes
       PENDING, and takes a free worker before all others.
    3. Workers that are still free take the PENDING trials, oldest first: a scheduler cannot hold a
       PENDING trial back, only a PAUSED one. (As with `reuse_actors=True`.)

on a report of a running trial
    `scheduler.on_trial_result` gives a decision; unless that is STOP, `searcher.on_trial_result`; then the
    report becomes `trial.last_result`; then the decision is carried out. STOP marks the report as
    `done`, and calls `scheduler.on_trial_complete` and `searcher.on_trial_complete` with it. PAUSE gives the
    worker back; saving and restoring take no time.

on the end of a trial, or a report that says `done`
    no `on_trial_result`; `scheduler.on_trial_complete`, then `searcher.on_trial_complete`, both with the last
    report, now marked as `done`.

on an exception in a trial
    `scheduler.on_trial_error`, `searcher.on_trial_complete(error=True)`; then the trial is ERROR. It is not
    run again (Tune's default, `max_failures=0`).

when a scheduler calls `controller.stop_trial`
    for a PENDING or PAUSED trial `scheduler.on_trial_remove`, then `searcher.on_trial_complete` without a result;
    for a RUNNING one as on STOP; the work since its last report is lost.

when the time is up (`time_budget_s`)
    all trials are TERMINATED, and neither the searcher nor the scheduler is told.

What differs from Tune: an exception in a scheduler or a searcher is not swallowed but ends the
simulation, and where Tune would wait for ever (all paused, nobody resumes them) the simulation ends as
`stuck`.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from eed_search.core.errors import RunError

Evaluate = Callable[[dict[str, Any]], Iterator[tuple[float, dict[str, Any]]]]
End = Literal["finished", "time", "stuck"]

# Tune asks a searcher that has nothing to propose again and again, ten times a second. Here that is
# repeated this often before an idle search counts as stuck.
_IDLE_STEPS = 100


@dataclass(frozen=True)
class Report:
    """One report of one trial, and what the scheduler made of it.

    Args:
        time: When it came, in the simulation's unit of time.
        number: The trial's; the first is 0.
        config: What the trial was given.
        result: What it reported, as the scheduler saw it: with `training_iteration`, `time_total_s`,
            `trial_id` and `done`.
        decision: CONTINUE, PAUSE, STOP or NOOP. STOP as well for a report that says `done`.
    """

    time: float
    number: int
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    decision: str


@dataclass(frozen=True)
class SimulatedTrial:
    """How one trial ended.

    Args:
        number: The first is 0.
        trial_id: What searcher and scheduler know it by.
        config: What it was given.
        status: Tune's: TERMINATED, ERROR; PENDING or PAUSED only in a search that got stuck.
        busy: Time for which it held a worker.
        num_reports: Reports it made.
        error: What it raised, or none.
    """

    number: int
    trial_id: str
    config: Mapping[str, Any]
    status: str
    busy: float
    num_reports: int
    error: Exception | None


@dataclass(frozen=True)
class Simulation:
    """What happened in a simulated search.

    Args:
        reports: All of them, in the order of the clock; at the same time, in the order of trial numbers.
        trials: In the order in which they were proposed.
        time: When the last thing happened, or `max_time` if the time was up.
        end: `finished`, `time` (was up) or `stuck`: nothing runs, and nobody starts anything.
        seconds: Real seconds that each call of a kind took, by name, such as
            `scheduler.on_trial_result`, `scheduler.choose_trial_to_run` or `searcher.suggest`.
    """

    reports: tuple[Report, ...]
    trials: tuple[SimulatedTrial, ...]
    time: float
    end: End
    seconds: Mapping[str, tuple[float, ...]]

    @property
    def decision_seconds(self) -> tuple[float, ...]:
        """Real seconds that each decision of the scheduler took, in the order of the reports it judged."""
        return self.seconds.get("scheduler.on_trial_result", ())


def simulate(
    searcher: Searcher,
    scheduler: TrialScheduler,
    evaluate: Evaluate,
    *,
    workers: int,
    max_time: float | None = None,
    max_trials: int | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> Simulation:
    """Run a search under a simulated clock; the module says in which order who is called.

    Deterministic: with the same searcher, scheduler and `evaluate`, the same search. Things that happen
    at the same time happen in the order of the trials' numbers.

    Args:
        searcher: Proposes configurations; its `trial_id`s are `00000`, `00001`, …
        scheduler: Decides; sees real `Trial` objects and a controller that can do what schedulers use:
            `get_trials`, `get_live_trials`, `get_trial`, `stop_trial`, `pause_trial`, `search_alg`, `is_finished`.
        evaluate: A trial: for a configuration, an iterator of (time since its last report, flat
            result). The iterator of a paused trial is kept and goes on later; one that ends makes the
            trial TERMINATED, one that raises makes it ERROR, at the time of its last report.
        workers: Trials that run at once, at least 1.
        max_time: Ends the search (Tune's `time_budget_s`); what is reported at that very moment still
            counts. None: no limit.
        max_trials: Ends proposals (Tune's `num_samples`). None: the searcher says when it is finished.
        on_report: Sees each report once its decision has been carried out. What it raises ends the simulation.

    Returns:
        All reports, all trials, and how long each call took.

    Raises:
        RunError: If `workers` is below 1, a duration is negative or not finite, a metric that the
            searcher or scheduler asks for is missing (Tune ends the search as well), the scheduler
            names a trial that is not PENDING or PAUSED, or gives an unknown decision.
    """
    if workers < 1:
        raise RunError(f"simulate: workers: {workers}; at least 1 trial must run at a time; give 1 or more")
    controller = SimulatedController(searcher, scheduler, evaluate, workers, max_trials, on_report)
    return controller.run(max_time)


@dataclass
class _Run:
    """What the clock knows about a trial; Tune's own state is in the `Trial`."""

    number: int
    trial: Trial
    reports: Iterator[tuple[float, dict[str, Any]]] | None = None
    next_report: tuple[float, dict[str, Any]] | Exception | None = None  # drawn, but not yet made
    started: float = 0.0  # when it last got a worker, or last reported
    busy: float = 0.0
    num_reports: int = 0
    error: Exception | None = None
    event: int = -1  # the only event in the queue that still counts


@dataclass
class _SearchAlgorithm:
    """Tune's `SearchGenerator`, as far as schedulers see it."""

    searcher: Searcher
    max_trials: int | None
    num_trials: int = 0
    finished: bool = False

    @property
    def metric(self) -> Any:
        return self.searcher.metric

    def is_finished(self) -> bool:
        return self.finished or (self.max_trials is not None and self.num_trials >= self.max_trials)

    def set_finished(self) -> None:
        self.finished = True


@dataclass
class _Stopwatch:
    """Real seconds of every call, by the call's name."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, owner: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            self.seconds.setdefault(f"{owner}.{method.__name__}", []).append(time.perf_counter() - start)


class SimulatedController:
    """What a scheduler sees in the place of Tune's controller, with the simulated clock.

    Made by `simulate`; the public methods are those that schedulers call.
    """

    def __init__(
        self,
        searcher: Searcher,
        scheduler: TrialScheduler,
        evaluate: Evaluate,
        workers: int,
        max_trials: int | None,
        on_report: Callable[[Report], None] | None,
    ) -> None:
        self.search_alg = _SearchAlgorithm(searcher, max_trials)
        self.scheduler_alg = scheduler
        self.now = 0.0
        self._evaluate = evaluate
        self._workers = workers
        self._on_report = on_report
        self._max_pending = _max_pending(searcher)
        self._watch = _Stopwatch()
        self._trials: list[Trial] = []
        self._live: set[Trial] = set()
        self._unfinished: set[str] = set()
        self._runs: dict[str, _Run] = {}
        self._pending: dict[str, _Run] = {}  # oldest first
        self._running: dict[str, _Run] = {}
        self._events: list[tuple[float, int, int]] = []  # time, trial number, event
        self._num_events = 0
        self._reports: list[Report] = []

    # ------------------------------------------------------------ what schedulers call

    def get_trials(self) -> list[Trial]:
        """Give all trials, in the order in which they were proposed."""
        return self._trials

    def get_live_trials(self) -> set[Trial]:
        """Give the trials that Tune counts as live: all but those that ended in order."""
        return self._live

    def get_trial(self, tid: str) -> Trial | None:
        """Find a trial by its id."""
        run = self._runs.get(tid)
        return run.trial if run else None

    def is_finished(self) -> bool:
        """Tell whether all trials have ended and no more will be proposed."""
        return self.search_alg.is_finished() and not self._unfinished

    def stop_trial(self, trial: Trial) -> None:
        """End a trial of any status, and tell scheduler and searcher; one that has ended is left alone."""
        if trial.is_finished():
            return
        scheduler, searcher = self.scheduler_alg, self.search_alg.searcher
        if trial.status == Trial.RUNNING:
            result = dict(trial.last_result)
            self._watch("scheduler", scheduler.on_trial_complete, self, trial, result)
            self._watch("searcher", searcher.on_trial_complete, trial.trial_id, result=dict(trial.last_result))
        else:
            self._watch("scheduler", scheduler.on_trial_remove, self, trial)
            # Tune's SearchGenerator gives all three arguments, always.
            self._watch("searcher", searcher.on_trial_complete, trial.trial_id, result=None, error=False)
        self._set_status(self._runs[trial.trial_id], Trial.TERMINATED)
        self._live.discard(trial)

    def pause_trial(self, trial: Trial, should_checkpoint: bool = True) -> None:
        """Take the worker from a running trial; the work since its last report is done again later."""
        del should_checkpoint  # always: saving takes no time here
        if trial.status == Trial.RUNNING:
            self._set_status(self._runs[trial.trial_id], Trial.PAUSED)

    # ------------------------------------------------------------ the clock

    def run(self, max_time: float | None) -> Simulation:
        """Run the search to its end; once only."""
        spec = {"num_samples": self.search_alg.max_trials or -1, "stop": {}, "time_budget_s": max_time}
        if not self.scheduler_alg.set_search_properties(None, None, **spec):
            raise RunError("simulate: the scheduler refused set_search_properties; give it its metrics itself")
        try:
            end = self._run(math.inf if max_time is None else max_time)
        finally:
            for run in self._runs.values():
                _close(run.reports)
        return Simulation(
            reports=tuple(self._reports),
            trials=tuple(self._trial(run) for run in self._runs.values()),
            time=self.now,
            end=end,
            seconds={name: tuple(values) for name, values in self._watch.seconds.items()},
        )

    def _run(self, max_time: float) -> End:
        idle = 0
        while not self.is_finished():
            while self._step():
                pass
            event = self._next_event()
            if event is None:
                if self.is_finished():
                    break
                idle += 1
                if idle >= _IDLE_STEPS:
                    return "stuck"
                continue
            idle = 0
            when, run = event
            if when > max_time:
                self._stop_all(max_time)
                return "time"
            self.now = when
            self._handle(run)
        return "finished"

    def _step(self) -> bool:
        """Ask the searcher, ask the scheduler, fill the workers; tell whether anything changed."""
        changed = self._ask_searcher()
        chosen: Trial | None = self._watch("scheduler", self.scheduler_alg.choose_trial_to_run, self)
        if chosen is not None:
            run = self._runs[chosen.trial_id]
            if chosen.status not in (Trial.PENDING, Trial.PAUSED):
                raise RunError(
                    f"trial {run.number}: choose_trial_to_run named it although it is {chosen.status};"
                    " only a PENDING or a PAUSED trial can be run"
                )
            if chosen.status == Trial.PAUSED:
                self._set_status(run, Trial.PENDING)
                changed = True
            changed |= self._start_if_free(run)
        for run in list(self._pending.values()):
            changed |= self._start_if_free(run)
        return changed

    def _ask_searcher(self) -> bool:
        changed = False
        while not self.search_alg.is_finished() and len(self._pending) < self._max_pending:
            number = self.search_alg.num_trials
            trial_id = f"{number:05d}"
            config = self._watch("searcher", self.search_alg.searcher.suggest, trial_id)
            if config is None:
                break
            if config == Searcher.FINISHED:
                self.search_alg.set_finished()
                break
            self.search_alg.num_trials += 1
            trial = Trial("simulated", config=dict(config), trial_id=trial_id, stub=True)
            trial.create_placement_group_factory()
            run = _Run(number, trial)
            self._runs[trial_id] = run
            self._trials.append(trial)
            self._live.add(trial)
            self._unfinished.add(trial_id)
            self._watch("scheduler", self.scheduler_alg.on_trial_add, self, trial)
            self._pending[trial_id] = run
            changed = True
        return changed

    def _start_if_free(self, run: _Run) -> bool:
        if run.trial.trial_id in self._running or len(self._running) >= self._workers:
            return False
        self._set_status(run, Trial.RUNNING)
        run.started = self.now
        if run.reports is None:
            # Made here, so that a function which is no generator fails like a generator would.
            run.reports = self._reports_of(run)
        self._schedule(run)
        return True

    def _reports_of(self, run: _Run) -> Iterator[tuple[float, dict[str, Any]]]:
        yield from self._evaluate(dict(run.trial.config))

    def _schedule(self, run: _Run) -> None:
        """Put the trial's next report, or its end, into the queue."""
        assert run.reports is not None
        if run.next_report is None:
            try:
                run.next_report = next(run.reports)
            except StopIteration as end:
                run.next_report = end
            except Exception as error:
                run.next_report = error
        wait = 0.0
        if not isinstance(run.next_report, Exception):
            wait = run.next_report[0]
            if not (math.isfinite(wait) and wait >= 0):
                raise RunError(
                    f"trial {run.number}: evaluate gave {wait} as the time to its next report;"
                    " a finite number from 0 is needed"
                )
        self._num_events += 1
        run.event = self._num_events
        heapq.heappush(self._events, (self.now + wait, run.number, run.event))

    def _next_event(self) -> tuple[float, _Run] | None:
        while self._events:
            when, number, event = heapq.heappop(self._events)
            run = self._runs[f"{number:05d}"]
            if run.event == event:
                return when, run
        return None

    def _handle(self, run: _Run) -> None:
        trial, upcoming = run.trial, run.next_report
        run.next_report = None
        self._charge(run)
        if isinstance(upcoming, StopIteration):
            trial.last_result["done"] = True
            self.stop_trial(trial)
        elif isinstance(upcoming, Exception):
            self._fail(run, upcoming)
        else:
            assert upcoming is not None
            self._report(run, upcoming[1])

    def _report(self, run: _Run, reported: Mapping[str, Any]) -> None:
        trial, scheduler, searcher = run.trial, self.scheduler_alg, self.search_alg.searcher
        run.num_reports += 1
        result = {
            "training_iteration": run.num_reports,
            "time_total_s": run.busy,
            "done": False,
            **reported,
            "trial_id": trial.trial_id,
        }
        self._check_metrics(run, result)
        decision = TrialScheduler.STOP
        if not trial.should_stop(result):
            decision = self._watch("scheduler", scheduler.on_trial_result, self, trial, dict(result))
        if decision == TrialScheduler.STOP:
            result["done"] = True
        else:
            self._watch("searcher", searcher.on_trial_result, trial.trial_id, dict(result))
        trial.update_last_result(result)
        report = Report(self.now, run.number, trial.config, dict(result), decision)
        self._reports.append(report)
        self._carry_out(run, decision)
        if self._on_report is not None:
            self._on_report(report)

    def _carry_out(self, run: _Run, decision: str) -> None:
        if run.trial.status != Trial.RUNNING:
            return  # the scheduler has stopped or paused it itself, inside on_trial_result
        if decision == TrialScheduler.STOP:
            self.stop_trial(run.trial)
        elif decision == TrialScheduler.PAUSE:
            self._set_status(run, Trial.PAUSED)
        elif decision in (TrialScheduler.CONTINUE, TrialScheduler.NOOP):
            self._schedule(run)
        else:
            raise RunError(
                f"trial {run.number}: on_trial_result gave {decision!r}; CONTINUE, PAUSE, STOP and NOOP are allowed"
            )

    def _fail(self, run: _Run, error: Exception) -> None:
        run.error = error
        run.trial.run_metadata.num_failures += 1
        self._watch("scheduler", self.scheduler_alg.on_trial_error, self, run.trial)
        self._watch("searcher", self.search_alg.searcher.on_trial_complete, run.trial.trial_id, result=None, error=True)
        self._set_status(run, Trial.ERROR)

    def _check_metrics(self, run: _Run, result: Mapping[str, Any]) -> None:
        for owner, metric in (("scheduler", self.scheduler_alg.metric), ("searcher", self.search_alg.metric)):
            wanted = [metric] if isinstance(metric, str) else list(metric or ())
            missing = [name for name in wanted if name not in result and name != "_metric"]
            if missing:
                raise RunError(
                    f"trial {run.number}: its report lacks {', '.join(missing)}, which the {owner} asks for;"
                    " every report must hold every metric"
                )

    def _stop_all(self, when: float) -> None:
        self.now = when
        self.search_alg.set_finished()
        for run in self._runs.values():
            if not run.trial.is_finished():
                self._set_status(run, Trial.TERMINATED)

    def _set_status(self, run: _Run, status: str) -> None:
        trial_id = run.trial.trial_id
        if run.trial.status == Trial.RUNNING:
            self._charge(run)
        self._pending.pop(trial_id, None)
        self._running.pop(trial_id, None)
        if status == Trial.PENDING:
            self._pending[trial_id] = run
        elif status == Trial.RUNNING:
            self._running[trial_id] = run
        else:
            run.event = -1  # what it had in the queue does not happen
        run.trial.set_status(status)
        if run.trial.is_finished():
            self._unfinished.discard(trial_id)
            _close(run.reports)

    def _charge(self, run: _Run) -> None:
        run.busy += self.now - run.started
        run.started = self.now

    def _trial(self, run: _Run) -> SimulatedTrial:
        return SimulatedTrial(
            number=run.number,
            trial_id=run.trial.trial_id,
            config=run.trial.config,
            status=run.trial.status,
            busy=run.busy,
            num_reports=run.num_reports,
            error=run.error,
        )


def _max_pending(searcher: Any) -> int:
    while searcher is not None:
        if isinstance(searcher, ConcurrencyLimiter):
            return int(searcher.max_concurrent)
        searcher = getattr(searcher, "searcher", None)
    return 1


def _close(reports: Any) -> None:
    close = getattr(reports, "close", None)
    if close is not None:
        close()
