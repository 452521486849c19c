"""What a race and its searcher may be given: each function lists every mistake, one sentence a mistake."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Literal

from eed_search.runs.records import metric_problem

Mode = Literal["max", "min"]


def metric_problems(metrics: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the metrics: there are two to four, each with a direction."""
    problems = []
    if not 2 <= len(metrics) <= 4:
        problems.append(f"metrics: {len(metrics)} given ({', '.join(metrics) or 'none'}); two to four are allowed")
    return problems + [
        f"metrics.{name}: direction {mode!r} is not allowed; take 'max' or 'min'"
        for name, mode in metrics.items()
        if mode not in ("max", "min")
    ]


def level_problems(metrics: Collection[str], resource: str | None, levels: Sequence[float]) -> list[str]:
    """Say what is wrong with what tells how far a trial is, if anything does, and with the levels to compare trials at."""
    if resource is None:
        return [f"levels: {list(levels)} of what? name the resource that says how far a trial is"] if levels else []
    problems = []
    if resource == "training_iteration":
        problems.append("resource: training_iteration starts anew after a failure; report a count of your own")
    if resource in metrics:
        problems.append(f"resource: {resource} is a metric too; name what says how far a trial is")
    numbers = [level for level in levels if isinstance(level, int | float) and math.isfinite(level)]
    if not levels or len(numbers) < len(levels) or any(b <= a for a, b in pairwise(levels)):
        problems.append(f"levels: {list(levels)} must be one or more finite numbers, each above the one before")
    return problems


def limit_problems(metrics: Collection[str], limits: Mapping[str, float]) -> list[str]:
    """Say what is wrong with the limits: each is a finite number for one of the metrics."""
    return name_problems("limits", limits, metrics) + [
        f"limits.{name}: {limit!r} is no finite number; leave it out where there is no limit"
        for name, limit in limits.items()
        if metric_problem(name, limit)
    ]


def name_problems(option: str, names: Collection[str], metrics: Collection[str]) -> list[str]:
    """Say which names that an option was given are no metrics."""
    return [f"{option}.{name}: no such metric; allowed: {', '.join(metrics)}" for name in names if name not in metrics]


def count_problems(option: str, value: object, least: int, meaning: str, *, optional: bool = False) -> list[str]:
    """Say whether an option is no whole number, or below the least one; none will do where it is optional."""
    if optional and value is None:
        return []
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return []
    return [f"{option}: {value!r} is no whole number from {least} on; {meaning}"]
