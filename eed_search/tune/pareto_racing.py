"""ParetoRacing: a Ray Tune scheduler that races trials against the frontier of two to four metrics.

A thin caller of `PromotionRule`, which takes every decision; here Ray's trials, results and statuses are
turned into its events. Usable with any trainable that reports its metrics and how far it is:

    scheduler = ParetoRacing({"accuracy": "max", "latency_ms": "min"}, resource="epoch", levels=(1, 3, 9, 27))
    tune.Tuner(trainable, tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=100, reuse_actors=True))

Each report at a level needs a checkpoint, since a trial may be paused there and go on later. A metric
`m` may come with an interval, as `m_low` and `m_high`. Do not set `max_concurrent_trials`: Ray counts
paused trials as live, and the search would wait for ever.

A search that was cut off goes on with `tune.Tuner.restore`. Ray does not keep its scheduler, so each trial
keeps what it reported and what was decided on it, and the race is told all of it again. What does not
survive is what came after Ray's last write (every ten seconds or more; `TUNE_GLOBAL_CHECKPOINT_S`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from eed_search.core.errors import SpecError
from eed_search.runs.records import metric_problem
from eed_search.search.racing.promotion import PromotionRule, Verdict
from eed_search.search.racing.readings import Objectives, objectives_of
from eed_search.tune.arguments import (
    Mode,
    count_problems,
    level_problems,
    limit_problems,
    metric_problems,
    name_problems,
)

OnDecision = Callable[[str, int, Mapping[str, Any], str], None]


class ParetoRacing(TrialScheduler):
    """Pauses trials, and lets the best of each level go on: asynchronous promotion for several metrics.

    Args:
        metrics: Direction by metric, two to four.
        resource: The reported number that says how far a trial is, such as epochs or seconds spent;
            `training_iteration` is not allowed, since Ray counts it anew after a failure.
        levels: Values of the resource at which trials are compared, ascending; the last completes a
            trial.
        eta: One in `eta` trials of a level goes on.
        min_complete: Complete trials from which on the expected hypervolume improvement ranks; at least 1.
        limits: By metric, the worst final value that is allowed. A trial is stopped that surely breaks one:
            by its reading, its optimistic end if there is an interval, at the last level and, for a fixed
            metric, at any; else by what it would gain until the end, once three complete trials tell.
        fixed: Metrics that are the same at every level of a trial, such as its latency.
        finish_undecided: When the searcher has no more trials: run the paused trials that may still
            belong to the frontier to their end. Else they are stopped.
        on_decision: Told trial id, level, the result and the decision, before Ray acts on it.

    Attributes:
        race: The decisions.
        fixed: Metrics that are the same at every level.

    Raises:
        SpecError: All that is wrong with the arguments, at once.
    """

    def __init__(
        self,
        metrics: Mapping[str, Mode],
        *,
        resource: str,
        levels: Sequence[float],
        eta: int = 3,
        min_complete: int = 5,
        limits: Mapping[str, float] | None = None,
        fixed: Collection[str] = (),
        finish_undecided: bool = True,
        on_decision: OnDecision | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        limits = dict(limits or {})
        problems = metric_problems(metrics) + level_problems(metrics, resource, levels)
        problems += count_problems("eta", eta, 2, "one in eta trials goes on")
        problems += count_problems("min_complete", min_complete, 1, "that many complete trials rank")
        problems += limit_problems(metrics, limits) + name_problems("fixed", fixed, metrics)
        if problems:
            raise SpecError(problems)
        self._signs = {name: 1.0 if mode == "min" else -1.0 for name, mode in metrics.items()}
        self._resource, self._levels = resource, tuple(float(level) for level in levels)
        self._finish_undecided = finish_undecided
        self._on_decision = on_decision
        self._numbers: dict[str, int] = {}
        self._next = 0  # number of the next trial
        self._trials: dict[int, Trial] = {}  # by number
        self._restored: list[Trial] = []  # their reports are yet to be recalled
        self._num_reports = 0
        self._chosen: tuple[int, Trial] | None = None  # the paused trial that Ray was told to set going
        bounds = tuple(sign * limits[name] if name in limits else None for name, sign in self._signs.items())
        self.fixed = frozenset(fixed)
        self.race = PromotionRule(
            len(metrics),
            len(levels),
            eta=eta,
            min_complete=min_complete,
            limits=bounds,
            fixed=[j for j, name in enumerate(metrics) if name in self.fixed],
        )

    # ------------------------------------------------------------ Ray's calls

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Keep the metrics that were given to the scheduler; Ray's single metric plays no part."""
        del metric, mode, spec
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Enter a trial; one that comes back, after a failure or with its search, keeps its number and what it reported.

        When a search is restored, Ray gives every trial here, newest first, and those that were paused as
        PENDING: their pause is set again, since a scheduler cannot hold a PENDING trial back.
        """
        del tune_controller
        record = getattr(trial, _RECORD, None)
        if record is not None and trial.trial_id not in self._numbers:
            self._numbers[trial.trial_id] = record["number"]
            self._trials[record["number"]] = trial
            self._next = max(self._next, record["number"] + 1)
            self._restored.append(trial)
            if trial.status == Trial.PENDING and record["reports"] and record["reports"][-1][-1] == "pause":
                trial.set_status(Trial.PAUSED)
            return
        self._take_in()
        if record is None:
            self._numbers[trial.trial_id] = self._next
            setattr(trial, _RECORD, {"number": self._next, "reports": []})
            self._next += 1
        number = self._numbers[trial.trial_id]
        self._trials[number] = trial
        self.race.add(number)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide on a report.

        Returns:
            CONTINUE, PAUSE or STOP. A report between two levels goes on. A metric that is missing or
            not finite stops the trial: it has failed, as the searcher will say.
        """
        del tune_controller
        self._take_in()
        number = self._numbers[trial.trial_id]
        level = self._level(result)
        if level is None:
            self.race.end(number)
            return str(TrialScheduler.STOP)
        if level < 0:
            return str(TrialScheduler.CONTINUE)
        reading = objectives_of(result, self._signs)
        if reading is None:
            self.race.end(number)
            return str(TrialScheduler.STOP)
        verdict = self._decide(trial, number, level, reading)
        decision = _DECISIONS[verdict]
        if self._on_decision is not None:
            self._on_decision(trial.trial_id, level, result, verdict)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Take in a trial's end."""
        self.race.end(self._numbers[trial.trial_id])

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Take in that a paused or waiting trial was stopped."""
        self.race.end(self._numbers[trial.trial_id])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Take in a failure; if Ray tries the trial again, `on_trial_add` follows."""
        self.race.end(self._numbers[trial.trial_id])

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Choose: one that was chosen or failed before and waits, then a paused one that may go on, then a fresh one.

        Once the searcher has no more trials, paused ones that may still belong to the frontier
        follow one by one; when none is left, the rest is stopped.
        """
        self._take_in()
        active = [(number, self._trials[number]) for number in self.race.running()]
        pending = sorted(number for number, trial in active if trial.status == Trial.PENDING)
        for number in pending:
            if self.race.has_reported(number):
                return self._trials[number]
        chosen = self.race.next_to_resume()
        if chosen is None and not pending:
            busy = any(trial.status == Trial.RUNNING for _, trial in active)
            chosen = self._when_nothing_is_fresh(tune_controller, busy)
        if chosen is not None and self._trials[chosen].status == Trial.PAUSED:
            self._chosen = chosen, self._trials[chosen]
            return self._trials[chosen]
        return self._trials[pending[0]] if pending else None

    def debug_string(self) -> str:
        """Say in one line how the race stands."""
        return f"ParetoRacing: {len(self.race.complete())} complete, {len(self.race.paused())} paused"

    # ------------------------------------------------------------ for a searcher

    def paused(self) -> set[str]:
        """Ray's names of the trials that are paused."""
        self._take_in()
        return {self._trials[number].trial_id for number in self.race.paused()}

    def may_resume(self) -> bool:
        """Say whether a paused trial should go on before a fresh one is proposed."""
        self._take_in()
        return self.race.next_to_resume() is not None

    # ------------------------------------------------------------ inside

    def _take_in(self) -> None:
        """Tell the race what Ray has done meanwhile: restored trials, and the chosen trial taken out of its pause."""
        if self._restored:
            self._recall()
        if self._chosen is not None and self._chosen[1].status != Trial.PAUSED:
            self.race.resume(self._chosen[0])
            self._chosen = None

    def _decide(self, trial: Trial, number: int, level: int, reading: Objectives) -> Verdict:
        """Ask the race, and keep report and verdict with the trial: Ray writes its trials, but not its scheduler."""
        if not self.race.is_new(number, level):
            return self.race.report(number, level, reading)
        verdict = self.race.report(number, level, reading)
        told = [[float(x) for x in end] for end in (reading.value, reading.low, reading.high)]
        getattr(trial, _RECORD)["reports"].append([self._num_reports, level, *told, verdict])
        trial.invalidate_json_state()
        self._num_reports += 1
        return verdict

    def _recall(self) -> None:
        """Tell the race what the restored trials reported before, in the order in which they did."""
        trials = sorted(self._restored, key=lambda trial: self._numbers[trial.trial_id])
        self._restored = []
        reports = []
        for trial in trials:
            number = self._numbers[trial.trial_id]
            self.race.add(number)
            reports += [(*report, number) for report in getattr(trial, _RECORD)["reports"]]
        for when, level, value, low, high, verdict, number in sorted(reports):
            self.race.recall(number, level, Objectives(tuple(value), tuple(low), tuple(high)), verdict)
            self._num_reports = max(self._num_reports, when + 1)
        for trial in trials:
            number = self._numbers[trial.trial_id]
            if trial.is_finished():
                self.race.end(number)
            elif trial.status != Trial.PAUSED:
                self.race.add(number)

    def _when_nothing_is_fresh(self, controller: Any, busy: bool) -> int | None:
        if not controller.search_alg.is_finished():
            # The searcher may be waiting for a result: rather than idle with it for ever, go on.
            return None if busy else self.race.best_paused()
        if self._finish_undecided:
            for number in self.race.undecided():
                return number
        if not busy:
            for number in self.race.paused():
                controller.stop_trial(self._trials[number])
        return None

    def _level(self, result: Mapping[str, Any]) -> int | None:
        """The highest level that the report has reached; -1 below the first, none without the resource."""
        value: Any = result.get(self._resource)
        if metric_problem(self._resource, value):
            return None
        return sum(bool(value >= level) for level in self._levels) - 1


# Where a trial keeps its number and its reports (when, level, value, low, high, verdict); Ray writes a trial's attributes.
_RECORD = "pareto_racing"

_DECISIONS: dict[Verdict, str] = {
    "continue": TrialScheduler.CONTINUE,
    "pause": TrialScheduler.PAUSE,
    "done": TrialScheduler.STOP,
    "infeasible": TrialScheduler.STOP,
}
