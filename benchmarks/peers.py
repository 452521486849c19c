"""The methods that ours is compared with, as pairs of a Ray Tune searcher and scheduler.

Each is written from its published rule and shares nothing with our own method, so that a mistake of
ours is not in both. All are told the truth about their trials (`Peer`), which Ray's own OptunaSearch
does not do: it would make every one of them worse.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import optuna
from jaxtyping import Float, Int
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

Mode = Literal["max", "min"]
Pair = tuple[Searcher, TrialScheduler]
Priority = Callable[[Float[np.ndarray, "trials objectives"]], Int[np.ndarray, " trials"]]

ETA = 3
# Of a search of twenty full trainings: Optuna's default of 50 would never fill one generation.
_POPULATION = 8
_HUB_STARTUP_TRIALS = 5


class Problem(Protocol):
    """What a method sees of a problem."""

    @property
    def metrics(self) -> Mapping[str, Mode]:
        """Direction by metric."""
        ...

    @property
    def resource(self) -> str:
        """The reported number that says how far a trial is."""
        ...

    def space(self, trial: Any) -> dict[str, Any]:
        """Draw a configuration from an Optuna trial."""
        ...

    def known(self, config: Mapping[str, Any]) -> dict[str, float]:
        """Give the metrics that are known before training."""
        ...


# ---------------------------------------------------------------- searchers


class Peer(Searcher):
    """One of Optuna's samplers, with its own defaults; told how each trial really ended.

    A trial that reached the last level → COMPLETE with its values; stopped before → PRUNED; crashed, or with
    a metric that is not finite → FAIL.

    Args:
        space: Draws a configuration (define by run).
        metrics: Direction by metric.
        sampler: With its seed.
        resource: The reported number that says how far a trial is.
        last: Its value for a complete trial.
        max_running: No proposal while this many trials are open, so that each is made with all that
            could be known; none for a scheduler that pauses trials.

    Source:
        Optuna 5, https://optuna.readthedocs.io (TPE: Ozaki et al. 2022, https://doi.org/10.1613/jair.1.13188;
        NSGA-II: Deb et al. 2002, https://doi.org/10.1109/4235.996017).
    """

    def __init__(
        self,
        space: Callable[[Any], dict[str, Any]],
        metrics: Mapping[str, Mode],
        sampler: BaseSampler,
        *,
        resource: str,
        last: float,
        max_running: int | None,
    ) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        maximise, minimise = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        self.study = optuna.create_study(
            directions=[maximise if mode == "max" else minimise for mode in metrics.values()], sampler=sampler
        )
        self._space, self._metrics, self._resource, self._last = space, tuple(metrics), resource, last
        self._max_running = max_running
        self._open: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Propose a configuration; none while enough trials run."""
        if self._max_running is not None and len(self._open) >= self._max_running:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask()
            config = self._space(trial)
        self._open[trial_id] = trial
        return config

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the truth."""
        trial = self._open.pop(trial_id)
        if error or result is None or self._resource not in result:
            self.study.tell(trial, state=TrialState.FAIL if error else TrialState.PRUNED)
            return
        values = [float(result[metric]) for metric in self._metrics]
        if not all(map(math.isfinite, values)):
            self.study.tell(trial, state=TrialState.FAIL)
        elif result[self._resource] >= self._last:
            self.study.tell(trial, values)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)


# ---------------------------------------------------------------- ranks


def moasha_order(values: Float[np.ndarray, "trials objectives"]) -> list[list[int]]:
    """Order trials by fronts, and inside a front so that each next one is far from all before it.

    The first of a front has the best first objective; the next is the one whose nearest predecessor is
    farthest away. Of equal ones the first comes first.

    Args:
        values: Minimised; the distances are taken as they are, on no common scale, as the authors do.

    Returns:
        The indices of each front, best first.

    Source:
        Salinas et al. 2021, section 3, https://arxiv.org/abs/2106.05680 (fronts and epsilon-net); Clarkson 2006 (the net).
    """
    import moocore

    front_of = moocore.pareto_rank(np.ascontiguousarray(values))
    fronts = []
    for number in range(front_of.max() + 1):
        members = np.flatnonzero(front_of == number)
        points = values[members]
        order = [int(points[:, 0].argmin())]
        nearest = np.full(len(points), np.inf)
        while len(order) < len(points):
            nearest = np.minimum(nearest, np.linalg.norm(points - points[order[-1]], axis=1))
            nearest[order[-1]] = -1.0
            order.append(int(nearest.argmax()))
        fronts.append([int(members[place]) for place in order])
    return fronts


def repaired_ranks(values: Float[np.ndarray, "trials objectives"]) -> Int[np.ndarray, " trials"]:
    """Give each trial its place in `moasha_order`: what the paper says.

    (2,2), (3,3), (1,1), (0,0) → 2, 3, 1, 0.
    """
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[[index for front in moasha_order(values) for index in front]] = np.arange(len(values))
    return ranks


def shipped_ranks(values: Float[np.ndarray, "trials objectives"]) -> Int[np.ndarray, " trials"]:
    """Give what Syne Tune 0.15 takes for ranks.

    It takes the sorted list of indices itself: at place i stands not the rank of trial i but the index
    of the i-th best trial. Inside a front it takes a list of ranks for a list of indices, the same
    mistake the other way round. (2,2), (3,3), (1,1), (0,0) → 3, 2, 0, 1.

    Source:
        The behaviour of `NonDominatedPriority` in syne-tune 0.15.0, compared with this on random inputs.
    """
    mixed: list[int] = []
    for front in moasha_order(values):
        members = sorted(front)
        mixed.extend(members[front.index(member)] for member in members)
    return np.array(mixed)


# ---------------------------------------------------------------- schedulers


class _Judge(FIFOScheduler):
    """What all schedulers here share: metrics with directions, and a resource with levels."""

    def __init__(self, metrics: Mapping[str, Mode], *, resource: str, levels: Sequence[float]) -> None:
        super().__init__()
        self._signs = {name: -1.0 if mode == "max" else 1.0 for name, mode in metrics.items()}
        self._resource, self._levels = resource, tuple(levels)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take nothing: it has its own metrics."""
        return metric is None and mode is None

    def _values(self, result: Mapping[str, Any]) -> list[float]:
        return [sign * float(result[name]) for name, sign in self._signs.items()]


