"""From a search space to one proposal: what Optuna is asked for, and the flat table that a trial gets.

Two configurations that must behave alike get the same flat table, so that the stage store and the
reader see that they are one. What is made alike, and why that is certain:

- One member (`direct` teams): the only member is also the last, whose stop probability is 1, so
  `gate_threshold` changes nothing; there is nothing to put in `order`; and the diversity reward of
  one prediction is a constant, so `beta` has no gradient. The three are not drawn and take the
  first value (or low end) of their dimension. `omega` and `gamma` do act on one member and stay.
- No joint fine-tune (`joint.epochs: 0`): L_EED is never computed, so `beta`, `omega` and `gamma`
  are not drawn either.
- Gate rule `map`: it does not look at `gate_threshold`.
- All members on all images (`subsets: all`): the gate's order is set by `order`, not by the names,
  so the members are listed sorted by method, score, then size. With `shared` a member's place
  decides which part of the images it sees, so the places stay as drawn.
- A method that does not look at scores: its members' `score` is not drawn.

Not made alike, because it is not certain: two members of the same score and size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from eed_search.config.params import MemberChoice, ParamValue, TrialParams, is_scored
from eed_search.config.spec import Choice, Dimension, Range, Spec

if TYPE_CHECKING:
    import optuna

_WHOLE = ("num_members",)
_NAMES = ("method", "score", "subsets", "recovery", "order")


def suggest(trial: optuna.Trial, spec: Spec) -> dict[str, ParamValue]:
    """Ask Optuna for one proposal and write it flat, as `TrialParams` reads it.

    Dimensions with one value are never drawn but stand in the table. Team mode `direct` draws
    `num_members` first, then `memberN.method`, `memberN.score` and `memberN.size` for the members
    there are. Team mode `pool` draws one `method` and one `size` for the whole pool: the table then
    lists one member for each of the pool's scores, all of that size, and `num_members` counts them.

    Args:
        trial: A trial that was asked for and not told yet.
        spec: The search; its space is drawn from.

    Returns:
        The flat table, canonical as the module says.
    """
    space = spec.search.space
    if spec.team.mode == "pool":
        method = cast("Any", _draw(trial, "method", space.method))
        size = float(_draw(trial, "size", space.size))
        members = tuple(MemberChoice(score, size, method) for score in spec.team.pool.scores)
    else:
        num_members = int(_draw(trial, "num_members", space.num_members))
        members = tuple(_member(trial, f"member{i}", spec) for i in range(1, num_members + 1))
    idle = _idle(spec, len(members))
    rest: dict[str, Any] = {}
    for name in ("subsets", "recovery", "order", "beta", "omega", "gamma", "gate_threshold"):
        dimension: Dimension = getattr(space, name)
        value = _first(dimension) if name in idle else _draw(trial, name, dimension)
        rest[name] = value if name in _NAMES else float(value)
    if spec.team.mode == "direct" and rest["subsets"] == "all":
        members = tuple(sorted(members, key=lambda member: (member.method, member.score, member.size)))
    return TrialParams(members=members, **rest).to_flat()


def _member(trial: optuna.Trial, name: str, spec: Spec) -> MemberChoice:
    space = spec.search.space
    method = cast("Any", _draw(trial, f"{name}.method", space.method))
    score = _draw(trial, f"{name}.score", space.score) if is_scored(method) else _first(space.score)
    return MemberChoice(cast("Any", score), float(_draw(trial, f"{name}.size", space.size)), method)


def first_proposals(spec: Spec) -> list[dict[str, ParamValue]]:
    """Give `search.first` under the names that Optuna draws by; what a proposal leaves out is drawn.

    Values of dimensions with a step go to the nearest step. In team mode `pool` the pool has one
    method and one size: `member1.method` and `member1.size` name them.
    """
    proposals = []
    for given in spec.search.first:
        proposal: dict[str, ParamValue] = {}
        for key, value in given.items():
            name = key.rpartition(".")[2]
            dimension: Dimension = getattr(spec.search.space, name)
            if spec.team.mode == "pool" and name in ("method", "size"):
                if key == f"member1.{name}":
                    proposal[name] = _snap(name, dimension, value)
            else:
                proposal[key] = _snap(name, dimension, value)
        proposals.append(proposal)
    return proposals


def _idle(spec: Spec, num_members: int) -> frozenset[str]:
    """Name the parameters that cannot change this trial's result."""
    idle: set[str] = set()
    if spec.team.mode == "direct" and num_members == 1:
        idle |= {"order", "beta", "gate_threshold"}
    if spec.joint.epochs == 0:
        idle |= {"beta", "omega", "gamma"}
    if spec.gate.rule == "map":
        idle.add("gate_threshold")
    return frozenset(idle)


def _first(dimension: Dimension) -> ParamValue:
    return dimension.low if isinstance(dimension, Range) else dimension.values[0]


def _draw(trial: optuna.Trial, name: str, dimension: Dimension) -> ParamValue:
    """Draw one value; a dimension that leaves no choice is not asked for."""
    kind = name.rpartition(".")[2]
    if isinstance(dimension, Choice):
        if len(dimension.values) == 1:
            return dimension.values[0]
        values = [_typed(kind, value) for value in dimension.values]
        if (step := _even_step(values)) is None:
            return cast("ParamValue", trial.suggest_categorical(name, values))
        # An even grid of numbers keeps its order, which the samplers can learn from.
        low, high = min(values), max(values)
        drawn = _number(trial, name, kind, cast("float", low), cast("float", high), step=step)
        return min(values, key=lambda value: abs(cast("float", value) - drawn))
    if dimension.low == dimension.high:
        return _typed(kind, dimension.low)
    drawn = _number(trial, name, kind, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return _typed(kind, _tidy(drawn) if dimension.step else drawn)


def _number(
    trial: optuna.Trial, name: str, kind: str, low: float, high: float, *, step: float | None, log: bool = False
) -> float:
    if step is not None or kind in _WHOLE:
        step = step or 1.0
        high = _tidy(low + _most_steps(low, high, step) * step)
    if kind in _WHOLE:
        return trial.suggest_int(name, int(low), int(high), step=1 if log else int(step or 1), log=log)
    return trial.suggest_float(name, low, high, step=step, log=log)


def _most_steps(low: float, high: float, step: float) -> int:
    return int((high - low) / step + 1e-9)


def _tidy(value: float) -> float:
    """Round off what adding up steps left behind: 0.30000000000000004 is 0.3."""
    return float(f"{value:.12g}")


def _typed(kind: str, value: ParamValue) -> ParamValue:
    if kind in _NAMES:
        return value
    return int(value) if kind in _WHOLE else float(value)


def _even_step(values: list[ParamValue]) -> float | None:
    """The common distance of three or more evenly spaced numbers; two are as good as names."""
    if len(values) < 3 or any(isinstance(value, str) for value in values):
        return None
    numbers = sorted(cast("list[float]", values))
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    even = all(abs(number - numbers[0] - i * step) < 1e-9 * step for i, number in enumerate(numbers))
    return _tidy(step) if even else None


def _snap(kind: str, dimension: Dimension, value: ParamValue) -> ParamValue:
    if isinstance(dimension, Range) and not isinstance(value, str):
        step = 1.0 if kind in _WHOLE and dimension.step is None else dimension.step
        if step:
            most = _most_steps(dimension.low, dimension.high, step)
            value = _tidy(dimension.low + min(most, round((value - dimension.low) / step)) * step)
    return _typed(kind, value)
