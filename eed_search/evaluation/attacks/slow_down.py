"""S1: make the gate ask as many members as it can be made to, with the label kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from eed_search.core.seeds import seed_of
from eed_search.ensemble.gate import GatedEnsemble
from eed_search.evaluation.attacks.victim import Victim, View, device_of, frozen

Images = Float[Tensor, "samples channels height width"]
_WAYS: tuple[Literal["confidence", "stops"], ...] = ("confidence", "stops")
NUM_RUNS = len(_WAYS)


@dataclass(frozen=True)
class SlowDown:
    """What the slow-down attack reached, sample by sample.

    Attributes:
        labels: The team's answers on the clean images, which the attack keeps.
        clean_run: Members run on the clean images.
        attacked_run: The most members run on any image tried that keeps the label.
        adversarial: That image; the clean one where nothing was slower.
        lost: Whether some image tried changed the answer: an attack on accuracy, found by the way.
        lost_images: The first such image; the clean one where there is none.
    """

    labels: Int[Tensor, " samples"]
    clean_run: Int[Tensor, " samples"]
    attacked_run: Int[Tensor, " samples"]
    adversarial: Images
    lost: Bool[Tensor, " samples"]
    lost_images: Images


Watch = Callable[[slice, View], None]
"""Told which of the images are looked at, and what every pass over them shows, the clean one first."""


def slow_down(
    team: GatedEnsemble[Any],
    images: Images,
    *,
    eps: float,
    steps: int = 50,
    seed: int = 0,
    batch_size: int = 128,
    watch: Watch = lambda where, view: None,
) -> SlowDown:
    """Attack the cost of a team: hold every prefix below its stop while the answer stays.

    Two objectives in turn: the entropy of all prefixes' answers (less confidence, which also moves the
    prefixes' distances), then the surpluses over the stop rule, while the true answer's
    lead is held above zero. Every iterate is judged on the hard gate.

    Args:
        team: Members and gate; any stop rule.
        images: In [0, 1].
        eps: L∞ budget in pixel units.
        steps: Gradient steps of each of the two runs.
        seed: Seed for the random starts.
        batch_size: Images at a time.
        watch: Sees every image that is tried.

    Returns:
        Members run before and under attack.

    Source:
        DeepSloth: Hong et al., ICLR 2021 (arXiv 2010.02432); the surplus objective is ours.
    """
    victim, device = Victim(team), device_of(team)
    parts = []
    with frozen(team):
        for start in range(0, len(images), batch_size):
            where = slice(start, min(start + batch_size, len(images)))
            given = images[where].to(device)
            with torch.no_grad():
                view = victim.look(given)
            clean = view.decision
            watch(where, view)
            run, best = clean.members_run.clone(), given.clone()
            lost, changed = torch.zeros_like(run, dtype=torch.bool), given.clone()
            for way in _WAYS:
                see = partial(watch, where)
                found = (run, best, lost, changed)
                _climb(victim, way, given, clean.labels, found, see, eps=eps, steps=steps, seed=seed)
            parts.append((clean.labels, clean.members_run, run, best, lost, changed))
    return SlowDown(*(torch.cat(column).to(images.device) for column in zip(*parts, strict=True)))


def _climb(
    victim: Victim,
    way: Literal["confidence", "stops"],
    images: Images,
    labels: Tensor,
    found: tuple[Tensor, Tensor, Tensor, Tensor],
    see: Callable[[View], None],
    *,
    eps: float,
    steps: int,
    seed: int,
) -> None:
    """One run of sign steps that shrink; writes what it finds into the tensors of `found`."""
    run, best, lost, changed = found
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    generator = torch.Generator().manual_seed(seed_of(str(seed), f"slow-down/{way}"))
    noise = torch.rand(images.shape[1:], generator=generator).mul(2).sub(1).to(images)
    now = torch.clamp(images + eps * noise, low, high)
    for step in range(steps + 1):
        point = now.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            view = victim.look(point)
        see(view)
        kept = view.decision.labels == labels
        first = ~kept & ~lost
        lost |= first
        changed[first] = now[first]
        slower = kept & (view.decision.members_run > run)
        run[slower] = view.decision.members_run[slower]
        best[slower] = now[slower]
        if step == steps:
            break
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(_loss(view, labels, way).sum(), point)
        size = eps * (0.5 if step < steps // 3 else 0.25 if step < 2 * steps // 3 else 0.05)
        now = torch.clamp(now + size * gradient.sign(), low, high)


def _loss(view: View, labels: Tensor, way: Literal["confidence", "stops"]) -> Float[Tensor, " samples"]:
    """Larger is slower; a lost label costs more than any slowness brings."""
    logs = view.combined.log_softmax(-1)
    last = logs[-1]
    lead = last.gather(1, labels[:, None])[:, 0] - last.scatter(1, labels[:, None], -torch.inf).amax(-1)
    kept = 10 * functional.relu(0.05 - lead)
    if way == "confidence":
        return -(logs.exp() * logs).sum(-1).mean(0) - kept
    return -functional.relu(view.surplus[:-1] + 0.01).sum(0) - kept


def changed(result: SlowDown) -> Bool[Tensor, " samples"]:
    """Samples that the attack made slower."""
    return result.attacked_run > result.clean_run
