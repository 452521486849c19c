"""Gated linear ensembles whose robustness is known exactly, by linear programs.

Members are linear and the team takes mean logits. A sample breaks if some prefix m answers some wrong class t (t is
ahead of every class there, and the gate stops, unless m is the last), and no earlier prefix stops with the true class y. Two
stop rules make all of that linear conditions on the image:

    margin     the best class leads the second by the threshold. An earlier prefix does not stop with y if some class d
               has y lead it by less: one program for each choice of the doubted classes, infeasible ones cut off early.
    spread     the best class leads the mean of all classes by the threshold.

Together the programs of all routes are the whole truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from eed_search.ensemble.gate import Decision, GatedEnsemble, MarginGate, StopRule, first_true, prefix_means

Row = tuple[np.ndarray, float]
"""A condition a·x + b > 0."""


@dataclass(frozen=True)
class SpreadGate:
    """Mean logits, and a stop where the best class leads the mean of all classes by a threshold."""

    threshold: float

    def combine(self, logs: Tensor) -> Tensor:
        """Mean logits of each prefix, up to a constant."""
        return prefix_means(logs)

    def surplus(self, combined: Tensor) -> Tensor:
        """Lead of the best class over the mean, above the threshold."""
        return combined.amax(-1) - combined.mean(-1) - self.threshold

    def soft_stops(self, combined: Tensor) -> Tensor:
        """A sigmoid of the surplus; 1 at the last prefix."""
        stop = torch.sigmoid(self.surplus(combined))
        return torch.cat([stop[:-1], torch.ones_like(stop[-1:])])

    def decide_logs(self, logs: Tensor) -> Decision:
        """Stop at the first prefix whose lead reaches the threshold."""
        combined = self.combine(logs)
        reached = self.surplus(combined) >= 0
        reached[-1] = True
        run = first_true(reached) + 1
        return Decision(combined.argmax(-1).gather(0, run[None] - 1)[0], run, run)


def linear_team(
    seed: int, *, members: int, classes: int, pixels: int, shared: float, threshold: float, rule: str = "margin"
) -> GatedEnsemble[StopRule]:
    """Linear members that share part of their weights, behind a gate with a linear rule."""
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
    gate: StopRule = MarginGate(threshold) if rule == "margin" else SpreadGate(threshold)
    return GatedEnsemble(team, gate).eval()


def robust_truth(team: GatedEnsemble[StopRule], images: Tensor, labels: Tensor, eps: float) -> np.ndarray:
    """Which samples no image within the ball breaks; those wrong without attack are not robust."""
    weights = np.stack([m[1].weight.detach().double().numpy() for m in team.members])
    biases = np.stack([m[1].bias.detach().double().numpy() for m in team.members])
    counts = np.arange(1, len(weights) + 1)
    weights, biases = weights.cumsum(0) / counts[:, None, None], biases.cumsum(0) / counts[:, None]
    flat = images.flatten(1).double().numpy()
    low, high = np.clip(flat - eps, 0, 1), np.clip(flat + eps, 0, 1)
    return np.array(
        [not _breakable(_Means(weights, biases, team.gate), int(y), low[i], high[i]) for i, y in enumerate(labels)]
    )


@dataclass(frozen=True)
class _Means:
    """The mean logits of every prefix as functions of the image, and the rule."""

    weights: np.ndarray
    biases: np.ndarray
    rule: MarginGate | SpreadGate

    def lead(self, prefix: int, over: int, under: int, by: float) -> Row:
        """Class `over` leads `under` by more than `by`."""
        return (
            self.weights[prefix, over] - self.weights[prefix, under],
            self.biases[prefix, over] - self.biases[prefix, under] - by,
        )

    def spread(self, prefix: int, over: int) -> Row:
        """Class `over` leads the mean of all by more than the threshold."""
        slope = self.weights[prefix, over] - self.weights[prefix].mean(0)
        return slope, self.biases[prefix, over] - self.biases[prefix].mean() - self.rule.threshold

    def answers(self, prefix: int, target: int) -> list[Row]:
        """The prefix answers the target."""
        others = [c for c in range(self.weights.shape[1]) if c != target]
        stops = prefix < len(self.weights) - 1
        margin = self.rule.threshold if stops and isinstance(self.rule, MarginGate) else 0.0
        rows = [self.lead(prefix, target, c, margin) for c in others]
        return rows + ([self.spread(prefix, target)] if stops and isinstance(self.rule, SpreadGate) else [])

    def passes(self, prefix: int, label: int) -> Iterator[Row]:
        """Every way in which the prefix does not stop with the label; of two a wrong answer, which is another route."""
        if isinstance(self.rule, SpreadGate):
            slope, offset = self.spread(prefix, label)
            yield -slope, -offset
            return
        for doubted in (c for c in range(self.weights.shape[1]) if c != label):
            slope, offset = self.lead(prefix, label, doubted, self.rule.threshold)
            yield -slope, -offset


def _breakable(means: _Means, label: int, low: np.ndarray, high: np.ndarray) -> bool:
    members, classes, _ = means.weights.shape
    return any(
        _possible(rows := means.answers(last, target), low, high)
        and _leads_there(means, rows, 0, last, label, low, high)
        for last in range(members)
        for target in range(classes)
        if target != label
    )


def _leads_there(
    means: _Means, rows: list[Row], prefix: int, last: int, label: int, low: np.ndarray, high: np.ndarray
) -> bool:
    """Whether the prefixes from this one on can be passed, beside what the rows demand already."""
    if prefix == last:
        return True
    return any(
        _possible([*rows, way], low, high) and _leads_there(means, [*rows, way], prefix + 1, last, label, low, high)
        for way in means.passes(prefix, label)
    )


def _possible(rows: list[Row], low: np.ndarray, high: np.ndarray) -> bool:
    """Whether some image of the box meets all rows; the largest common slack is sought."""
    slopes, offsets = np.stack([a for a, _ in rows]), np.array([b for _, b in rows])
    most = np.maximum(slopes * low, slopes * high).sum(1) + offsets
    if (most <= 0).any():
        return False  # one row alone cannot be met
    for signs in (slopes, slopes + slopes[-1]):  # the sum of two neither
        offset = offsets if signs is slopes else offsets + offsets[-1]
        if (np.maximum(signs * low, signs * high).sum(1) + offset <= 0).any():
            return False
    middle = (low + high) / 2
    if (slopes @ np.clip(middle + (high - low) * np.sign(slopes.sum(0)), low, high) + offsets > 0).all():
        return True
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


# ---------------------------------------------------------------- ensembles of many kinds


@dataclass(frozen=True)
class Ensemble:
    """A gated linear ensemble with samples that it gets right without attack.

    Attributes:
        team: 3 to 6 members, 4 to 6 classes, behind one of the two rules.
        images: In [0, 1].
        labels: What the team answers.
        num_classes: Classes.
        eps: Budget in pixel units.
    """

    team: GatedEnsemble[StopRule]
    images: Tensor
    labels: Tensor
    num_classes: int
    eps: float


def ensemble(number: int, num_samples: int = 300) -> Ensemble:
    """One of a row of ensembles, the stop rules in turn; every number gives the same one for ever."""
    draw = np.random.default_rng(1000 + number)
    members, classes = int(draw.integers(3, 7)), int(draw.integers(4, 7))
    shared, threshold, eps = draw.uniform(0.2, 0.8), draw.uniform(0.3, 2.5), draw.uniform(0.015, 0.035)
    side = int(draw.choice([6, 8]))
    team = linear_team(
        number,
        members=members,
        classes=classes,
        pixels=side**2,
        shared=float(shared),
        threshold=float(threshold),
        rule=("margin", "spread")[number % 2],
    )
    images = torch.rand(num_samples, 1, side, side, generator=torch.Generator().manual_seed(5000 + number))
    return Ensemble(team, images, team.decide(images).labels, classes, float(eps))
