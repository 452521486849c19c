"""The columns of the paper's tables for any target: clean, PGD-20, AutoAttack-grade union, C&W, DeepFool.

Each attack goes through the gate and every iterate is judged on the deployed forward, so the figures
are lower than where a last iterate on the executed path is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eed_search.core.seeds import seed_of
from eed_search.data.splits import Split
from eed_search.ensemble.gate import GatedEnsemble
from eed_search.evaluation import probes
from eed_search.evaluation.attacks import Climber, Prefix, break_samples, tier_attacks
from eed_search.evaluation.attacks.victim import PassMeter
from eed_search.evaluation.target import Target
from eed_search.evaluation.tiers import Report, passes_told
from eed_search.models import place
from eed_search.runs.records import Accuracy

_BATCH = 250
_STEPS = 20
_CW_STEPS = 100
_DEEPFOOL_STEPS = 50
_OVERSHOOT = 0.02


@dataclass(frozen=True)
class PaperTable:
    """One row of the paper's table.

    Attributes:
        target: What was attacked.
        data: Where the images come from.
        split: `fresh`, `test` or `given`.
        eps: L∞ budget of all columns but DeepFool's.
        l2: Budget of DeepFool's column: what it changes within this distance is broken.
        seed: Seed for everything random.
        columns: Accuracy by column.
        l2_median: Median l2 distance at which DeepFool changes the answer of a sample that is right; none where
            it changes none, or fewer than half.
    """

    target: str
    data: str
    split: str
    eps: float
    l2: float
    seed: int
    columns: dict[str, Accuracy]
    l2_median: float | None


def paper_table(target: Target, *, seed: int, device: torch.device, report: Report) -> PaperTable:
    """Measure the paper's columns.

    Args:
        target: What is attacked.
        seed: Seed for everything random.
        device: Where to compute.
        report: Told what is going on.
    """
    team = place(target.team, device).eval()
    split = Split(target.split.images.to(device), target.split.labels.to(device))
    eps = target.eps

    with _told(team, report, "clean, PGD-20"):
        flags = {
            "clean": probes.right(team, split),
            "PGD-20": probes.pgd(team, split, eps=eps, steps=_STEPS, seed=seed_of(str(seed), "PGD-20")),
        }
    margin = Climber("C&W", team, [Prefix(0, "margin_t")], eps=eps, steps=_CW_STEPS, targets=target.num_classes - 1, seed=seed)  # fmt: skip
    with _told(team, report, "C&W, margin loss under L-inf"):
        moved = torch.cat([margin(i, t) for i, t in zip(split.images.split(_BATCH), split.labels.split(_BATCH), strict=True)])  # fmt: skip
    flags["C&W (L-inf)"] = flags["clean"] & probes.right(team, Split(moved, split.labels))
    base = None if target.base is None else place(target.base, device).eval()
    attacks = tier_attacks(team, 2, eps=eps, num_classes=target.num_classes, seed=seed, base=base)
    with _told(team, report, "AutoAttack-grade union"):
        union = break_samples(team, attacks, split.images, split.labels, batch_size=_BATCH)
    flags["AutoAttack-grade union"] = np.asarray(union.robust.cpu().numpy())
    with _told(team, report, "DeepFool"):
        distance = deepfool(team, split.images, split.labels)
    right = flags["clean"]
    l2 = eps * math.sqrt(split.images[0].numel() / 3)  # length of noise that is uniform within eps
    flags["DeepFool (l2)"] = right & (distance > l2)
    middle = float(np.median(distance[right])) if right.any() else math.inf
    columns = {name: Accuracy.of(np.asarray(held)) for name, held in flags.items()}
    median = middle if math.isfinite(middle) else None
    return PaperTable(target.name, target.data, target.split_name, eps, l2, seed, columns, median)


def _told(team: GatedEnsemble[Any], report: Report, title: str) -> PassMeter:
    """Say what begins, and how many passes it has taken while it runs."""
    report(title)
    return PassMeter(team, passes_told(report, title))


def deepfool(team: GatedEnsemble[Any], images: Tensor, labels: Tensor) -> np.ndarray:
    """The l2 distance at which DeepFool changes each answer; infinite where it does not within 50 steps.

    Args:
        team: Gives logits of what is answered, and decides.
        images: In [0, 1].
        labels: True classes.

    Source:
        Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, algorithm 2, overshoot 0.02; a whole batch at once, and
        judged on the deployed forward after every step.
    """
    found = torch.full((len(images),), torch.inf, device=images.device)
    for start in range(0, len(images), _BATCH):
        where = slice(start, start + _BATCH)
        found[where] = _deepfool(team, images[where], labels[where])
    return np.asarray(found.cpu().numpy())


def _deepfool(team: GatedEnsemble[Any], images: Tensor, labels: Tensor) -> Tensor:
    distance = torch.full((len(images),), torch.inf, device=images.device)
    moved = images.clone()
    alive = torch.arange(len(images), device=images.device)
    for _ in range(_DEEPFOOL_STEPS):
        with torch.no_grad():
            wrong = team.decide(moved[alive]).labels != labels[alive]
        hit = alive[wrong]
        distance[hit] = (moved[hit] - images[hit]).flatten(1).norm(dim=1)
        alive = alive[~wrong]
        if not len(alive):
            break
        point = moved[alive].clone().requires_grad_()
        with torch.enable_grad():
            logits = team(point)
            own = logits.gather(1, labels[alive, None])
            gaps = logits - own
            slopes = torch.stack([torch.autograd.grad(gaps[:, k].sum(), point, retain_graph=True)[0] for k in range(logits.shape[1])])  # fmt: skip
        sizes = slopes.flatten(2).norm(dim=2).T  # samples × classes
        ratio = gaps.detach().abs() / sizes.clamp_min(1e-12)
        ratio.scatter_(1, labels[alive, None], torch.inf)
        best = ratio.argmin(1)
        rows = torch.arange(len(alive), device=images.device)
        length = (gaps.detach().abs()[rows, best] + 1e-4) / sizes[rows, best].clamp_min(1e-12) ** 2
        step = length[:, None, None, None] * slopes[best, rows]
        moved[alive] = (point.detach() + (1 + _OVERSHOOT) * step).clamp(0, 1)
    return distance
