"""What the sanity checks look at: short attacks of our own, repeated calls, gradients, the exported model.

Kept apart from `sanity`, which only judges what was seen. The attack in here is deliberately plain, so
that a mistake in the tier's attacks and a mistake in this one are not the same mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from eed_search.data.splits import Split
from eed_search.deployment.onnx_torch import SessionMember
from eed_search.deployment.runtime import GatedClassifier
from eed_search.ensemble.gate import Gate, GatedEnsemble, MarginGate, StopRule
from eed_search.evaluation.deploy import clear_of_rounding
from eed_search.evaluation.prefixes import AllMembers, Team
from eed_search.evaluation.sanity import Answers, Flags, share_without
from eed_search.evaluation.tiers import Attack

_BATCH = 256
_REPEATS = 5
_FEW = 64
_SATURATED = 1e-5  # a stop probability this near to 1 has no slope, and needs none


def answers(team: Team, images: Tensor, batch_size: int = _BATCH) -> Answers:
    """Labels and members run, asked in batches."""
    with torch.no_grad():
        parts = [team.decide(part) for part in images.split(batch_size)]
    labels: np.ndarray = torch.cat([part.labels for part in parts]).cpu().numpy()
    run: np.ndarray = torch.cat([part.members_run for part in parts]).cpu().numpy()
    return labels, run


def right(team: Team, split: Split) -> Flags:
    """Which samples are answered rightly."""
    return np.asarray(answers(team, split.images)[0] == split.labels.cpu().numpy())


def noise(team: Team, split: Split, *, eps: float, seed: int) -> Flags:
    """Right both on the image and under one draw of uniform noise within eps."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(split.images.shape, generator=generator).mul_(2).sub_(1).to(split.images.device)
    moved = (split.images + eps * drawn).clamp(0, 1)
    both: Flags = right(team, split) & right(team, Split(moved, split.labels))
    return both


def fgsm(team: Team, split: Split, *, eps: float) -> Flags:
    """Right both on the image and after one step of length eps along the gradient's sign."""
    moved = split.images.clone()
    for start in range(0, len(split), _BATCH):
        where = slice(start, start + _BATCH)
        point = split.images[where].clone().requires_grad_()
        moved[where] = (split.images[where] + eps * _gradient(team, point, split.labels[where]).sign()).clamp(0, 1)
    both: Flags = right(team, split) & right(team, Split(moved, split.labels))
    return both


def pgd(team: Team, split: Split, *, eps: float, steps: int, seed: int, step_size: float | None = None) -> Flags:
    """Right on the image and on every iterate of PGD through the executed path, random start, hard judgement.

    Args:
        team: What is attacked; in evaluation mode.
        split: Images and labels, on the team's device.
        eps: Budget in pixel units.
        steps: Steps.
        seed: Seed for the start.
        step_size: Pixel units; eps/4 by default.

    Source:
        Madry et al. 2018, arXiv 1706.06083.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(split.images.shape, generator=generator).mul_(2).sub_(1).to(split.images.device)
    step = step_size or eps / 4
    held = []
    for start in range(0, len(split), _BATCH):
        where = slice(start, start + _BATCH)
        images, labels = split.images[where], split.labels[where]
        low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
        with torch.no_grad():
            holds = team.decide(images).labels == labels
        moved = torch.clamp(images + eps * drawn[where], low, high)
        for iterate in range(steps + 1):
            with torch.no_grad():
                holds &= team.decide(moved).labels == labels
            if iterate == steps or not holds.any():
                break
            gradient = _gradient(team, moved.requires_grad_(), labels)
            moved = torch.clamp(moved.detach() + step * gradient.sign(), low, high)
        held.append(holds)
    return np.asarray(torch.cat(held).cpu().numpy())


def _gradient(team: Team, point: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the cross-entropy of what is answered; zero where none arrives."""
    with torch.enable_grad():
        return _slope(functional.cross_entropy(team(point), labels, reduction="sum"), point)