class Moasha(_Judge):
    """Asynchronous successive halving that stops: go on while in the best 1/eta of the level so far.

    At a level, a trial's values join those of all trials that were there before it, stopped ones too;
    it goes on if its rank, counted from 0, is at most their number over eta. The first at a level goes on.

    Args:
        metrics: Direction by metric; the first one begins each epsilon-net.
        resource: The reported number that says how far a trial is.
        levels: Where trials are compared; the last completes a trial.
        ranks: `repaired_ranks` or `shipped_ranks`.
        eta: One in `eta` goes on.

    Source:
        Schmucker et al. 2021, https://arxiv.org/abs/2106.12639, with the stopping rule of Syne Tune 0.15.
    """

    def __init__(
        self,
        metrics: Mapping[str, Mode],
        *,
        resource: str,
        levels: Sequence[float],
        ranks: Priority = repaired_ranks,
        eta: int = ETA,
    ) -> None:
        super().__init__(metrics, resource=resource, levels=levels)
        self._ranks, self._eta = ranks, eta
        self._seen: dict[float, list[list[float]]] = {level: [] for level in self._levels}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Compare at the levels; let go on between them."""
        level = result[self._resource]
        if level >= self._levels[-1]:
            return TrialScheduler.STOP
        if level not in self._seen:
            return TrialScheduler.CONTINUE
        seen = self._seen[level]
        seen.append(self._values(result))
        rank = self._ranks(np.array(seen))[-1]
        return TrialScheduler.STOP if rank / len(seen) > 1 / self._eta else TrialScheduler.CONTINUE


class PromotingMoasha(_Judge):
    """Asynchronous successive halving that promotes: pause at each level; resume the best 1/eta of it.

    A free worker takes the best trial that is in the best floor(n / eta) of its level and has not gone on,
    from the highest level that has one; else a new trial.

    Args:
        metrics: Direction by metric; the first one begins each epsilon-net.
        resource: The reported number that says how far a trial is.
        levels: Where trials pause; the last completes a trial.
        eta: One in `eta` goes on.

    Source:
        Li et al. 2020 (ASHA), algorithm 2, https://arxiv.org/abs/1810.05934, with the ranks of `repaired_ranks`.
    """

    def __init__(self, metrics: Mapping[str, Mode], *, resource: str, levels: Sequence[float], eta: int = ETA) -> None:
        super().__init__(metrics, resource=resource, levels=levels)
        self._eta = eta
        self._seen: dict[float, dict[str, list[float]]] = {level: {} for level in self._levels[:-1]}
        self._promoted: dict[float, set[str]] = {level: set() for level in self._levels[:-1]}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause at each level."""
        level = result[self._resource]
        if level >= self._levels[-1]:
            return TrialScheduler.STOP
        if level not in self._seen:
            return TrialScheduler.CONTINUE
        self._seen[level][trial.trial_id] = self._values(result)
        return TrialScheduler.PAUSE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Name the promoted trial that waits for a worker, or the next to be promoted."""
        trials: dict[str, Trial] = {trial.trial_id: trial for trial in tune_controller.get_trials()}
        for level in reversed(self._seen):
            for trial_id in self._promoted[level]:
                if trials[trial_id].status == Trial.PENDING:
                    return trials[trial_id]
        for level, seen in reversed(self._seen.items()):
            if len(seen) < self._eta:
                continue
            names = list(seen)
            best = np.argsort(repaired_ranks(np.array(list(seen.values()))))[: len(seen) // self._eta]
            for place in best:
                trial = trials[names[place]]
                if trial.trial_id not in self._promoted[level] and trial.status == Trial.PAUSED:
                    self._promoted[level].add(trial.trial_id)
                    return trial
        return None


class HubPruner(_Judge):
    """OptunaHub's MultiMetricPruner in its joint mode, around Optuna's MedianPruner.

    At each step all trials that reported there, running ones too, are ranked by fronts. A trial is
    pruned if its best front number over its steps is above the median front number, at this step, of
    the trials that have ended; nothing is pruned before five trials have ended.

    Args:
        metrics: Direction by metric.
        resource: The reported number that says how far a trial is.
        levels: Where trials are compared; the last completes a trial.

    Source:
        OptunaHub, pruners/multi_metric_pruner (its description), with the defaults of Optuna's MedianPruner.
    """

    def __init__(self, metrics: Mapping[str, Mode], *, resource: str, levels: Sequence[float]) -> None:
        super().__init__(metrics, resource=resource, levels=levels)
        self._seen: dict[float, dict[str, list[float]]] = {level: {} for level in self._levels}
        self._ended: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Prune by the median of front numbers."""
        import moocore

        level = result[self._resource]
        if level not in self._seen:
            return TrialScheduler.CONTINUE
        self._seen[level][trial.trial_id] = self._values(result)
        if level >= self._levels[-1]:
            return TrialScheduler.STOP
        if len(self._ended) < _HUB_STARTUP_TRIALS:
            return TrialScheduler.CONTINUE
        own, others = math.inf, []
        for step, seen in self._seen.items():
            if trial.trial_id not in seen:
                continue
            fronts = dict(zip(seen, moocore.pareto_rank(np.array(list(seen.values()))), strict=True))
            own = min(own, fronts[trial.trial_id])
            if step == level:
                others = [front for name, front in fronts.items() if name in self._ended]
        worse = bool(others) and own > np.median(others)
        return TrialScheduler.STOP if worse else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Count a trial that has ended, at its end or before."""
        self._ended.add(trial.trial_id)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Count a trial that failed as ended."""
        self._ended.add(trial.trial_id)


