"""What one trial is made of: the values that the search chose, flat for Optuna and MLflow, typed inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from eed_search.config.registry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Mapping

ParamValue = str | int | float
Method = str
"""A name of the registry, or registered by user code."""
Score = str
"""A name of the registry, or registered by user code."""
Subsets = Literal["all", "shared"]
Recovery = Literal["labels", "distill"]
Order = Literal["fast_first", "robust_first"]
LatencyKind = Literal["clean", "attacked", "worst_case"]
"""Which latency ranks: of clean images, under attack, or with every member run."""

SCORED: tuple[Method, ...] = ("prune", "learned")
"""Built-in methods that rank by importance scores; the others do not look at a member's score."""


def is_scored(method: Method) -> bool:
    """Whether a method ranks by importance scores; one that user code registered may, so it is given them."""
    return method in SCORED or method not in BUILT_IN["method"]


@dataclass(frozen=True)
class MemberChoice:
    """One member as a trial names it.

    Attributes:
        score: Importance score that decides what is kept.
        size: Fraction kept, in (0, 1]: of each layer's channels (granularity `channel`, R-ADMM's set
            `filter`) or of the weights (the others).
        method: How it is made.
    """

    score: Score
    size: float
    method: Method = "prune"

    @property
    def family(self) -> str:
        """What members of equal size still differ by: score, method, or both."""
        if self.method == "prune":
            return self.score
        return f"{self.method}-{self.score}" if is_scored(self.method) else self.method

    def title(self) -> str:
        """Name the member in plain ASCII, such as `nis-50` or `radmm-25`."""
        return f"{self.family}-{round(100 * self.size)}"


@dataclass(frozen=True)
class TrialParams:
    """Everything that the search chose for one trial.

    Attributes:
        members: The named members of a `direct` team, or one entry for each pool member's score.
        subsets: Which training images a member is fine-tuned on: `all`, or `shared` (a quarter for
            everyone plus one of three disjoint parts).
        recovery: How a member gets its robustness back: `labels` or `distill`.
        order: Which member the gate asks first.
        beta: Weight of the diversity reward in L_EED.
        omega: Weight of L_R, which pushes down the ensemble's most confident wrong class.
        gamma: Weight of L_C, the compactness regulariser.
        gate_threshold: Stop at the first member whose stop probability reaches this; behind a gate of rule `margin`,
            at the first prefix whose best class leads the second by it.
    """

    members: tuple[MemberChoice, ...]
    subsets: Subsets
    recovery: Recovery
    order: Order
    beta: float
    omega: float
    gamma: float
    gate_threshold: float

    def to_flat(self) -> dict[str, ParamValue]:
        """Write as one flat table: `num_members`, `member1.score`, `member1.size`, …, `beta`.

        `memberN.method` stands there only where it is not `prune`.
        """
        flat: dict[str, ParamValue] = {"num_members": len(self.members)}
        for i, member in enumerate(self.members, start=1):
            flat[f"member{i}.score"] = member.score
            flat[f"member{i}.size"] = member.size
            if member.method != "prune":
                flat[f"member{i}.method"] = member.method
        for name in ("subsets", "recovery", "order", "beta", "omega", "gamma", "gate_threshold"):
            flat[name] = getattr(self, name)
        return flat

    @classmethod
    def from_flat(cls, flat: Mapping[str, ParamValue]) -> TrialParams:
        """Read the flat table back.

        Raises:
            KeyError: If a name is missing.
        """
        return cls(
            members=tuple(
                MemberChoice(
                    str(flat[f"member{i}.score"]),
                    float(flat[f"member{i}.size"]),
                    str(flat.get(f"member{i}.method", "prune")),
                )
                for i in range(1, int(flat["num_members"]) + 1)
            ),
            subsets=cast("Subsets", flat["subsets"]),
            recovery=cast("Recovery", flat["recovery"]),
            order=cast("Order", flat["order"]),
            beta=float(flat["beta"]),
            omega=float(flat["omega"]),
            gamma=float(flat["gamma"]),
            gate_threshold=float(flat["gate_threshold"]),
        )

    def title(self) -> str:
        """Name the trial's team in a few words, such as `nis½ + bnsf¼`, in plain ASCII: `nis-50 bnsf-25`."""
        return " ".join(member.title() for member in self.members)
