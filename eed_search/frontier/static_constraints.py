"""What is known of a trial before anything of it is trained: the forms that its members will have.

A form is a network's architecture; its latency and its size do not wait for training. How often the gate asks a later
member does, so of a team the latency's ends are known, of a single network the latency itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eed_search.config.params import ParamValue, TrialParams
from eed_search.config.removal import is_sized_before
from eed_search.config.spec import Choice, Constraints, Spec
from eed_search.runs.ledger import RunView

DECIDED = ("max_size_bytes", "max_worst_case_latency_ms", "max_worst_case_slowdown")
"""Limits of the file that the forms alone decide; the others have their say after measuring too."""


@dataclass(frozen=True)
class ArchitectureProfile:
    """What a member will be.

    Attributes:
        size: Fraction of the channels kept, in (0, 1].
        ratio: Its latency over the dense base's.
        size_bytes: Bytes that ship.
    """

    size: float
    ratio: float
    size_bytes: int


def latency_ends(profiles: Sequence[ArchitectureProfile], dense_ms: float, gate_ms: float) -> tuple[float, float]:
    """Give the least and the largest latency of a team: its fastest member alone, and all of them.

    Args:
        profiles: Profiles of its members, at least one.
        dense_ms: Latency of the dense base.
        gate_ms: Cost of one gate step; a single network has none.
    """
    gate = gate_ms if len(profiles) > 1 else 0.0
    ratios = [form.ratio for form in profiles]
    return min(ratios) * dense_ms + gate, sum(ratios) * dense_ms + gate * len(profiles)


def static_violations(
    profiles: Sequence[ArchitectureProfile], limits: Constraints, dense_ms: float, gate_ms: float
) -> dict[str, float]:
    """By how much a team breaks the limits that need no training, in the limit's unit; at most 0 is kept."""
    fastest, worst = latency_ends(profiles, dense_ms, gate_ms)
    found = {
        "max_size_bytes": (limits.max_size_bytes, float(sum(form.size_bytes for form in profiles))),
        "max_worst_case_latency_ms": (limits.max_worst_case_latency_ms, worst),
        "max_worst_case_slowdown": (limits.max_worst_case_slowdown, worst / dense_ms),
        "max_latency_ms": (limits.max_latency_ms, fastest),
        # an attack can only make the gate ask more members than it does on clean images
        "max_attacked_latency_ms": (limits.max_attacked_latency_ms, fastest),
        "max_attacked_slowdown": (limits.max_attacked_slowdown, fastest / dense_ms),
    }
    return {name: value - limit for name, (limit, value) in found.items() if limit is not None}


class StaticConstraints:
    """Answers for any proposal of a search; says nothing where a member's form is not among those measured.

    Args:
        spec: The search.
        profiles: Profiles of its space's sizes.
        dense_ms: Latency of the dense base.
        gate_ms: Cost of one gate step.
    """

    def __init__(self, spec: Spec, profiles: Sequence[ArchitectureProfile], dense_ms: float, gate_ms: float) -> None:
        self._spec, self._dense_ms, self._gate_ms = spec, dense_ms, gate_ms
        self._forms = {form.size: form for form in profiles}

    @classmethod
    def of(cls, view: RunView, spec: Spec) -> StaticConstraints:
        """Take what a run's ledger holds of it."""
        if view.base is None:
            return cls(spec, (), 1.0, 0.0)
        profiles = [ArchitectureProfile(**form) for form in view.facts.get("forms", ())]
        dense_ms = view.base.measurement.latency.latency_ms.value
        return cls(spec, profiles, dense_ms, float(view.facts.get("gate_ms", 0.0)))

    @property
    def is_complete(self) -> bool:
        """Whether the forms of every team of the space are known."""
        space = self._spec.search.space
        sizes = space.size.values if isinstance(space.size, Choice) else ()
        methods = space.method.values if isinstance(space.method, Choice) else ()
        known = bool(sizes) and all(size in self._forms for size in sizes)
        return known and self._spec.team.mode == "direct" and all(is_sized_before(self._spec, str(m)) for m in methods)

    def latency_ms(self, params: Mapping[str, ParamValue]) -> tuple[float, float] | None:
        """Give the ends of the latency that ranks, equal where it is known."""
        if (profiles := self._team(params)) is None:
            return None
        low, high = latency_ends(profiles, self._dense_ms, self._gate_ms)
        return (high, high) if self._spec.search.latency_objective == "worst_case" else (low, high)

    def keeps_limits(self, params: Mapping[str, ParamValue]) -> bool:
        """Whether no limit is surely broken."""
        if (profiles := self._team(params)) is None:
            return True
        violation = static_violations(profiles, self._spec.search.constraints, self._dense_ms, self._gate_ms)
        return all(value <= 0 for value in violation.values())

    def _team(self, params: Mapping[str, ParamValue]) -> list[ArchitectureProfile] | None:
        """A team's forms; none where only its making tells."""
        if self._spec.team.mode != "direct" or not self._forms:
            return None
        chosen = TrialParams.from_flat(params).members
        if not all(is_sized_before(self._spec, one.method) and one.size in self._forms for one in chosen):
            return None
        return [self._forms[one.size] for one in chosen]


def to_facts(profiles: Sequence[ArchitectureProfile]) -> list[dict[str, Any]]:
    """Write forms as a ledger keeps them."""
    return [asdict(form) for form in profiles]
