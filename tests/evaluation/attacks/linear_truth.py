"""Gated linear ensembles whose robustness is known exactly, by linear programs.

Members are linear, the team takes mean logits and stops at a margin. A sample breaks if some prefix m
answers some wrong class t: t leads every class by the margin there (at the last prefix, by anything),
and no earlier prefix j stops with the true class y, that is, some class d has y lead it by less
than the margin at j. For each choice of m, t and the doubted classes d this is a set of linear
conditions on the image, so one program decides it; together they are the whole truth.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from eed_search.ensemble.gate import GatedEnsemble, MarginGate

Rows = list[tuple[np.ndarray, float]]


def linear_team(
    seed: int, *, members: int, classes: int, pixels: int, shared: float, threshold: float
) -> GatedEnsemble:
    """Linear members that share part of their weights, behind a margin."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(classes, pixels, generator=generator)
    team = []
    for _ in range(members):
        layer = nn.Linear(pixels, classes)
        own = torch.randn(classes, pixels, generator=generator)
        layer.weight.data = shared * common + (1 - shared**2) ** 0.5 * own
        layer.weight.data -= layer.weight.data.mean(1, keepdim=True)  # grey images are undecided
        layer.bias.data = 0.1 * torch.randn(classes, generator=generator)
        team.append(nn.Sequential(nn.Flatten(), layer))
    return GatedEnsemble(team, MarginGate(threshold)).eval()


def robust_truth(team: GatedEnsemble, images: Tensor, labels: Tensor, eps: float) -> np.ndarray:
    """Which samples no image within the ball breaks; those wrong without attack are not robust."""
    weights = np.stack([m[1].weight.detach().double().numpy() for m in team.members])
    biases = np.stack([m[1].bias.detach().double().numpy() for m in team.members])
    counts = np.arange(1, len(weights) + 1)
    weights = weights.cumsum(0) / counts[:, None, None]
    biases = biases.cumsum(0) / counts[:, None]
    flat = images.flatten(1).double().numpy()
    low, high = np.clip(flat - eps, 0, 1), np.clip(flat + eps, 0, 1)
    return np.array(
        [
            not any(_possible(rows, low[i], high[i]) for rows in _routes(weights, biases, int(y), team.gate.threshold))
            for i, y in enumerate(labels)
        ]
    )


def _routes(weights: np.ndarray, biases: np.ndarray, label: int, margin: float) -> list[Rows]:
    """Every way to a wrong answer as rows (a, b): a·x + b must be positive."""
    members, classes, _ = weights.shape
    others = [c for c in range(classes) if c != label]

    def lead(prefix: int, over: int, under: int, by: float, sign: float = 1.0) -> tuple[np.ndarray, float]:
        row = weights[prefix, over] - weights[prefix, under]
        return sign * row, sign * (biases[prefix, over] - biases[prefix, under] - by)

    found = []
    for last, target in product(range(members), others):
        by = margin if last < members - 1 else 0.0
        answer = [lead(last, target, c, by) for c in range(classes) if c != target]
        for doubted in product(others, repeat=last):
            found.append(answer + [lead(j, label, d, margin, -1.0) for j, d in enumerate(doubted)])
    return found


def _possible(rows: Rows, low: np.ndarray, high: np.ndarray) -> bool:
    """Whether some image of the box meets all rows; the largest common slack is sought."""
    slopes, offsets = np.stack([a for a, _ in rows]), np.array([b for _, b in rows])
    if (np.maximum(slopes * low, slopes * high).sum(1) + offsets <= 0).any():
        return False  # one row alone cannot be met
    costs = np.zeros(len(low) + 1)
    costs[-1] = -1.0
    found = linprog(
        costs,
        A_ub=np.hstack([-slopes, np.ones((len(rows), 1))]),
        b_ub=offsets,
        bounds=[*zip(low, high, strict=True), (None, 1.0)],
        method="highs",
    )
    assert found.status == 0, found.message
    return bool(-found.fun > 0)
