"""Adversarial inputs by torchattacks, with its traps kept away.

Seen in torchattacks 3.3: several attacks seed the global generator on every call; APGDT and FAB need
the number of classes, and at least four; its AutoAttack leaves APGD and FAB at ten steps, so it is
put together here from its parts; C&W fails on CUDA and cannot move a pixel that is exactly 0 or 1;
MI-FGSM and DeepFool divide by the gradient and give NaN where it vanishes; DeepFool stops just short
of the boundary where pixels are clipped.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchattacks
from jaxtyping import Float
from torch import Tensor, nn

from eed_search.data.splits import Split
from eed_search.evaluation.attacks.victim import PassMeter, frozen, kept_generator
from eed_search.models import place
from eed_search.transfer.spec import AttackName, Case

Images = Float[Tensor, "samples channels height width"]
_CW_RATE = 0.05  # learning rate of Adam; torchattacks' 0.01 leaves saturated pixels where they are within 200 steps
_OVERSHOOT = (1.02, 1.05, 1.1, 1.2)
_INSIDE = 1e-3  # how far C&W's start keeps from 0 and 1, where its tanh has no slope


def craft(
    model: nn.Module,
    split: Split,
    case: Case,
    *,
    num_classes: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    tell: Callable[[int], None] = lambda passes: None,
) -> Images:
    """Attack every image that a network gets right; the others, and what is not finite, stay as they are.

    Args:
        model: From images in [0, 1] to logits; left in evaluation mode on `device`.
        split: Images and labels, on the CPU.
        case: The attack and its budget; at budget 0 the clean images come back.
        num_classes: Classes of the data.
        seed: Seed for everything random; the global generators are left as they were.
        batch_size: Images attacked at once.
        device: Where to compute; C&W always takes the CPU.
        tell: Told the forward passes so far.

    Returns:
        float32 images in [0, 1] in the split's order, on the CPU, within the budget to 1e-6.
    """
    found = split.images.clone()
    right = (predict(model, split.images, batch_size=batch_size, device=device) == split.labels).nonzero().flatten()
    if case.eps == 0 or not len(right):
        return found
    if case.attack.name == "cw" and device.type != "cpu":
        model, device = copy.deepcopy(model).cpu(), torch.device("cpu")
    with kept_generator(device), frozen(model), torch.enable_grad(), PassMeter(model, tell):
        torch.manual_seed(seed)
        spent = case.attack
        order = _Order(
            model,
            case.eps or 0.0,
            spent.spent_steps or 1,
            spent.spent_queries or 1,
            spent.spent_c or 1.0,
            num_classes,
            seed % 2**32,
        )
        attack = _BUILD[spent.name](order)
        for part in right.split(batch_size):
            clean = split.images[part].to(device).contiguous()
            start = clean.clamp(_INSIDE, 1 - _INSIDE) if case.attack.name == "cw" else clean
            moved = attack(start, split.labels[part].to(device)).detach()
            if spent.name == "deepfool":
                moved = _overshoot(model, clean, moved, split.labels[part].to(device))
            if case.eps is not None:
                moved = torch.clamp(moved, clean - case.eps, clean + case.eps)
            moved = moved.clamp(0, 1)
            sound = torch.isfinite(moved).flatten(1).all(1)
            found[part] = torch.where(sound[:, None, None, None], moved, clean).float().cpu()
    return found


def predict(model: nn.Module, images: Images, *, batch_size: int, device: torch.device) -> Tensor:
    """Answer images in evaluation mode; every network of a benchmark is asked in the same batches.

    Returns:
        Classes, on the CPU.
    """
    place(model, device).eval()
    with torch.no_grad():
        parts = [model(part.to(device)).argmax(-1).cpu() for part in images.split(batch_size)]
    labels: Tensor = torch.cat(parts)
    return labels


def _overshoot(model: nn.Module, clean: Images, moved: Images, labels: Tensor) -> Images:
    """Lengthen what DeepFool left just short of the boundary, by the least of a few factors that crosses it.

    torchattacks lengthens each step by 2 %, not the whole way as the paper does (algorithm 2); where
    pixels are clipped at 0 and 1, its steps close in on the boundary and never cross it.
    """
    found = moved
    with torch.no_grad():
        for factor in _OVERSHOOT:
            held = model(found).argmax(-1) == labels
            longer = (clean + factor * (moved - clean)).clamp(0, 1)
            found = torch.where(held[:, None, None, None], longer, found)
    return found


def inputs_hash(images: np.ndarray) -> str:
    """Name crafted inputs by their bytes: SHA-256 of shape and little-endian float32 values."""
    sha = hashlib.sha256(str(images.shape).encode())
    sha.update(np.ascontiguousarray(images, dtype="<f4").tobytes())
    return sha.hexdigest()


def lengths(moved: Images, clean: Images) -> Float[Tensor, " samples"]:
    """Euclidean distance of each input from its clean image."""
    found: Tensor = (moved - clean).flatten(1).norm(dim=1)
    return found


class BatchedDeepFool(torchattacks.DeepFool):  # type: ignore[misc]  # torchattacks carries no types
    """torchattacks' DeepFool, the same steps for a whole batch at once; theirs goes image by image.

    Source:
        Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, algorithm 2; overshoot as torchattacks has it.
    """

    def forward(self, images: Images, labels: Tensor) -> Images:
        """Step towards the nearest boundary until the answer is wrong."""
        moved = images.clone().detach().to(self.device)
        labels = labels.detach().to(self.device)
        alive = torch.arange(len(moved), device=moved.device)
        for _ in range(self.steps):
            point = moved[alive].requires_grad_()
            logits = self.get_logits(point)
            still = logits.argmax(-1) == labels[alive]
            if not bool(still.any()):
                break
            slopes = torch.stack(
                [torch.autograd.grad(logits[:, k].sum(), point, retain_graph=True)[0] for k in range(logits.shape[1])],
                1,
            )
            alive = alive[still]
            rows, own = torch.arange(len(alive), device=moved.device), labels[alive]
            height, slope = logits.detach()[still], slopes[still].flatten(2)
            gaps, ways = height - height[rows, own, None], slope - slope[rows, own, None]
            distances = (gaps.abs() / ways.norm(dim=2)).scatter(1, own[:, None], torch.inf)
            nearest = distances.argmin(1)
            gap, way = gaps[rows, nearest].abs(), ways[rows, nearest]
            step = (1 + self.overshoot) * (gap / way.square().sum(1))[:, None] * way
            moved[alive] = (moved[alive] + step.view_as(moved[alive])).clamp(0, 1)
        return moved


# ---------------------------------------------------------------- how each attack is set up


@dataclass(frozen=True)
class _Order:
    """What an attack is made from."""

    model: nn.Module
    eps: float
    steps: int
    queries: int
    c: float
    num_classes: int
    seed: int

    @property
    def step(self) -> float:
        """Step size of BIM and PGD: all steps together go two and a half times across the budget."""
        return 2.5 * self.eps / self.steps


def _autoattack(order: _Order) -> Any:
    """AutoAttack's four attacks, each on what the earlier ones left.

    Source:
        Croce and Hein 2020, arXiv 2003.01690 (`standard`).
    """
    model, eps, steps, seed, classes = order.model, order.eps, order.steps, order.seed, order.num_classes
    parts = [
        torchattacks.APGD(model, eps=eps, steps=steps, seed=seed),
        torchattacks.APGDT(model, eps=eps, steps=steps, n_classes=classes, seed=seed),
        torchattacks.FAB(model, eps=eps, steps=steps, multi_targeted=True, n_classes=classes, seed=seed),
        torchattacks.Square(model, eps=eps, n_queries=order.queries, seed=seed),
    ]
    return torchattacks.MultiAttack(parts)


_BUILD: dict[AttackName, Callable[[_Order], Any]] = {
    "fgsm": lambda o: torchattacks.FGSM(o.model, eps=o.eps),
    "bim": lambda o: torchattacks.BIM(o.model, eps=o.eps, alpha=o.step, steps=o.steps),
    "pgd": lambda o: torchattacks.PGD(o.model, eps=o.eps, alpha=o.step, steps=o.steps),
    "mifgsm": lambda o: torchattacks.MIFGSM(o.model, eps=o.eps, alpha=o.eps / o.steps, steps=o.steps),
    "deepfool": lambda o: BatchedDeepFool(o.model, steps=o.steps),
    "cw": lambda o: torchattacks.CW(o.model, c=o.c, steps=o.steps, lr=_CW_RATE),
    "square": lambda o: torchattacks.Square(o.model, eps=o.eps, n_queries=o.queries, seed=o.seed),
    "autoattack": _autoattack,
}
