"""Which samples no image within eps can break: a lower bound of the robust accuracy, sound over the gate.

A sample is certified if every prefix at which the gate MAY stop for some image within eps answers
rightly for ALL of them. What each member can say is bounded (`bounds`); from there on it is arithmetic on
intervals. On networks that were not trained for it the bound is usually 0 %, which says nothing about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eed_search.core.errors import ModelError
from eed_search.data.splits import Split
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.onnx_torch import OnnxNetwork
from eed_search.ensemble.gate import LEAST_LOG, Gate, GatedEnsemble, MarginGate, prefix_means
from eed_search.ensemble.sweep import rounding_of
from eed_search.evaluation.bounds import LogitBounds
from eed_search.evaluation.prefixes import AllMembers, Team

METHOD = "interval bounds, tightened by linear ones"
_BATCH = 25  # each image has a row for every class and layer
_SLACK = 1e-4  # margin in logits, and as much of the largest one: float32 rounding of what is deployed
_MOST = 500.0  # exp of more would overflow, and of less is 0 all the same


@dataclass(frozen=True)
class Certificate:
    """What is proved of some samples.

    Attributes:
        right: Samples that no image within eps can break; none where nothing could be tried.
        method: How, or why nothing was tried.
    """

    right: Bool[np.ndarray, " samples"] | None
    method: str


def certify(team: Team, split: Split, *, eps: float, report: Callable[[str], None] = lambda text: None) -> Certificate:
    """Prove robustness sample by sample.

    Args:
        team: Members and gate; run on the CPU as they are deployed. A bundle's members are taken as they are, all others
            as they would be exported.
        split: Images and labels.
        eps: L∞ budget in pixel units.
        report: Told how far it is.

    Returns:
        Flags of all samples; none where a member holds an operator without a bound or the gate is of an unknown kind.
    """
    rule = team.gate.rule if isinstance(team.gate, AllMembers) else team.gate
    if type(team) is not GatedEnsemble:
        return Certificate(None, f"not tried: a {type(team).__name__} answers by code of its own")
    if len(team.members) > 1 and type(rule) not in (Gate, MarginGate):
        return Certificate(None, f"not tried: what a {type(rule).__name__} answers is not known here")
    shape = (int(split.images.shape[1]), int(split.images.shape[2]), int(split.images.shape[3]))
    try:
        members = [
            member if isinstance(member, OnnxNetwork) else OnnxNetwork(to_onnx(member, shape), f"member {i}")
            for i, member in enumerate(team.members, start=1)
        ]
        right = np.zeros(len(split), bool)
        for start in range(0, len(split), _BATCH):
            report(f"bounds: samples {start + 1} to {min(start + _BATCH, len(split))} of {len(split)}")
            where = slice(start, start + _BATCH)
            right[where] = _certified(team.gate, members, split.images[where].cpu(), split.labels[where].cpu(), eps)
    except ModelError as error:
        return Certificate(None, f"not tried: {error}")
    return Certificate(right, METHOD)


def _certified(
    gate: Any, members: Sequence[OnnxNetwork], images: Tensor, labels: Int[Tensor, " batch"], eps: float
) -> Bool[np.ndarray, " batch"]:
    low, high = zip(*(leads(member, images, labels, eps, both=len(members) > 1) for member in members), strict=True)
    if len(members) == 1:
        others = torch.ones_like(low[0], dtype=torch.bool).scatter(1, labels[:, None], False)
        return np.asarray(((low[0] > 0) | ~others).all(1).numpy())
    return np.asarray(holds(gate, torch.stack(low), torch.stack(high), labels).numpy())


def leads(
    member: OnnxNetwork, images: Tensor, labels: Int[Tensor, " batch"], eps: float, *, both: bool = True
) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
    """By how much the true class's logit leads each class's, at least and at most, for every image within eps.

    Both ends are wider by what float32 may round. Where `both` is false the second is infinite.
    """
    with torch.no_grad():
        logits = member(images.float()).double()
        num = logits.shape[1]
        true = torch.nn.functional.one_hot(labels, num).double()
        wanted = true[None] - torch.eye(num, dtype=torch.float64)[:, None]  # a row for each class
        bounds = LogitBounds(member, images, eps)
        slack = _SLACK * (1 + logits.abs().amax(1, keepdim=True))
        low = bounds.at_least(wanted).T - slack
        high = -bounds.at_least(-wanted).T + slack if both else torch.full_like(low, torch.inf)
    own = labels[:, None]
    return low.scatter(1, own, 0.0), high.scatter(1, own, 0.0)


def holds(
    gate: Any,
    low: Float[Tensor, "members batch classes"],
    high: Float[Tensor, "members batch classes"],
    labels: Int[Tensor, " batch"],
) -> Bool[Tensor, " batch"]:
    """Whether the gate answers rightly whatever the members say within their bounds.

    Args:
        gate: A `Gate`, a `MarginGate`, or `AllMembers` of one.
        low: By how much the true class's logit leads each class's at least; 0 at the true class.
        high: The same at most.
        labels: True classes.
    """
    rule: Any = gate.rule if isinstance(gate, AllMembers) else gate
    verdicts = _margin if isinstance(rule, MarginGate) else _mean
    right, never, surely = verdicts(rule, low, high, labels)
    if isinstance(gate, AllMembers):
        return right[-1]
    if isinstance(rule, Gate) and rule.rule == "map":  # any prefix that ran may answer
        return right.all(0)
    fine = torch.ones_like(right[0])
    reached = torch.ones_like(right[0])
    last = len(right) - 1
    for k in range(len(right)):
        may_answer = reached if k == last else reached & ~never[k]
        fine &= right[k] | ~may_answer
        reached = reached & ~surely[k]
    return fine


Verdicts = tuple[Bool[Tensor, "members batch"], Bool[Tensor, "members batch"], Bool[Tensor, "members batch"]]
"""For each prefix: surely right; never stops; surely stops."""


def _margin(rule: MarginGate, low: Tensor, high: Tensor, labels: Tensor) -> Verdicts:
    own = labels.expand(len(low), -1)[..., None]
    least, most = prefix_means(low), prefix_means(high)
    others_least, others_most = least.scatter(2, own, torch.inf), most.scatter(2, own, torch.inf)
    worst = others_least.amin(2)
    # the best class is the true one, ahead of the second by at most this; or another, ahead of the true one by that
    lead_most = torch.maximum(others_most.amin(2), (-least).scatter(2, own, -torch.inf).amax(2))
    edge = rounding_of(rule)
    # where a class may lie at the floor of `MarginGate` its distance to the others is no longer the logits'
    floor = (_shares(low, high)[0].clamp_min(1e-300).log().amin(2) > LEAST_LOG + 1).to(torch.uint8)
    sure = torch.cummin(floor, dim=0).values.bool()
    return (worst > edge) & sure, (lead_most < rule.threshold - edge) & sure, (worst >= rule.threshold + edge) & sure


def _mean(rule: Gate, low: Tensor, high: Tensor, labels: Tensor) -> Verdicts:
    own = labels.expand(len(low), -1)[..., None]
    least, most = (prefix_means(part) for part in _shares(low, high))
    ahead = prefix_means(_lead_of_shares(low, high)).scatter(2, own, torch.inf).amin(2)
    edge = rounding_of(rule)
    magnified = edge * max(1.0, rule.sharpness, 1 / rule.tau)
    chance = 1 / low.shape[2]

    def confidence(top: Tensor) -> Tensor:
        return ((top - chance) / (1 - chance)).clamp(0, 1) ** rule.sharpness

    stop_most, stop_least = confidence(most.amax(2)), confidence(least.amax(2))
    if len(low) > 1:
        stop_least[1:] = stop_least[1:] * torch.exp(-_divergence_at_most(least, most) / rule.tau)
    return ahead > edge, stop_most < rule.threshold - magnified, stop_least >= rule.threshold + magnified


def _shares(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most probability of each class.

    p_c = e^(−δ_c) / Σ_j e^(−δ_j), where δ is the true class's lead: it grows with its own term and falls with
    every other.
    """
    more, less = torch.exp(-low.clamp_min(-_MOST)), torch.exp(-high.clamp(-_MOST, _MOST))
    return less / (more.sum(2, keepdim=True) - more + less), more / (less.sum(2, keepdim=True) - less + more)


def _lead_of_shares(low: Tensor, high: Tensor) -> Tensor:
    """By how much the true class's probability leads each class's at least.

    (1 − e^(−δ_c)) / Σ_j e^(−δ_j) falls with e^(−δ_c); with the others' terms it falls where it is positive and
    grows where it is negative.
    """
    more, less = torch.exp(-low.clamp_min(-_MOST)), torch.exp(-high.clamp(-_MOST, _MOST))
    ahead = 1 - more
    return torch.where(ahead >= 0, ahead / more.sum(2, keepdim=True), ahead / (less.sum(2, keepdim=True) - less + more))


def _divergence_at_most(least: Tensor, most: Tensor) -> Tensor:
    """The most that KL(mean_t ‖ mean_(t−1)) can be, class by class: a·log(a/b) is convex in a and falls with b."""
    before = least[:-1].clamp_min(1e-12).log()

    def at(share: Tensor) -> Tensor:
        return share * (share.clamp_min(1e-12).log() - before)

    return torch.maximum(at(least[1:]), at(most[1:])).sum(2).clamp_min(0)
