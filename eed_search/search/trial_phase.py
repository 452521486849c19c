"""Baselines and trials, side by side: each is settled in the ledger first, and what is lost is tried again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eed_search.core.errors import FailureReason, MachineFault
from eed_search.core.failpoints import fail_point
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.frontier.points import stalled
from eed_search.frontier.static_constraints import StaticConstraints
from eed_search.runs.ledger import RESUME
from eed_search.runs.records import Reference, RungResult, TrialRecord
from eed_search.search.execution.monitor import baseline_label
from eed_search.search.execution.workers import Work
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
from eed_search.search.phase_context import PhaseContext
from eed_search.search.racing.incumbents import choose, incumbents_of
from eed_search.search.racing.rung_scheduler import RungScheduler, dominated_record, with_earlier
from eed_search.search.remaining import baselines_to_train
from eed_search.search.sampling.proposal_cost import Costs
from eed_search.system.machine_faults import fault_in, machine_fault

if TYPE_CHECKING:
    from eed_search.pipeline.search_context import SearchContext
    from eed_search.search.sampling.trial_queue import TrialQueue

MOST_LOSSES = 2  # a trial whose worker is lost is tried again so often


@dataclass
class TrialPhase:
    """Runs the baselines and the trials, and is told of each: the workers' hooks."""

    context: PhaseContext
    resumed: bool
    _trial_queue: TrialQueue | None = None

    def run(self, setting: SearchContext | None) -> None:
        """Run the baselines and the trials side by side."""
        if setting is None:
            return
        from eed_search.search.sampling.study import STUDY_FILE, close_study, open_study, rebuild_study
        from eed_search.search.sampling.trial_queue import TrialQueue

        self.context.journal.stage("baselines and trials")
        path = self.context.folder / STUDY_FILE
        budget = self.context.spec.search.time_budget_s
        study = (
            open_study(path, self.context.view.name, self.context.spec)
            if not self.resumed
            else rebuild_study(self.context.view, self.context.spec, path)
        )
        racing = self._race()
        try:
            fail_point("study.rebuilt")
            self._trial_queue = TrialQueue(
                study,
                self.context.spec,
                unfinished={number: self.context.view.proposals[number] for number in self.context.view.unfinished()},
                max_concurrent=self.context.slots,
                deadline=None if budget is None else time.monotonic() + budget - self.context.journal.used_s,
                on_proposal=self.context.journal.proposal,
                should_stop=self.context.stop.is_set,
                enough=lambda: stalled(self.context.view, self.context.spec.search.patience),
                cost=Costs(self.context.view),
                beforehand=StaticConstraints.of(self.context.view, self.context.spec),
                racing=racing,
                on_resume=lambda number, rung: self.context.journal.decision(number, rung, RESUME),
                incumbents=self._incumbents if self.context.spec.search.image_racing else None,
            )
            baselines = baselines_to_train(self.context.view, self.context.spec)
            work = Work(
                self.context.spec,
                setting,
                baselines,
                self._trial_queue,
                self.context.folder,
                1 + self.context.view.num_resumes,
            )
            try:
                self.context.workers.side_by_side(self.context.pipeline, work, self)
                if not self.context.stop.is_set():
                    self._settle_waiting(self._trial_queue)
            finally:
                self._trial_queue.close()
        finally:
            behind = close_study(study)
        if behind:
            self.context.journal.note(f"{STUDY_FILE} could not be written ({behind}); a resume makes it again")
        self.context.close_open_trials()
        self.context.raise_if_stopped()

    def _settle_waiting(self, trial_queue: TrialQueue) -> None:
        """End the trials that still wait: others are surely better, or the time was over and nobody has judged them."""
        judged = not trial_queue.out_of_time
        for number in trial_queue.paused():
            params = self.context.view.proposals[number]
            self._settle(dominated_record(number, self.context.view) if judged else out_of_time(number, params))

    def _race(self) -> RungScheduler | None:
        """Make the race from the ledger; a decision that was taken and not written down any more is written now."""
        if not self.context.spec.search.racing:
            return None
        racing = RungScheduler.replay(self.context.view, self.context.spec.search.eta)
        waiting = set(racing.paused())
        for number in self.context.view.unfinished():
            reports = self.context.view.reports.get(number)
            if reports and not reports[-1].decision:
                self.context.journal.decision(number, reports[-1].rung, "pause" if number in waiting else "continue")
        return racing

    def _incumbents(self, number: int) -> tuple[Incumbent, ...]:
        """Say whom a trial is held against, image by image: those of its first time, if it was cut off."""
        kind = self.context.spec.search.latency_objective
        if number not in self.context.view.incumbents:
            self.context.journal.incumbents(number, choose(self.context.view, kind))
        return incumbents_of(self.context.view, self.context.view.incumbents[number], kind)

    def on_attempt(self, number: int) -> None:
        """A trial starts."""
        self.context.journal.attempt(number)

    def on_end(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial came to a rung or its end, or was stopped."""
        if fault := (result or {}).get(FAULT_KEY):
            raise MachineFault(fault)
        if (reading := (result or {}).get(RUNG_KEY)) is not None:
            self._at_rung(number, reading)
            return
        if trace := (result or {}).get(TRACEBACK_KEY):
            self.context.keep_traceback(trial_file(number), str(trace))
        self._settle(record_of(number, self.context.view.proposals[number], result))

    def _at_rung(self, number: int, reading: RungResult) -> None:
        """Write down what a trial measured on its way, and whether it goes on."""
        if self._trial_queue is None:
            return
        self.context.journal.report(number, reading)
        fail_point("race.decide")
        verdict = self._trial_queue.report(number, self.context.view.reports[number][-1])
        self.context.journal.decision(number, reading.rung, verdict)

    def on_lost(self, number: int, reason: FailureReason, message: str, trace: str) -> None:
        """A trial's worker is gone: only the infrastructure's fault is a reason to try again."""
        if self.context.stop.is_set():
            return  # closed with all the others
        if fault := fault_in(trace or message):
            raise MachineFault(fault)
        if trace:
            self.context.keep_traceback(trial_file(number), trace)
        if reason == "infrastructure" and self.context.view.losses.get(number, 0) < MOST_LOSSES:
            self.context.journal.lost(number, message)
            if self._trial_queue is not None:
                self._trial_queue.again(number)
            return
        self._settle(failure(number, self.context.view.proposals[number], reason, message))

    def _settle(self, record: TrialRecord) -> None:
        """Write a trial's end down, then tell Optuna."""
        record = with_earlier(record, self.context.view.reports.get(record.number, ()))
        self.context.journal.result(record)
        fail_point("study.tell")
        if self._trial_queue is not None:
            self._trial_queue.tell(record)

    def on_baseline(self, size: float, baseline: Reference | BaseException) -> None:
        """A baseline ended."""
        label = baseline_label(size)
        if isinstance(baseline, BaseException):
            if fault := machine_fault(baseline):
                raise MachineFault(fault) from baseline
            self.context.keep_traceback(f"{label.replace(' %', '').replace(' ', '-')}.txt", str(baseline))
            self.context.journal.note(f"{label} failed ({failure_of(baseline)[1]})")
        elif problem := problem_of(baseline.measurement):
            self.context.journal.note(f"{label} failed ({problem})")
        else:
            self.context.journal.baseline(baseline)

    def on_stuck(self, who: str, seconds: float, stopped: str) -> None:
        """A trial or a baseline makes no progress."""
        self.context.on_stuck(who, seconds, stopped)

    def on_step(self) -> None:
        """Some time has passed."""
        self.context.tick()

    def stopping(self) -> bool:
        """Whether everything is to end."""
        return self.context.stop.is_set()


def trial_file(number: int) -> str:
    """Name the file in `errors/` that holds a trial's traceback."""
    return f"trial-{number}.txt"
