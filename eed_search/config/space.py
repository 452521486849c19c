"""What one trial may choose: each parameter is one value, a list or a range, and holds only what makes sense for it."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from eed_search.config import names
from eed_search.config.params import Order, ParamValue, Recovery, Subsets
from eed_search.config.registry import BUILT_IN, Kind
from eed_search.config.section import Section, is_scalar, shown


class Choice(Section):
    """One of a list of values; one value means fixed."""

    values: tuple[ParamValue, ...]


class Range(Section):
    """A number between two ends, both included."""

    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="drawn evenly on a logarithmic scale")
    step: float | None = Field(None, description="only low, low + step, low + 2 step and so on")


Dimension = Choice | Range


def _read_dimension(value: object) -> object:
    if isinstance(value, Choice | Range):
        return value
    if isinstance(value, dict):
        if set(value) == {"values"}:  # how a resolved file was dumped
            return _read_dimension(list(value["values"]))
        return Range.model_validate(value)
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("an empty list; give at least one value")
    for one in values:
        if not is_scalar(one):
            raise ValueError(f"{shown(one)} is neither text nor a finite number")
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names a value twice")
    return Choice(values=tuple(values))


def _numbers(low: float, high: float, unit: str, *, open_low: bool = False, integer: bool = False) -> Any:
    def check(dimension: Dimension) -> Dimension:
        ends: dict[str, ParamValue]
        if isinstance(dimension, Range):
            ends = {".low": dimension.low, ".high": dimension.high}
        elif len(dimension.values) == 1:
            ends = {"": dimension.values[0]}
        else:
            ends = {f"[{i}]": value for i, value in enumerate(dimension.values)}
        allowed = f"{low:g}..{high:g}{f' without {low:g}' if open_low else ''} ({unit})"
        for where, value in ends.items():
            prefix = f"{where}: " if where else ""
            if isinstance(value, str):
                raise ValueError(f"{prefix}{value!r} is not a number; allowed: {allowed}")
            if not (low < value if open_low else low <= value) or value > high:
                raise ValueError(f"{prefix}{value:g} is outside the allowed {allowed}")
            if integer and value != int(value):
                raise ValueError(f"{prefix}{value:g} is not a whole number; allowed: {allowed}")
        if isinstance(dimension, Range):
            if dimension.low > dimension.high:
                raise ValueError(f"low {dimension.low:g} is above high {dimension.high:g}")
            if dimension.log and dimension.low <= 0:
                raise ValueError("low must be above 0 where log is true")
            if dimension.step is not None and (dimension.step <= 0 or dimension.log):
                raise ValueError("step must be above 0, and without log")
            if integer and dimension.step is not None and dimension.step != int(dimension.step):
                raise ValueError(f".step: {dimension.step:g} is not a whole number; allowed: whole steps ({unit})")
        return dimension

    return check


def _registry(kind: Kind) -> Any:
    one = names.checked(kind)

    def check(dimension: Dimension) -> Dimension:
        if isinstance(dimension, Range):
            raise ValueError(f"a range of numbers; allowed: one or a list of {', '.join(names.known(kind))}")
        for value in dimension.values:
            one(value)
        return dimension

    return check


def _names(*allowed: str) -> Any:
    def check(dimension: Dimension) -> Dimension:
        if isinstance(dimension, Range):
            raise ValueError(f"a range of numbers; allowed: one or a list of {', '.join(allowed)}")
        for value in dimension.values:
            if value not in allowed:
                raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        return dimension

    return check


_Dimension = Annotated[Dimension, BeforeValidator(_read_dimension)]
_Size = Annotated[_Dimension, AfterValidator(_numbers(0, 1, "fraction of channels or weights kept", open_low=True))]
_Count = Annotated[_Dimension, AfterValidator(_numbers(1, 8, "members", integer=True))]
_Weight = Annotated[_Dimension, AfterValidator(_numbers(0, 1000, "weight of a loss term"))]
MOST_STOP = 2.0
"""Largest gate threshold where it is a stop probability: above 1 every member runs."""
_Threshold = Annotated[
    _Dimension,
    AfterValidator(_numbers(0, 100, "stop probability, at most 2; with gate.rule margin the lead in logits")),
]


class Space(Section):
    """What one trial chooses. Each entry is one value (fixed), a list, or `{low, high, log, step}`."""

    num_members: _Count = Field(Choice(values=(1, 2, 3)), description="members of a team; team.mode direct only")
    method: Annotated[_Dimension, AfterValidator(_registry("method"))] = Field(
        Choice(values=("prune",)), description="how each member is made"
    )
    score: Annotated[_Dimension, AfterValidator(_registry("score"))] = Field(
        Choice(values=tuple(BUILT_IN["score"])),
        description="importance score that decides what each member keeps; team.mode direct only",
    )
    size: _Size = Field(
        Choice(values=(0.25, 0.5)), description="fraction of channels or weights that each member keeps"
    )
    subsets: Annotated[_Dimension, AfterValidator(_names(*get_args(Subsets)))] = Field(
        Choice(values=("all", "shared")),
        description="training images of each member: all, or shared: a quarter for everyone and one of three disjoint parts",
    )
    recovery: Annotated[_Dimension, AfterValidator(_names(*get_args(Recovery)))] = Field(
        Choice(values=("labels", "distill")),
        description="what members learn from as they regain their robustness: labels, or distill: the dense base's answers",
    )
    order: Annotated[_Dimension, AfterValidator(_names(*get_args(Order)))] = Field(
        Choice(values=("fast_first",)), description="whom the gate asks first: the cheapest member or the most robust"
    )
    beta: _Weight = Field(
        Range(low=1e-3, high=4, log=True), description="weight of the diversity reward in the joint loss L_EED"
    )
    omega: _Weight = Field(
        Range(low=0, high=10), description="weight of L_R, which pushes down the ensemble's most confident wrong class"
    )
    gamma: _Weight = Field(Range(low=0, high=4), description="weight of L_C, the compactness regulariser")
    gate_threshold: _Threshold = Field(
        Range(low=0.2, high=1),
        description="the gate stops at the first member whose stop probability reaches this (rule margin: lead in logits)",
    )