# ---------------------------------------------------------------- the pairs


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=_POPULATION)


def _pair(
    sampler: Callable[[int], BaseSampler], scheduler: Callable[..., TrialScheduler] | None, *, pauses: bool = False
) -> Callable[[Problem, Sequence[float], int, int], Pair]:
    def make(problem: Problem, levels: Sequence[float], seed: int, workers: int) -> Pair:
        searcher = Peer(
            problem.space,
            problem.metrics,
            sampler(seed),
            resource=problem.resource,
            last=levels[-1],
            max_running=None if pauses else workers,
        )
        if scheduler is None:
            return searcher, FIFOScheduler()
        return searcher, scheduler(problem.metrics, resource=problem.resource, levels=levels)

    return make


def _shipped(metrics: Mapping[str, Mode], **options: Any) -> Moasha:
    return Moasha(metrics, ranks=shipped_ranks, **options)


PEERS: dict[str, Callable[[Problem, Sequence[float], int, int], Pair]] = {
    "random": _pair(_random, None),
    "tpe": _pair(_tpe, None),
    "nsga2": _pair(_nsga2, None),
    "moasha_shipped": _pair(_random, _shipped),
    "moasha": _pair(_random, Moasha),
    "moasha_promoting": _pair(_random, PromotingMoasha, pauses=True),
    "tpe_moasha": _pair(_tpe, Moasha),
    "hub_pruner": _pair(_tpe, HubPruner),
}
"""Makes a method's pair from the problem, the levels, the seed and the number of workers."""