def _slope(value: Tensor, point: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(point)
    (gradient,) = torch.autograd.grad(value, point, allow_unused=True, retain_graph=True)
    return torch.zeros_like(point) if gradient is None else gradient


# ---------------------------------------------------------------- 3: batches, order, repeats


def asked_in_many_ways(team: Team, images: Tensor, seed: int) -> tuple[dict[str, Answers], Flags, float]:
    """Ask alone, in batches of 7 and 128, shuffled, beside other images, and five times the same.

    Returns:
        Answers by way, the first in batches of 128; which samples rounding alone cannot change; and the
        largest difference of a member's log probability, alone or asked again.
    """
    found = {"batch 128": answers(team, images, 128), "alone": answers(team, images, 1), "batch 7": answers(team, images, 7)}  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    back = torch.argsort(order).cpu().numpy()
    labels, run = answers(team, images[order], 128)
    found["shuffled"] = (labels[back], run[back])
    others = torch.rand((5, *images.shape[1:]), generator=generator).to(images.device)
    parts = [answers(team, torch.cat([others, part, others])) for part in images.split(97)]
    found["padded"] = (
        np.concatenate([labels[5:-5] for labels, _ in parts]),
        np.concatenate([run[5:-5] for _, run in parts]),
    )
    for i in range(_REPEATS):
        found[f"repeat {i + 1}"] = answers(team, images, 128)
    with torch.no_grad():
        few = images[:_FEW]
        first = team.member_log_probabilities(few)
        alone = torch.cat([team.member_log_probabilities(one) for one in few.split(1)], dim=1)
        again = [alone, *(team.member_log_probabilities(few) for _ in range(_REPEATS))]
        drift = max(float((other - first).abs().nan_to_num(nan=1.0).max()) for other in again)
    return found, clear(team, images), drift


def clear(team: Team, images: Tensor) -> Flags:
    """Samples whose answer rounding alone cannot change; all, where the rule is not one whose margins are known."""
    if type(team.gate) not in (Gate, MarginGate):
        return np.ones(len(images), bool)
    with torch.no_grad():
        parts = [team.member_log_probabilities(part) for part in images.split(_BATCH)]
        logs = torch.cat(parts, dim=1).cpu()
        return np.asarray(clear_of_rounding(logs, team.gate, team.gate.decide_logs(logs)).numpy())


# ---------------------------------------------------------------- 4: nothing found is lost


def missed_on_the_way(team: Team, attack: Attack, split: Split, *, eps: float) -> int:
    """Samples for which an attack asked a wrongly answered image within the budget and gave a right one back.

    Every image that passes through the first member is looked at and given to the sample it is nearest to.
    """
    asked: list[Tensor] = []
    handle = team.members[0].register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].detach().clone()))
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            moved = attack(split.images, split.labels).detach()
    finally:
        handle.remove()
    flat = split.images.flatten(1)
    seen = torch.zeros(len(split), dtype=torch.bool, device=flat.device)
    for images in asked:
        if not len(images):
            continue
        distances = torch.stack([(images.flatten(1) - one).abs().amax(1) for one in flat], dim=1)
        distance, nearest = distances.min(dim=1)
        with torch.no_grad():
            wrong = team.decide(images).labels != split.labels[nearest]
        seen[nearest[wrong & (distance <= eps + 1e-6)]] = True
    with torch.no_grad():
        broken = team.decide(moved).labels != split.labels
    return int((seen & ~broken).sum())


# ---------------------------------------------------------------- 9: gradients


def lets_gradients_through(team: Team, images: Tensor) -> bool:
    """Whether the answer is connected to the images at all, however steep or flat."""
    with torch.enable_grad():
        return bool(team(images.clone().requires_grad_()).requires_grad)


