"""A team without its gate: all members together, or a prefix of them as one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eed_search.ensemble.gate import LEAST_LOG, Decision, Gate, GatedEnsemble, MarginGate, StopRule

Team = GatedEnsemble[Any]


@dataclass(frozen=True)
class AllMembers:
    """A rule that never stops early: the same combination of members, without the gate.

    Attributes:
        rule: Whose combination it is.
    """

    rule: StopRule

    def combine(self, logs: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch classes"]:
        """As the rule combines."""
        return self.rule.combine(logs)

    def surplus(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """Far below the stop everywhere."""
        return torch.full_like(combined[..., 0], -1.0)

    def soft_stops(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """No chance of a stop before the last member."""
        stop = torch.zeros_like(combined[..., 0])
        return torch.cat([stop[:-1], torch.ones_like(stop[-1:])])

    def decide_logs(self, logs: Float[Tensor, "members batch classes"]) -> Decision:
        """All members answer."""
        run = torch.full(logs.shape[1:2], len(logs), device=logs.device)
        return Decision(self.combine(logs)[-1].argmax(-1), run, run)


class _Together(nn.Module):
    """Some members as one network: the logits of what they answer together."""

    def __init__(self, members: Sequence[nn.Module], rule: StopRule) -> None:
        super().__init__()
        self.members, self.rule = nn.ModuleList(members), rule

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logs = torch.stack([member(images).float().log_softmax(-1) for member in self.members])
        return self.rule.combine(logs)[-1]


def prefix_alone(team: Team, k: int) -> Team:
    """The first k members as one network without a gate, which meets the standard attacks."""
    rule: StopRule = AllMembers(team.gate)
    return GatedEnsemble([_Together(list(team.members)[:k], team.gate)], rule).eval()


def reachable_prefixes(team: Team) -> tuple[int, ...]:
    """Prefixes at which the gate can stop: all, unless its threshold rules some out."""
    num = len(team.members)
    gate = team.gate
    if isinstance(gate, AllMembers):
        return (num,)
    if isinstance(gate, Gate | MarginGate) and gate.has_threshold:
        highest = -LEAST_LOG if isinstance(gate, MarginGate) else 1.0
        if gate.threshold <= 0 or gate.threshold > highest:
            return (1,) if gate.threshold <= 0 else (num,)
    return tuple(range(1, num + 1))
