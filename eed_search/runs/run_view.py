"""A search as its ledger tells it: everything that is known of it, brought up to date event by event (`runs.events`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from eed_search.config.params import ParamValue
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.records import FreshCheck, Latency, Measurement, Reference, TrialRecord, ValidationRound
from eed_search.storage.store import StageUse

What = Literal["proposal", "report", "resume", "result"]
PAUSE, RESUME = "pause", "resume"  # decisions: a trial waits at its rung; it goes on after all
STOPPED = "stopped"  # the reason of a trial that ended because its search was stopped
BUDGET = "budget"  # the reason of a trial that still waited at a rung when the search's time was over
NO_RESULT = frozenset({STOPPED, BUDGET})  # ends that say nothing about the trial: a resume may take them back


@dataclass(frozen=True)
class RungRecord:
    """What a trial measured on its way, at one rung.

    Attributes:
        rung: Counts from 0.
        metrics: By name, finite.
        decision: What was made of it: `continue`, `pause`, or `resume` once it went on; empty before.
        robust_hex: Which of the images stayed right under attack, as `pack_bits` writes it.
        num_samples: How many images that were.
        stages: Every stage used on the way here from the rung before, in order.
        seconds: Wall-clock time of that.
    """

    rung: int
    metrics: dict[str, float]
    decision: str = ""
    robust_hex: str = ""
    num_samples: int = 0
    stages: tuple[StageUse, ...] = ()
    seconds: float = 0.0


@dataclass
class RunView:
    """A search as its ledger tells it.

    Attributes:
        name: The run's name.
        uid: Names the run everywhere, in other homes and on shared servers too.
        spec: Its search-space file with every default filled in.
        home: The home that this file's paths were written in; empty where nobody knows.
        facts: Versions, machine, command, reference latency: what the run wrote down at its start.
        origin: SHA-256 of what it was made from, by file: `code` and `data`.
        state: `running` until an `end` event says `finished`, `stopped`, `failed` or `cancelled`;
            running again after a `resume`.
        reason: Why it ended, where that needs a word.
        stage: The phase that began last.
        base: The dense base.
        baselines: Networks trained from scratch.
        proposals: Parameters by trial number.
        drawn: What Optuna drew for them, under its own names.
        attempts: How often a trial was started, by number.
        losses: How often its worker was lost, by number.
        reports: What trials measured on their way, by number.
        incumbents: Ids of the points that a trial is held against image by image, by number.
        trials: Finished trials by number.
        history: Proposals, reports, resumptions and ends of trials in their order, with their numbers.
        latencies: Last final latencies by point id, reference name included: they replace the search's.
        timings: All final latencies by the same, in order.
        confirmed: Measurements by point id of swept thresholds that an attack has confirmed.
        proposed_before: How many trials had been proposed when each was confirmed, by point id.
        fresh: Checks on fresh images that chose nothing, by point id, reference name included.
        slices: Checks on those that chose, by point id and first image.
        validation_rounds: Who belongs to the frontier, decision by decision; empty again once another trial ends.
        attacks: What `eed-search attack` found, by point id, reference name included, in order.
        notes: Lines for the reader, each once; what of the store had to be made again is among them.
        requests: What persons asked for, in order: `stop`, `cancel`.
        tracker: What the tracker wrote back: MLflow run ids, and `cursor`, the last event it shows.
        num_resumes: How often a driver took the run up again.
        num_events: The last event's sequence number.
        started_at: When the first event was written, in seconds since 1970.
        last_at: When the last one was.
        seconds: While a driver was at work: from event to event, without the time before a `resume`.
    """

    name: str = ""
    uid: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    home: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, dict[str, str]] = field(default_factory=dict)
    state: str = "running"
    reason: str = ""
    stage: str = ""
    base: Reference | None = None
    baselines: list[Reference] = field(default_factory=list)
    proposals: dict[int, dict[str, ParamValue]] = field(default_factory=dict)
    drawn: dict[int, dict[str, ParamValue]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)
    reports: dict[int, list[RungRecord]] = field(default_factory=dict)
    incumbents: dict[int, tuple[str, ...]] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    history: list[tuple[What, int]] = field(default_factory=list)
    latencies: dict[str, Latency] = field(default_factory=dict)
    confirmed: dict[str, Measurement] = field(default_factory=dict)
    proposed_before: dict[str, int] = field(default_factory=dict)
    timings: dict[str, list[Latency]] = field(default_factory=dict)
    fresh: dict[str, FreshCheck] = field(default_factory=dict)
    slices: dict[str, dict[int, FreshCheck]] = field(default_factory=dict)
    validation_rounds: list[ValidationRound] = field(default_factory=list)
    attacks: dict[str, list[AttackResult]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tracker: dict[str, Any] = field(default_factory=dict)
    num_resumes: int = 0
    num_events: int = 0
    started_at: float | None = None
    last_at: float | None = None
    seconds: float = 0.0

    def num_trials(self) -> dict[str, int]:
        """Count trials by state.

        Those proposed and not finished are `running`, or `paused` where there are any. Those whose end says nothing
        about them are not `pruned` but `stopped` or `out_of_time`, where there are any: a resume goes on with them.
        """
        nothing_said = {"stopped": self.stopped_trials(), "out_of_time": self.out_of_time()}
        passed_over = {number for numbers in nothing_said.values() for number in numbers}
        counts = Counter(str(trial.outcome) for number, trial in self.trials.items() if number not in passed_over)
        states = ("done", "infeasible", "pruned", "failed")
        num_paused, num_open = len(self.paused()), len(self.unfinished())
        odd = {"paused": num_paused} | {state: len(numbers) for state, numbers in nothing_said.items()}
        return {
            **{state: counts[state] for state in states},
            "running": num_open - num_paused,
            **{state: number for state, number in odd.items() if number},
        }

    def paused(self) -> list[int]:
        """Number the trials that wait at a rung, oldest first."""
        return [n for n in self.unfinished() if (reports := self.reports.get(n)) and reports[-1].decision == PAUSE]

    def unfinished(self) -> list[int]:
        """Number the trials that were proposed and have not come to their end, oldest first."""
        return sorted(self.proposals.keys() - self.trials.keys())

    def stopped_trials(self) -> list[int]:
        """Number the trials that ended only because the search was stopped: a resume runs them again."""
        return self._pruned(STOPPED)

    def out_of_time(self) -> list[int]:
        """Number the trials that still waited when the time budget was over: a resume with more time goes on with them."""
        return self._pruned(BUDGET)

    def without_result(self) -> list[int]:
        """Number the trials whose end says nothing about them: stopped, or out of time."""
        return sorted([*self.stopped_trials(), *self.out_of_time()])

    def _pruned(self, reason: str) -> list[int]:
        return sorted(n for n, trial in self.trials.items() if (trial.outcome, trial.reason) == ("pruned", reason))

    def remember(self, lines: Iterable[str]) -> None:
        """Keep what a record says of the store among the notes, each line once."""
        self.notes += [line for line in dict.fromkeys(lines) if line and line not in self.notes]

    def stage_counts(self) -> dict[str, tuple[int, int]]:
        """Count (computed, reused) by stage over all finished trials."""
        counts: dict[str, list[int]] = {}
        for trial in self.trials.values():
            for use in trial.stages:
                counts.setdefault(use.stage.partition(".")[0], [0, 0])[int(use.hit)] += 1
        return {stage: (made, reused) for stage, (made, reused) in counts.items()}


def num_ended(counts: Mapping[str, int]) -> int:
    """Count the trials that have come to their end, from `RunView.num_trials`: none under way, none that a resume goes on with."""
    return sum(number for state, number in counts.items() if state not in _OPEN)


_OPEN = frozenset({"running", "paused", "stopped", "out_of_time"})
