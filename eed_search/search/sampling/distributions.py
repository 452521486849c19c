"""Optuna's distributions, each made once: a search draws thousands of times from the same few, which nobody changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

_MOST = 4096  # more than any space has


def real(low: float, high: float, log: bool, step: float | None) -> FloatDistribution:
    """Give the distribution of a real number."""
    return _real(low, high, log, step)


def whole(low: int, high: int, log: bool, step: int) -> IntDistribution:
    """Give the distribution of a whole number."""
    return _whole(low, high, log, step)


def choice(choices: Sequence[Any]) -> CategoricalDistribution:
    """Give the distribution of one of some values."""
    return _choice(tuple(choices))


_real = lru_cache(_MOST, typed=True)(FloatDistribution)
_whole = lru_cache(_MOST, typed=True)(IntDistribution)


@lru_cache(_MOST, typed=True)
def _choice(choices: tuple[Any, ...]) -> CategoricalDistribution:
    return CategoricalDistribution(choices)
