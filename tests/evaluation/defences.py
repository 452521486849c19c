"""An honest small network, and the eight defences broken on purpose that the sanity checks must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eed_search.data.splits import Split
from eed_search.ensemble.gate import Decision, Gate, GatedEnsemble

EPS = 0.12
NUM_CLASSES = 4
SHAPE = (1, 6, 6)


@cache
def images_and_labels(seed: int = 1, count: int = 160) -> Split:
    """Four classes: which quarter of a small noisy image is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % NUM_CLASSES
    images = 0.35 + 0.5 * (torch.rand(count, *SHAPE, generator=generator) - 0.5)
    for i, label in enumerate(labels):
        top, left = 3 * (int(label) // 2), 3 * (int(label) % 2)
        images[i, :, top : top + 3, left : left + 3] += 0.3
    return Split(images.clamp(0, 1), labels)


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, NUM_CLASSES))


@cache
def trained(width: int, seed: int) -> nn.Module:
    """A small network, trained for a second against one-step attacks."""
    torch.manual_seed(seed)
    model = network(width)
    split = images_and_labels(seed=0, count=400)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(150):
        point = split.images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(model(point), split.labels), point)
        moved = (split.images + EPS * slope.sign()).clamp(0, 1)
        optimiser.zero_grad()
        functional.cross_entropy(model(moved), split.labels).backward()
        optimiser.step()
    return model.eval()


def undefended() -> nn.Module:
    """A network of the same kind that was never trained against an attack; nor at all, which is as good here."""
    torch.manual_seed(0)
    return network(4).eval()


def members() -> list[nn.Module]:
    return [trained(4, 0), trained(6, 1)]


GATE = Gate(0.998)


def honest() -> GatedEnsemble[Any]:
    return GatedEnsemble(members(), GATE).eval()


class _Before(nn.Module):
    """Something in front of a network."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.change(images))


class _After(nn.Module):
    """Something behind a network."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.model(images))


def _each(wrap: Callable[[nn.Module], nn.Module]) -> GatedEnsemble[Any]:
    return GatedEnsemble([wrap(member) for member in members()], GATE).eval()


def gradient_killer() -> GatedEnsemble[Any]:
    """Pixels rounded to 32 levels: almost the same answers, no slope anywhere."""
    return _each(lambda member: _Before(member, lambda images: (images * 32).round() / 32))


def huge_logits() -> GatedEnsemble[Any]:
    return _each(lambda member: _After(member, lambda logits: 1e4 * logits))


def one_hot() -> GatedEnsemble[Any]:
    return _each(
        lambda member: _After(member, lambda logits: functional.one_hot(logits.argmax(-1), NUM_CLASSES).float())
    )


class RandomOrder(GatedEnsemble[Any]):
    """Asks its members in another order each time."""

    def member_log_probabilities(self, images: Tensor) -> Tensor:
        logs = super().member_log_probabilities(images)
        return logs[torch.randperm(len(logs))]


def random_order() -> GatedEnsemble[Any]:
    return RandomOrder(members(), GATE).eval()


@dataclass(frozen=True)
class BatchGate(Gate):
    """Stops by how sure the team is of the whole batch."""

    def decide(self, probabilities: Tensor) -> Decision:
        sure = float(probabilities[0].amax(-1).mean())
        return Gate(sure).decide(probabilities)


def batch_dependent() -> GatedEnsemble[Any]:
    return GatedEnsemble(members(), BatchGate()).eval()


def wrong_normalisation() -> GatedEnsemble[Any]:
    """Divides by 255 once more: every image is nearly black to it."""
    return _each(lambda member: _Before(member, lambda images: images / 255))


@dataclass(frozen=True)
class DetachedGate(Gate):
    """Lets no gradient through to the decision to stop."""

    def stop_probabilities(self, means: Tensor) -> Tensor:
        return super().stop_probabilities(means.detach())


def detached_gate() -> GatedEnsemble[Any]:
    return GatedEnsemble(members(), DetachedGate(0.998)).eval()


class _Dropout(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return functional.dropout(images, 0.2, training=True)


def dropout() -> GatedEnsemble[Any]:
    return _each(lambda member: nn.Sequential(_Dropout(), member))


BROKEN: dict[str, Callable[[], GatedEnsemble[Any]]] = {
    "gradient killer": gradient_killer,
    "logits x 1e4": huge_logits,
    "one-hot output": one_hot,
    "random member order": random_order,
    "batch-dependent gate": batch_dependent,
    "wrong normalisation": wrong_normalisation,
    "detached gate": detached_gate,
    "test-time dropout": dropout,
}