def shares_without_gradient(team: Team, split: Split) -> dict[str, float]:
    """Share of samples without a gradient: of each member's loss, of the answer's, of each stop of the gate."""
    labels = split.labels
    found: dict[str, float] = {}
    with torch.enable_grad():
        for i, member in enumerate(team.members, start=1):
            point = split.images.clone().requires_grad_()
            logits = member(point).float()
            slope = _slope(functional.cross_entropy(logits, labels, reduction="sum"), point)
            found[f"member {i}"] = share_without(_rows(slope))
        point = split.images.clone().requires_grad_()
        slope = _slope(functional.cross_entropy(team(point), labels, reduction="sum"), point)
        found["the answer"] = share_without(_rows(slope))
        if isinstance(team.gate, AllMembers):
            return found
        for i in range(len(team.members) - 1):
            point = split.images.clone().requires_grad_()
            combined = team.gate.combine(team.member_log_probabilities(point))
            surplus = team.gate.surplus(combined)[i]
            open_ = (team.gate.soft_stops(combined)[i] < 1 - _SATURATED).cpu().numpy()
            rows = _rows(_slope(surplus.sum(), point))
            found[f"stop {i + 1}"] = share_without(rows[open_]) if open_.any() else 0.0
    return found


def _rows(gradient: Tensor) -> Float[np.ndarray, "samples values"]:
    return np.asarray(gradient.flatten(1).cpu().numpy())


# ---------------------------------------------------------------- 10: ends of the threshold


def ends(team: Team, images: Tensor) -> tuple[Answers, Answers, Answers, Answers] | None:
    """Answers at threshold 0, of member 1, at a threshold that is never reached, of all members; none without a threshold."""
    gate: Any = team.gate
    thresholded = (
        hasattr(gate, "threshold") and is_dataclass(gate) and getattr(gate, "rule", "threshold") == "threshold"
    )
    if not thresholded:
        return None
    members = list(team.members)
    # as the team's own class, so that whatever it does to the answers is seen here too
    lowest, highest = (_with_gate(team, replace(gate, threshold=value)) for value in (0.0, float("inf")))
    without_gate: StopRule = AllMembers(gate)
    alone = GatedEnsemble(members[:1], without_gate).eval()
    everyone = GatedEnsemble(members, without_gate).eval()
    return answers(lowest, images), answers(alone, images), answers(highest, images), answers(everyone, images)


def _with_gate(team: Team, gate: Any) -> Team:
    import copy

    other = copy.copy(team)
    other.gate = gate
    return other


# ---------------------------------------------------------------- 11: what is deployed


def saved_by_deployment(
    team: Team,
    classifier: GatedClassifier,
    images: Float[np.ndarray, "images channels height width"],
    labels: Int[np.ndarray, " images"],
) -> tuple[int, int]:
    """Replay adversarial images in the deployment runtime.

    Args:
        team: Whom they fooled.
        classifier: The same, deployed.
        images: That torch answers wrongly.
        labels: True classes.

    Returns:
        How many the runtime answers rightly, and how many were replayed; those that rounding could change are left out.
    """
    if not len(images):
        return 0, 0
    sure = clear(team, torch.from_numpy(images).to(next(team.parameters()).device))
    if not sure.any():
        return 0, 0
    found = classifier.predict(np.ascontiguousarray(images[sure], dtype=np.float32)).labels
    return int((found == labels[sure]).sum()), int(sure.sum())


def deployed_team(classifier: GatedClassifier, gate: StopRule) -> Team:
    """The runtime's members behind the same gate, for attacks that need no gradient."""
    return GatedEnsemble([SessionMember(session) for session in classifier.sessions], gate).eval()


def broken_in_deployment(classifier: GatedClassifier, attack: Attack, split: Split) -> Bool[np.ndarray, " samples"]:
    """Attack samples with an attack built on the runtime's members, and let the runtime judge.

    Args:
        classifier: The deployed team.
        attack: Needs no gradient; built on the `deployed_team` of the same classifier.
        split: Samples that it answers rightly, on the CPU.
    """
    with torch.random.fork_rng(), torch.no_grad():
        moved = attack(split.images, split.labels).detach()
    found = classifier.predict(np.ascontiguousarray(moved.cpu().numpy(), dtype=np.float32)).labels
    return np.asarray(found != split.labels.cpu().numpy())


def doubled(attacks: Sequence[Any]) -> list[Any]:
    """Twice the steps for every attack that has a number of steps; the others are left out."""
    found = []
    for named in attacks:
        steps = getattr(named.attack, "steps", None)
        if isinstance(steps, int):
            named.attack.steps = 2 * steps
            found.append(named)
    return found
