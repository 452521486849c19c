"""Proposals from a model: where the frontier is expected to grow most, by a Gaussian process.

Objectives that are known before a trial runs, such as the latency of a single network, are taken as they are; of those
that lie between known ends, such as a team's, the place between the ends is predicted; the others are predicted at
the last level from every report at any level. Limits that only a finished trial shows are learnt as well. Candidates are drawn at random from
the space and around the best trials so far; the one with the largest expected hypervolume improvement for its cost is
proposed. Everything here minimises.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from optuna.distributions import BaseDistribution

from eed_search.frontier.ehvi import expected_improvement
from eed_search.frontier.pareto import non_dominated
from eed_search.search.sampling.drawing import Encoder, Params, RandomTrial

Space = Callable[[Any], dict[str, Any]]
_NUM_RANDOM, _NUM_NEAR = 600, 200  # candidates of a proposal
_MOST_ROWS, _MOST_FITTED = 400, 200  # reports that the model learns from, and that its settings are fitted to
_JITTER = 1e-8  # on the diagonal
_MARGIN = 0.1  # share of the range, beyond the worst value: where hypervolume is measured to
_REFIT = 1.2  # the model's own settings are fitted anew when there are this many times more reports
_FIRST_FIT = 4  # reports up to which they are fitted every time
_ANYWHERE = 12**-0.5  # deviation of a place between two ends of which nothing is known


@dataclass(frozen=True)
class Observation:
    """One report of one trial.

    Attributes:
        trial: Its number.
        params: What was drawn for it, by name.
        level: From 0; `num_levels - 1` is a complete trial.
        values: One for each objective, minimised.
    """

    trial: int
    params: Params
    level: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Violation:
    """By how much one finished trial broke a limit.

    Attributes:
        params: What was drawn for it, by name.
        value: In the limit's unit; at most 0 is kept.
    """

    params: Params
    value: float


@dataclass(frozen=True)
class Candidate:
    """A configuration that could be proposed.

    Attributes:
        params: What was drawn, by name.
        config: What the space makes of it.
    """

    params: Params
    config: dict[str, Any]


class Model:
    """Learns from reports and proposes.

    What it proposes depends on what it is given alone: it remembers nothing but the settings it has fitted,
    and to which reports, and what the space makes of parameters, so that it need not find out the same again.

    Args:
        space: Draws a configuration from whatever offers `suggest_float`, `suggest_int` and
            `suggest_categorical`, as an Optuna trial does.
        num_objectives: Two to four.
        num_levels: Levels that a trial reports at.
        known: Gives, for a configuration, the objectives known before it runs, by index.
        ends: Gives, for a configuration, the least and the largest value of objectives that are only bounded.
        allowed: Says whether a configuration keeps the limits known before it runs.
        cost: What a configuration would still cost, in any unit; the same for all by default.
        same: What two configurations have in common of which only one is worth a trial; by default any two may be.
    """

    def __init__(
        self,
        space: Space,
        num_objectives: int,
        num_levels: int,
        *,
        known: Callable[[dict[str, Any]], Mapping[int, float]] | None = None,
        ends: Callable[[dict[str, Any]], Mapping[int, tuple[float, float]]] | None = None,
        allowed: Callable[[dict[str, Any]], bool] | None = None,
        cost: Callable[[dict[str, Any]], float] | None = None,
        same: Callable[[dict[str, Any]], Hashable] | None = None,
    ) -> None:
        self._same = same
        self._space, self._num_objectives, self._num_levels = space, num_objectives, num_levels
        self._known = known or (lambda config: {})
        self._ends = ends or (lambda config: {})
        self._allowed = allowed or (lambda config: True)
        self._cost = cost or (lambda config: 1.0)
        self._seen: dict[str, BaseDistribution] = {}
        self._names: dict[frozenset[tuple[str, Any]], Hashable] = {}  # what `same` says of parameters
        self._ends_of: dict[frozenset[tuple[str, Any]], Mapping[int, tuple[float, float]]] = {}  # and `ends`
        self._kernels: dict[int | str, tuple[bytes, Any]] = {}  # by objective or limit: what it was fitted on, kernel

    def propose(
        self,
        observations: Sequence[Observation],
        running: Sequence[Params],
        rng: np.random.Generator,
        before: Sequence[Params] = (),
        limits: Mapping[str, Sequence[Violation]] | None = None,
    ) -> Params | None:
        """Choose what to try next.

        Args:
            observations: Every report so far, in the order in which they came: the model's settings are those
                of the first ones, up to the last of the numbers 4, 5, 6, 8, 10, 12, … that there are (of 200 at most).
            running: Parameters of trials that have not reported yet; the model takes its own
                prediction for their result.
            rng: Draws the candidates.
            before: Parameters of all trials that were proposed, whatever became of them.
            limits: By how much finished trials broke each limit that only they show, in the order in which they ended.

        Returns:
            Parameters by name; none when there is nothing to learn from, or no candidate keeps the
            limits and is new.
        """
        if not observations:
            return None
        self._seen = {}
        candidates = self._new(self._candidates(observations, rng), before)
        if not candidates:
            return None
        encoder = Encoder(self._seen)
        known = [self._known(c.config) for c in candidates]
        pending = [self._replay(params) for params in running]
        rows = encoder.encode([c.params for c in candidates] + [c.params for c in pending])
        known += [self._known(c.config) for c in pending]
        ends = [self._ends(c.config) for c in [*candidates, *pending]]
        mean = np.zeros((len(rows), self._num_objectives))
        deviation = np.zeros_like(mean)
        for j in range(self._num_objectives):
            if all(j in one for one in known):
                mean[:, j] = [one[j] for one in known]
            elif all(j in one for one in ends):
                mean[:, j], deviation[:, j] = self._between(j, observations, encoder, rows, [one[j] for one in ends])
            else:
                mean[:, j], deviation[:, j] = self._predict(j, observations, encoder, rows)
                for i, one in enumerate(ends):
                    if j in one:
                        mean[i, j] = np.clip(mean[i, j], *one[j])
                        deviation[i, j] = min(deviation[i, j], _ANYWHERE * (one[j][1] - one[j][0]))
        num = len(candidates)
        front = self._front(observations, mean[num:])
        low = np.minimum(front.min(axis=0), mean[:num].min(axis=0))
        high = np.array([o.values for o in observations]).max(axis=0)
        reference = high + _MARGIN * np.maximum(high - low, 1e-12)
        gains = expected_improvement(mean[:num], deviation[:num], front, reference)
        for name, seen in (limits or {}).items():
            gains = gains * self._keeping(name, seen, encoder, rows[:num])
        costs = np.array([max(self._cost(c.config), 1e-12) for c in candidates])
        return candidates[int(np.argmax(gains / costs))].params

    # ------------------------------------------------------------ candidates

    def _candidates(self, observations: Sequence[Observation], rng: np.random.Generator) -> list[Candidate]:
        best = self._best(observations)
        found = [self._draw(RandomTrial(rng)) for _ in range(_NUM_RANDOM)]
        for n in range(_NUM_NEAR if best else 0):
            found.append(self._draw(RandomTrial(rng, near=best[n % len(best)])))
        return [c for c in found if self._allowed(c.config)]

    def welcomes(self, config: dict[str, Any], before: Sequence[Params]) -> bool:
        """Whether a configuration keeps the limits known before it runs, and no trial was as good as it."""
        return self._allowed(config) and (self._same is None or self._same(config) not in self._tried(before))

    def draw(self, rng: np.random.Generator, before: Sequence[Params]) -> Params | None:
        """Draw at random until a configuration is welcome; none if so many draws give none.

        Args:
            rng: Draws.
            before: Parameters of all trials that were proposed.
        """
        drawn = (self._draw(RandomTrial(rng)) for _ in range(_NUM_RANDOM))
        return next((one.params for one in drawn if self.welcomes(one.config, before)), None)

    def _new(self, candidates: list[Candidate], before: Sequence[Params]) -> list[Candidate]:
        if self._same is None:
            return candidates
        tried = self._tried(before)
        return [c for c in candidates if self._same(c.config) not in tried]

    def _tried(self, before: Sequence[Params]) -> set[Hashable]:
        assert self._same is not None
        for params in before:
            if (key := frozenset(params.items())) not in self._names:
                self._names[key] = self._same(self._replay(params).config)
        return {self._names[frozenset(params.items())] for params in before}

    def _draw(self, trial: RandomTrial) -> Candidate:
        config = self._space(trial)
        self._seen.update(trial.distributions)
        return Candidate(trial.params, config)

    def _replay(self, params: Params) -> Candidate:
        return self._draw(RandomTrial(np.random.default_rng(0), near=params, change=0.0))

    def _best(self, observations: Sequence[Observation]) -> list[Params]:
        latest = {o.trial: o for o in observations}
        rows = list(latest.values())
        keep = non_dominated(np.array([o.values for o in rows]))
        return [o.params for o, on in zip(rows, keep, strict=True) if on]

    # ------------------------------------------------------------ prediction

    def _front(
        self, observations: Sequence[Observation], pending: np.ndarray
    ) -> Float[np.ndarray, "points objectives"]:
        latest = {o.trial: o.values for o in observations}
        values = np.vstack([np.array(list(latest.values())), pending])
        return np.asarray(values[non_dominated(values)])

    def _between(
        self,
        objective: int,
        observations: Sequence[Observation],
        encoder: Encoder,
        rows: np.ndarray,
        ends: Sequence[tuple[float, float]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict an objective that lies between known ends: where between them, from all whose ends differ."""
        placed = []
        for one in observations:
            if (key := frozenset(one.params.items())) not in self._ends_of:
                self._ends_of[key] = self._ends(self._replay(one.params).config)
            found = self._ends_of[key].get(objective)
            if found is not None and found[1] > found[0]:
                place = (one.values[objective] - found[0]) / (found[1] - found[0])
                placed.append(replace(one, values=(place,)))
        low, high = np.array(ends, dtype=float).T
        if placed:
            mean, deviation = self._predict(0, placed, encoder, rows, key=f"place of {objective}")
        else:
            mean, deviation = np.full(len(rows), 0.5), np.full(len(rows), _ANYWHERE)
        mean, deviation = np.clip(mean, 0.0, 1.0), np.minimum(deviation, _ANYWHERE)
        return low + mean * (high - low), deviation * (high - low)

    def _keeping(
        self, name: str, seen: Sequence[Violation], encoder: Encoder, rows: np.ndarray
    ) -> Float[np.ndarray, " rows"]:
        """Give each row's probability to keep a limit; 1 while no trial has broken it.

        Source:
            Expected improvement times the probability to be feasible: Gardner et al. 2014, ICML.
        """
        from scipy.special import ndtr

        if not any(one.value > 0 for one in seen):
            return np.ones(len(rows))
        top = self._num_levels - 1
        known = [Observation(i, one.params, top, (one.value,)) for i, one in enumerate(seen)]
        mean, deviation = self._predict(0, known, encoder, rows, key=f"limit {name}")
        return np.asarray(ndtr(-mean / np.maximum(deviation, 1e-12)))

    def _predict(
        self, objective: int, observations: Sequence[Observation], encoder: Encoder, rows: np.ndarray, key: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict one objective at the last level; `key` tells apart what else is predicted by the same means."""
        from sklearn.gaussian_process import GaussianProcessRegressor

        inputs, targets = self._table(objective, observations, encoder, _MOST_ROWS)
        process = GaussianProcessRegressor(
            self._fitted(objective, observations[: _fitted_on(len(observations))], encoder, key or objective),
            optimizer=None,
            normalize_y=True,
            alpha=_JITTER,
        ).fit(inputs, targets)
        mean, deviation = process.predict(np.column_stack([rows, np.ones(len(rows))]), return_std=True)
        noise = process.kernel_.k2.noise_level * float(targets.std()) ** 2
        return mean, np.sqrt(np.maximum(deviation**2 - noise, 1e-16))

    def _fitted(self, objective: int, observations: Sequence[Observation], encoder: Encoder, key: int | str) -> Any:
        """Give the kernel with the settings under which these reports are likeliest."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor

        inputs, targets = self._table(objective, observations, encoder, _MOST_FITTED)
        content = inputs.tobytes() + targets.tobytes()
        before, kernel = self._kernels.get(key, (b"", None))
        if before != content:
            process = GaussianProcessRegressor(_kernel(inputs.shape[1]), normalize_y=True, alpha=_JITTER)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a bound is as good as another value
                kernel = process.fit(inputs, targets).kernel_
            self._kernels[key] = (content, kernel)
        return kernel

    def _table(
        self, objective: int, observations: Sequence[Observation], encoder: Encoder, most: int
    ) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, " rows"]]:
        learnt = self._worth_learning(observations, most)
        heights = [self._height(o.level) for o in learnt]
        inputs = np.column_stack([encoder.encode([o.params for o in learnt]), heights])
        return inputs, np.array([o.values[objective] for o in learnt])

    def _worth_learning(self, observations: Sequence[Observation], most: int) -> list[Observation]:
        """All reports, or, of too many, the highest levels first and of those the latest."""
        order = sorted(range(len(observations)), key=lambda i: (observations[i].level, i))
        return [observations[i] for i in sorted(order[-most:])]

    def _height(self, level: int) -> float:
        return (level + 1) / self._num_levels


def _fitted_on(num: int) -> int:
    """Say how many of so many reports the model's settings are fitted to."""
    fitted = _FIRST_FIT
    while (following := math.ceil(_REFIT * fitted)) <= num:
        fitted = following
    return min(num, fitted)


def _kernel(width: int) -> Any:
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    scales = Matern(np.full(width, 0.7), (0.05, 20.0), nu=2.5)
    return ConstantKernel(1.0, (1e-2, 1e2)) * scales + WhiteKernel(1e-2, (1e-6, 1.0))
