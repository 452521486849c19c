"""Which trials go on: the racing decisions, as a pure function of what happened so far.

A race is a fold over its events, in sequence: a trial reports at a level, goes on after a pause, or
ends. Two races that were told the same events say the same, so a replay of the ledger reproduces
every decision. It knows no clock, no Ray and no search space; everything here minimises.

    report at level k → surely over a limit in the end? → infeasible
                        of the n trials that reported there, floor(n / eta) may go on:
                        is the newcomer among the best that have not? → continue, else pause
    a free worker     → the best paused trial of the highest level that may send one on
    nothing left      → paused trials that may still belong to the frontier, best first
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float

from eed_search.core.statistics import next_gain
from eed_search.frontier.ehvi import expected_improvement
from eed_search.frontier.pareto import non_dominated
from eed_search.search.racing.ranking import best_first, front_numbers
from eed_search.search.racing.readings import WIDTHS, Level, Objectives

T = TypeVar("T")
Verdict = Literal["continue", "pause", "done", "infeasible"]
_FINAL: tuple[Verdict, ...] = ("done", "infeasible")
_MARGIN = 0.1  # share of the range, beyond the worst value: where hypervolume is measured to
_HEAD = 64  # paused trials that are told apart by more than their front
_SURE = 1.645  # standard deviations of an optimistic guess: 95 % of a normal lie below


@dataclass(frozen=True)
class Prediction:
    """Where a trial would end if it went on to the last level.

    Attributes:
        mean: Expected final value of each objective.
        deviation: Its standard deviation.
    """

    mean: Float[np.ndarray, "trials objectives"]
    deviation: Float[np.ndarray, "trials objectives"]


@dataclass
class _Trial:
    readings: dict[int, Objectives] = field(default_factory=dict)
    level: int = -1
    verdict: Verdict = "continue"  # on its last report
    state: Literal["running", "paused", "ended"] = "running"


class _Memory(Generic[T]):
    """Remembers one value by name, each for as long as what it was computed from stays the same."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[Hashable, T]] = {}

    def get(self, name: Hashable, state: Hashable, compute: Callable[[], T]) -> T:
        before = self._values.get(name)
        if before is None or before[0] != state:
            before = self._values[name] = (state, compute())
        return before[1]


