"""Hands proposals out, new ones and such as go on, and keeps the study up to date.

Each proposal is a pure function of the ledger before it: the sampler is made anew for each, from
the search's seed and the proposal's number, and the rest of its state lies in the study. So a
search that was killed and resumed proposes what the undisturbed one would have, given the same
results in the same order.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.trial import Trial

from eed_search.config.params import ParamValue
from eed_search.config.spec import Spec
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.frontier.static_constraints import StaticConstraints
from eed_search.runs.ledger import STOPPED, RungRecord
from eed_search.runs.records import TrialRecord
from eed_search.search.racing.promotion import Verdict
from eed_search.search.racing.rung_scheduler import RUNGS, RungScheduler
from eed_search.search.sampling.portfolio import Portfolio
from eed_search.search.sampling.proposals import suggest
from eed_search.search.sampling.study import own_trials, sampler_for, tell


@dataclass(frozen=True)
class Proposal:
    """What a trial is to try.

    Attributes:
        number: Number of the trial.
        params: Its flat parameters.
        attempt: How often this process has handed it out, this time included.
        rung: At which rung its work ends this time; none: at its end.
        incumbents: Points that it is held against while its trained team is attacked.
    """

    number: int
    params: dict[str, ParamValue]
    attempt: int = 1
    rung: int | None = None
    incumbents: tuple[Incumbent, ...] = ()


class TrialQueue:
    """Asks Optuna for proposals, hands unfinished ones out again first, and tells it how they ended.

    It limits itself: at most `max_concurrent` trials are out, so each proposal knows every result
    that could be known. In a race a trial comes back at each rung: one that goes on is handed out again
    before anything new, one that waits when the race says so. Past the deadline nothing new is proposed and
    none that waits goes on, but what was told to go on, or was lost, comes to its end. It is finished when
    none is out any more (one that is out may be lost, and handed out again) and nothing may be handed
    out; or when asked to stop.

    Args:
        study: From `open_study` or `rebuild_study`.
        spec: The search.
        unfinished: Parameters of the trials that the study holds as RUNNING, by number.
        max_concurrent: Trials that may be out at once, at least 1.
        deadline: `time.monotonic()` after which no trial is begun, nor one that waits taken up; or none.
        on_proposal: Told number, flat parameters and what Optuna drew, before a new proposal is
            handed out; not again for one that is handed out again.
        should_stop: Asked before each proposal.
        cost: What flat parameters would still cost, for the portfolio.
        beforehand: What is known of a trial before it runs, for the portfolio.
        enough: Whether no new proposal is wanted, before the number of trials is reached.
        racing: The race, with what has happened in it; without one trials run to their end.
        on_resume: Told number and rung of a trial that waited, before it is handed out again.
        incumbents: Asked for the points that a trial is held against, when it is handed out to its end.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: Spec,
        *,
        unfinished: Mapping[int, Mapping[str, ParamValue]] | None = None,
        max_concurrent: int = 1,
        deadline: float | None = None,
        on_proposal: Callable[[int, dict[str, ParamValue], dict[str, ParamValue]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        enough: Callable[[], bool] | None = None,
        cost: Callable[[dict[str, Any]], float] | None = None,
        beforehand: StaticConstraints | None = None,
        racing: RungScheduler | None = None,
        on_resume: Callable[[int, int], None] | None = None,
        incumbents: Callable[[int], tuple[Incumbent, ...]] | None = None,
    ) -> None:
        self._study = study
        self._racing = racing
        self._on_resume = on_resume
        self._incumbents = incumbents
        self._portfolio = Portfolio(spec, cost, racing, beforehand)
        self._enough = enough
        self._spec = spec
        self._max_concurrent = max(1, max_concurrent)
        self._deadline = deadline
        self._on_proposal = on_proposal
        self._should_stop = should_stop
        self._trials: dict[int, Trial] = {}  # proposed and not told
        self._params: dict[int, dict[str, ParamValue]] = {n: dict(p) for n, p in (unfinished or {}).items()}
        self._again = deque(sorted(self._params.keys() - set(racing.paused() if racing else ())))
        self._out: set[int] = set()
        self._handed_out: Counter[int] = Counter()
        own = own_trials(study)
        self._num_proposed = len(own)
        for number in self._params:
            self._trials[number] = Trial(study, own[number]._trial_id)

    def make_room(self, max_concurrent: int) -> None:
        """Let so many trials be out at once from now on: a cluster grows and shrinks."""
        self._max_concurrent = max(1, max_concurrent)

    def propose(self) -> Proposal | None:
        """Hand a proposal out; none while enough are out, or when `finished`."""
        if self._stopping() or len(self._out) >= self._max_concurrent or (take := self._next()) is None:
            return None
        number = take()
        self._out.add(number)
        self._handed_out[number] += 1
        rung = self._racing.next_rung(number) if self._racing else None
        incumbents = self._incumbents(number) if self._incumbents and rung is None else ()
        return Proposal(number, dict(self._params[number]), self._handed_out[number], rung, incumbents)

    @property
    def finished(self) -> bool:
        """Whether nothing will be handed out any more."""
        return self._stopping() or (not self._out and self._next() is None)

    @property
    def late(self) -> bool:
        """Whether the deadline is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline, and nothing else, keeps trials from being begun or taken up."""
        return self.late and self._next_in_time() is not None

    def params(self, number: int) -> dict[str, ParamValue]:
        """Give the flat parameters of a trial that was proposed."""
        return dict(self._params[number])

    def report(self, number: int, report: RungRecord) -> Verdict:
        """Take in that a trial has come to a rung; one that may go on is handed out before anything new.

        Raises:
            ValueError: If a metric is missing or not finite, or there is no race.
        """
        if self._racing is None:
            raise ValueError(f"trial {number} reported at rung {report.rung}, but there is no race")
        verdict = self._racing.reported(number, report)
        self._out.discard(number)
        if verdict != "pause":
            self._again.append(number)
        return verdict

    def paused(self) -> list[int]:
        """List the trials that wait at a rung."""
        return self._racing.paused() if self._racing else []

    def again(self, number: int) -> None:
        """Take a trial back that was lost, to hand it out again before anything new."""
        self._out.discard(number)
        if number in self._trials and number not in self._again:
            self._again.append(number)

    def tell(self, record: TrialRecord) -> None:
        """Tell Optuna how a trial ended; a second call for the same trial is ignored."""
        self._out.discard(record.number)
        if record.number in self._again:
            self._again.remove(record.number)
        if self._racing is not None and record.number in self._trials:
            self._racing.ended(record)
        if (trial := self._trials.pop(record.number, None)) is not None:
            tell(self._study, trial, record, self._spec.search.latency_objective)

    def close(self) -> None:
        """Tell Optuna that the trials without an end were stopped: nothing is left RUNNING."""
        for number in list(self._trials):
            self.tell(TrialRecord(number, self._params.get(number, {}), "pruned", STOPPED))

    def _stopping(self) -> bool:
        return self._should_stop is not None and self._should_stop()

    def _next(self) -> Callable[[], int] | None:
        """Say what may be handed out now, as the function that takes it: whatever has begun first, at any time."""
        if self._again:
            return self._again.popleft
        return None if self.late else self._next_in_time()

    def _next_in_time(self) -> Callable[[], int] | None:
        """Say what may be handed out before the deadline only: one that waits, else a new one."""
        may_ask = self._may_ask()
        if self._racing is not None and (number := self._racing.to_resume(nothing_new=not may_ask)) is not None:
            return partial(self._resume, number)
        return self._ask if may_ask else None

    def _resume(self, number: int) -> int:
        assert self._racing is not None
        rung = self._racing.next_rung(number)
        if self._on_resume is not None:
            self._on_resume(number, (len(RUNGS) if rung is None else rung) - 1)
        self._racing.resumed(number)
        return number

    def _may_ask(self) -> bool:
        if self._num_proposed >= self._spec.search.trials:
            return False
        return self._enough is None or not self._enough()

    def _ask(self) -> int:
        number = self._num_proposed  # Optuna's own numbers count waiting and swept ones too
        chosen = self._portfolio.propose(self._study, number)
        if chosen is not None:
            self._study.enqueue_trial(chosen)
        self._study.sampler = sampler_for(self._spec, number)
        trial = self._study.ask()
        # Kept from here on: whatever happens next, `close` will not leave it RUNNING.
        self._trials[number] = trial
        self._num_proposed += 1
        params = suggest(trial, self._spec)
        self._params[number] = params
        if self._racing is not None:
            self._racing.proposed(number)
        if self._on_proposal is not None:
            self._on_proposal(number, dict(params), dict(trial.params))
        return number
