"""Parameters without Optuna: drawn at random, near given ones or anywhere, and written as numbers in 0..1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from eed_search.search.sampling import distributions

Params = dict[str, Any]


class RandomTrial:
    """Draws at random where an Optuna trial would be asked, near given parameters or anywhere.

    Args:
        rng: Draws.
        near: Parameters to stay near; a name that is not among them is drawn from its whole range.
        change: Chance that a parameter of `near` is changed.

    Attributes:
        params: What was drawn, by name.
        distributions: From what, by name.
    """

    def __init__(self, rng: np.random.Generator, near: Params | None = None, change: float = 0.35) -> None:
        self.params: Params = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self._rng, self._near, self._change = rng, near or {}, change

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a real number."""
        return float(self._number(name, distributions.real(low, high, log, step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Draw a whole number."""
        return int(self._number(name, distributions.whole(low, high, log, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of the choices."""
        distribution = distributions.choice(choices)
        if name in self.params:
            return self.params[name]
        if name in self._near and self._rng.random() >= self._change:
            value = self._near[name]
        else:
            value = distribution.choices[int(self._rng.integers(len(distribution.choices)))]
        return self._keep(name, distribution, value)

    def _number(self, name: str, distribution: FloatDistribution | IntDistribution) -> float:
        if name in self.params:
            return float(self.params[name])
        if name not in self._near:
            place = self._rng.random()
        else:
            place = _unit(distribution, self._near[name])
            if self._rng.random() < self._change:
                place = float(np.clip(place + 0.15 * self._rng.standard_normal(), 0.0, 1.0))
            else:
                return float(self._keep(name, distribution, self._near[name]))
        return float(self._keep(name, distribution, _from_unit(distribution, place)))

    def _keep(self, name: str, distribution: BaseDistribution, value: Any) -> Any:
        self.params[name] = value
        self.distributions[name] = distribution
        return value


def _unit(distribution: FloatDistribution | IntDistribution, value: float) -> float:
    low, high = float(distribution.low), float(distribution.high)
    if high <= low:
        return 0.5
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _from_unit(distribution: FloatDistribution | IntDistribution, place: float) -> float:
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    elif distribution.step is not None:  # every value of the grid has an equal share
        num = round((high - low) / distribution.step) + 1
        return low + distribution.step * min(int(place * num), num - 1)
    else:
        value = low + place * (high - low)
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else value


class Encoder:
    """Turns parameters into numbers in 0..1: one column a number, one a choice; absent is the middle.

    A parameter that some trials lack needs no column that says so: what decides whether it is there
    is a parameter too.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._columns: list[Callable[[Params], float]] = []
        for name in sorted(distributions):
            distribution = distributions[name]
            if isinstance(distribution, CategoricalDistribution):
                choices = distribution.choices if len(distribution.choices) > 2 else distribution.choices[:1]
                self._columns += [self._is(name, choice) for choice in choices]
            elif isinstance(distribution, FloatDistribution | IntDistribution):
                self._columns.append(self._place(name, distribution))

    def encode(self, rows: Sequence[Params]) -> Float[np.ndarray, "rows columns"]:
        """Give a row of numbers for each row of parameters."""
        return np.array([[column(row) for column in self._columns] for row in rows]).reshape(len(rows), -1)

    @staticmethod
    def _is(name: str, choice: Any) -> Callable[[Params], float]:
        return lambda row: float(row[name] == choice) if name in row else 0.5

    @staticmethod
    def _place(name: str, distribution: FloatDistribution | IntDistribution) -> Callable[[Params], float]:
        return lambda row: _unit(distribution, row[name]) if name in row else 0.5