class PromotionRule:
    """The state of a race and its decisions.

    Args:
        num_objectives: Two to four.
        num_levels: Levels that a trial reports at; the last one completes it. At least 1.
        eta: One in `eta` trials of a level goes on. At least 2.
        min_complete: Complete trials from which on the expected hypervolume improvement of the
            predicted final point ranks, if one of them keeps every limit; before, fronts and their
            spread do. At least 1.
        limits: For each objective the largest final value that is allowed, or none.
        fixed: Objectives, by index, that are the same at every level, such as a cost.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Quota and promotion: asynchronous successive halving, Li et al. 2020, section 3.2,
        https://arxiv.org/abs/1810.05934; several objectives, prediction and guard are ours.
    """

    def __init__(
        self,
        num_objectives: int,
        num_levels: int,
        *,
        eta: int = 3,
        min_complete: int = 5,
        limits: tuple[float | None, ...] | None = None,
        fixed: Collection[int] = (),
    ) -> None:
        if not 2 <= num_objectives <= 4:
            raise ValueError(f"{num_objectives} objectives: two to four are allowed")
        if num_levels < 1:
            raise ValueError(f"{num_levels} levels: at least one is needed")
        if eta < 2:
            raise ValueError(f"eta {eta}: at least 2 is needed, so that fewer trials go on than came")
        if min_complete < 1:
            raise ValueError(f"min_complete {min_complete}: at least 1 is needed, so that there is a frontier")
        self.num_levels = num_levels
        self._num_objectives, self._eta, self._min_complete = num_objectives, eta, min_complete
        self._limits = limits or (None,) * num_objectives
        self._fixed = frozenset(fixed)
        self._trials: dict[int, _Trial] = {}
        self._running: dict[int, None] = {}
        self._levels = [Level(num_objectives) for _ in range(num_levels)]
        # What follows from the events is computed when it is first asked for, and kept until they change it.
        self._ranked = _Memory[tuple[int, ...]]()
        self._kept = _Memory[tuple[int, ...]]()
        self._gained = _Memory[tuple[np.ndarray, np.ndarray]]()
        self._fronts = _Memory[np.ndarray]()

    # ------------------------------------------------------------ events

    def add(self, trial: int) -> None:
        """Enter a trial; one that is entered again keeps what it reported (it came back after a failure)."""
        one = self._trials.setdefault(trial, _Trial())
        self._move(trial, one, "running")

    def report(self, trial: int, level: int, reading: Objectives) -> Verdict:
        """Take in what a trial measured and decide.

        Args:
            trial: Entered before; not paused.
            level: From 0; one that is not above its last changes nothing: what ended the trial is said
                again, otherwise it goes on.
            reading: What it measured.

        Returns:
            `continue` or `pause`; `done` at the last level; `infeasible` when a limit, which is one of
            the final value, is surely broken: by the optimistic end of the reading at the last
            level, and before for a fixed objective; by that of the predicted final point otherwise.
        """
        one = self._trials[trial]
        if level <= one.level:
            return one.verdict if one.verdict in _FINAL else "continue"
        one.verdict = self._decide(trial, level, reading)
        return one.verdict

    def recall(self, trial: int, level: int, reading: Objectives, verdict: Verdict) -> None:
        """Take in a report that was decided on before: nothing is decided anew.

        A race that is told all reports of another one, in their order, and what was decided on each,
        decides from there on as that one would have.

        Args:
            trial: Entered before; if it was paused, it had gone on.
            level: From 0, above that of its last report.
            reading: What it measured.
            verdict: What `report` said.
        """
        self.resume(trial)
        one = self._enter(trial, level, reading)
        one.verdict = verdict
        if verdict == "continue":
            self._levels[level].gone_on += 1
        self._move(trial, one, "ended" if verdict in _FINAL else "paused" if verdict == "pause" else "running")

    def resume(self, trial: int) -> None:
        """Take in that a paused trial goes on."""
        one = self._trials[trial]
        if one.state == "paused":
            self._levels[one.level].gone_on += 1
            self._move(trial, one, "running")

    def end(self, trial: int) -> None:
        """Take in that a trial ended, however; it counts where it reported and is no candidate any more."""
        if trial in self._trials and self._trials[trial].state != "ended":
            self._move(trial, self._trials[trial], "ended")

    # ------------------------------------------------------------ questions

    def next_to_resume(self) -> int | None:
        """Name the paused trial that should go on now: from the highest level that may send one on."""
        for level in reversed(range(self.num_levels - 1)):
            if self._allowed(level) > 0 and (waiting := self._candidates(level)):
                return waiting[0]
        return None

    def best_paused(self) -> int | None:
        """Name the best paused trial of the highest level that has one, quota or not."""
        for level in reversed(range(self.num_levels - 1)):
            if waiting := self._candidates(level):
                return waiting[0]
        return None

    def undecided(self) -> Iterator[int]:
        """Give the paused trials that may still belong to the frontier, highest level and best first.

        The guard: a trial is given up only if its optimistic final point lies in the region that
        the complete trials' pessimistic points dominate. Each is looked for when it is asked for: take the
        first ones, and ask anew after an event.
        """
        for level in reversed(range(self.num_levels - 1)):
            if self._levels[level].waiting:
                yield from self._kept.get(level, self._state(level), partial(self._undecided, level))

    def predict(self, trials: list[int]) -> Prediction:
        """Predict final points: the last reading plus what complete trials gained from that level on.

        Measurement error enters with a quarter of the interval's width (95 % is four deviations).
        With fewer than two complete trials to learn from, the deviation of an objective is the
        range of all its readings.
        """
        mean = np.empty((len(trials), self._num_objectives))
        deviation = np.empty_like(mean)
        for row, trial in enumerate(trials):
            one = self._trials[trial]
            reading = one.readings[one.level]
            gain, spread = self._gain(one.level)
            error = (np.array(reading.high) - np.array(reading.low)) / WIDTHS
            mean[row] = np.array(reading.value) + gain
            deviation[row] = np.sqrt(spread**2 + error**2)
        return Prediction(mean, deviation)

    def has_reported(self, trial: int) -> bool:
        """Say whether a trial has come to any level yet."""
        return self._trials[trial].level >= 0

    def is_new(self, trial: int, level: int) -> bool:
        """Say whether a report of a trial at a level would be its first there or past it."""
        return level > self._trials[trial].level

    def complete(self) -> list[int]:
        """List the trials that reported at the last level, in that order."""
        return list(self._levels[-1].trials)

    def paused(self) -> list[int]:
        """List the paused trials, in the order they were entered."""
        return sorted(trial for level in self._levels for trial in level.waiting)

    def running(self) -> list[int]:
        """List the trials that run or wait for a worker, in the order they were entered or resumed."""
        return list(self._running)

    # ------------------------------------------------------------ inside

    def _enter(self, trial: int, level: int, reading: Objectives) -> _Trial:
        one = self._trials[trial]
        one.level = level
        one.readings[level] = reading
        self._levels[level].append(trial, reading)
        if level == self.num_levels - 1:
            for earlier, before in one.readings.items():
                self._levels[earlier].gains.append(np.subtract(reading.value, before.value))
        return one

    def _decide(self, trial: int, level: int, reading: Objectives) -> Verdict:
        one = self._enter(trial, level, reading)
        if self._is_over_a_limit(level, reading):
            self._move(trial, one, "ended")
            return "infeasible"
        if level == self.num_levels - 1:
            self._move(trial, one, "ended")
            return "done"
        self._move(trial, one, "paused")  # for the comparison it is one of those that wait
        allowed = self._allowed(level)
        if allowed > 0 and trial in self._candidates(level)[:allowed]:
            self._move(trial, one, "running")
            self._levels[level].gone_on += 1
            return "continue"
        return "pause"

    def _move(self, trial: int, one: _Trial, state: Literal["running", "paused", "ended"]) -> None:
        """Change a trial's state, and what follows from it."""
        if one.level >= 0:
            self._levels[one.level].leave(trial)
        self._running.pop(trial, None)
        one.state = state
        if state == "running":
            self._running[trial] = None
        elif state == "paused":
            self._levels[one.level].wait(trial)

    def _allowed(self, level: int) -> int:
        here = self._levels[level]
        return len(here.trials) // self._eta - here.gone_on

    def _state(self, level: int) -> Hashable:
        """What everything that is said about the trials of a level follows from."""
        return self._levels[level].version, len(self._levels[-1].trials), self._learnt_from(level)

    def _learnt_from(self, level: int) -> Hashable:
        """What the gain from a level on follows from: complete trials, or all reports while they are too few."""
        num = len(self._levels[level].gains)
        return num if num >= 2 else -1 - sum(len(one.trials) for one in self._levels)

    def _candidates(self, level: int) -> tuple[int, ...]:
        """Order the paused trials of a level, best first."""
        return self._ranked.get(level, self._state(level), partial(self._rank, level))

    def _undecided(self, level: int) -> tuple[int, ...]:
        here = self._levels[level]
        rows = np.fromiter(here.waiting.values(), dtype=np.int64, count=len(here.waiting))
        gain, spread = self._gain(level)
        optimistic = here.values[rows] + gain - _SURE * np.sqrt(spread**2 + here.errors[rows] ** 2)
        beaten = np.zeros(len(rows), dtype=bool)
        for point in self._front("high"):
            beaten |= (point <= optimistic).all(axis=1) & (point < optimistic).any(axis=1)
        kept = {trial for trial, gone in zip(here.waiting, beaten, strict=True) if not gone}
        return tuple(trial for trial in self._candidates(level) if trial in kept) if kept else ()

    def _rank(self, level: int) -> tuple[int, ...]:
        """Order by front; among the first fronts by spread, or by expected improvement once it can be said.

        All at one level have nearly the same uncertainty, so a trial that another dominates promises less.
        """
        here = self._levels[level]
        waiting = list(here.waiting)
        if len(waiting) <= 1:
            return tuple(waiting)
        rows = np.fromiter(here.waiting.values(), dtype=np.int64, count=len(waiting))
        values = here.values[rows]
        fronts = front_numbers(values)
        order = np.argsort(fronts, kind="stable")
        last_front = fronts[order[min(_HEAD, len(order)) - 1]]
        num_head = int(np.searchsorted(fronts[order], last_front, side="right"))
        head, tail = order[:num_head], order[num_head:]
        places = best_first(values[head])
        front = self._front("value")
        if len(front) > 0 and len(self._levels[-1].trials) >= self._min_complete:
            gain, spread = self._gain(level)
            there = here.values + gain
            worst = np.maximum(front.max(axis=0), there.max(axis=0))
            best = np.minimum(front.min(axis=0), there.min(axis=0))
            reference = worst + _MARGIN * np.maximum(worst - best, 1e-12)
            deviation = np.sqrt(spread**2 + here.errors[rows[head]] ** 2)
            improvement = expected_improvement(values[head] + gain, deviation, front, reference)
            rank = np.empty(num_head, dtype=np.int64)
            rank[places] = np.arange(num_head)
            places = [int(i) for i in np.lexsort((rank, -improvement))]
        return tuple(waiting[i] for i in [*head[places], *tail])

    def _front(self, end: Literal["value", "high"]) -> Float[np.ndarray, "points objectives"]:
        """The frontier of the complete trials that keep every limit."""
        return self._fronts.get(end, len(self._levels[-1].trials), partial(self._frontier, end))

    def _frontier(self, end: Literal["value", "high"]) -> Float[np.ndarray, "points objectives"]:
        last = self.num_levels - 1
        readings = [self._trials[t].readings[last] for t in self._levels[last].trials]
        kept = [r for r in readings if all(m is None or v <= m for v, m in zip(r.value, self._limits, strict=True))]
        values = np.array([getattr(r, end) for r in kept], dtype=float).reshape(-1, self._num_objectives)
        return np.asarray(values[non_dominated(values)])

    def _is_over_a_limit(self, level: int, reading: Objectives) -> bool:
        """Whether the final value of an objective will surely be over its limit.

        An interval says how sure a reading is, not what a trial will still gain, so before the last level
        it decides for fixed objectives only. For the others a gain is added that is more optimistic than
        97.5 % (a prediction interval by Student's t) of those that complete trials made from here on, and no
        trial is over a limit while fewer than three of these are known. (Ours.)
        """
        bounds = [(j, limit) for j, limit in enumerate(self._limits) if limit is not None]
        last = level == self.num_levels - 1
        if any(reading.low[j] > limit for j, limit in bounds if last or j in self._fixed):
            return True
        changing = [(j, limit) for j, limit in bounds if j not in self._fixed and reading.value[j] > limit]
        if last or not changing or (expected := next_gain(self._gains(level))) is None:
            return False
        mean, error = expected
        return any(
            reading.value[j] + mean[j] - math.hypot(error[j], reading.value[j] - reading.low[j]) > limit
            for j, limit in changing
        )

    def _gain(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of (final value - value at the level) over the complete trials."""
        return self._gained.get(level, self._learnt_from(level), partial(self._learn, level))

    def _learn(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        gains = self._gains(level)
        if len(gains) < 2:
            seen = np.concatenate([one.values for one in self._levels])
            return np.zeros(self._num_objectives), np.ptp(seen, axis=0)
        return gains.mean(axis=0), gains.std(axis=0, ddof=1)

    def _gains(self, level: int) -> Float[np.ndarray, "complete objectives"]:
        """Final value - value at the level, of each complete trial that reported there."""
        return np.array(self._levels[level].gains).reshape(-1, self._num_objectives)
