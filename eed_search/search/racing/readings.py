"""What trials of a race measured: one reading, every objective turned so that less is better, and all of one level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from eed_search.runs.records import metric_problem

WIDTHS = 4  # a 95 % interval is four standard deviations wide


@dataclass(frozen=True)
class Objectives:
    """What a trial measured at one level, every objective turned so that less is better.

    Attributes:
        value: One number for each objective, finite.
        low: Optimistic end of each number's interval.
        high: Pessimistic end.
    """

    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def objectives_of(result: Mapping[str, Any], signs: Mapping[str, float]) -> Objectives | None:
    """Turn a report round so that less is better; none if a metric is missing or not finite.

    Args:
        result: Metrics, each perhaps with `_low` and `_high`.
        signs: 1 for a metric to minimise, -1 for one to maximise.
    """
    rows = []
    for name, sign in signs.items():
        value: Any = result.get(name)
        if metric_problem(name, value):
            return None
        low: Any = result.get(f"{name}_low", value)
        high: Any = result.get(f"{name}_high", value)
        if metric_problem(name, low) or metric_problem(name, high):
            low = high = value
        rows.append((sign * value, *sorted((sign * low, sign * high))))
    values, lows, highs = zip(*rows, strict=True)
    return Objectives(values, lows, highs)


class Level:
    """The reports of one level, in order; rows grow in place, so that a decision copies none."""

    def __init__(self, width: int) -> None:
        self.trials: list[int] = []
        self.waiting: dict[int, int] = {}  # paused here: trial → its row
        self.gone_on = 0
        self.gains: list[np.ndarray] = []  # gains of complete trials: final value - value here
        self.version = 0  # version of what reported and waits here
        self._rows = np.empty((16, 2 * width))
        self._width = width

    def append(self, trial: int, reading: Objectives) -> None:
        """Take in what a trial measured here."""
        if len(self.trials) == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        error = [(high - low) / WIDTHS for low, high in zip(reading.low, reading.high, strict=True)]
        self._rows[len(self.trials)] = [*reading.value, *error]
        self.trials.append(trial)
        self.version += 1

    def wait(self, trial: int) -> None:
        """Pause the trial that reported last."""
        self.waiting[trial] = len(self.trials) - 1
        self.version += 1

    def leave(self, trial: int) -> None:
        """Take in that a trial, if it was paused here, is so no more."""
        if self.waiting.pop(trial, None) is not None:
            self.version += 1

    @property
    def values(self) -> Float[np.ndarray, "reports objectives"]:
        """What was measured, a row for each report."""
        return self._rows[: len(self.trials), : self._width]

    @property
    def errors(self) -> Float[np.ndarray, "reports objectives"]:
        """Standard deviations of the measuring itself."""
        return self._rows[: len(self.trials), self._width :]
