"""How a network gets its robustness back: from the labels, or from the dense base's soft labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from eed_search.config.spec import TrainingAttack
from eed_search.training.attacks import perturb

Logits = Float[Tensor, "batch classes"]


def label_loss(logits: Logits, labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Cross-entropy, summed over the batch.

    Source:
        Madry et al. 2018, arXiv 1706.06083, equation 2.1.
    """
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def soft_label_loss(logits: Logits, target: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """KL(target || softmax(logits)), summed over the batch.

    Args:
        logits: Logits of the network that learns.
        target: Probabilities of the dense base on the CLEAN images.
    """
    return functional.kl_div(logits.float().log_softmax(-1), target, reduction="sum")


def distill_loss(adversarial: Logits, clean: Logits, target: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """Robust soft-label distillation: 5/6 on the adversarial images, 1/6 on the clean ones, summed.

    Args:
        adversarial: The network's logits on images that maximise `soft_label_loss`.
        clean: Its logits on the clean images.
        target: The dense base's probabilities on the clean images.

    Source:
        RSLAD, Zi et al. 2021, arXiv 2108.07969, equation 5, temperature 1.
    """
    return soft_label_loss(adversarial, target) * (5 / 6) + soft_label_loss(clean, target) * (1 / 6)


@dataclass(frozen=True)
class LabelRecovery:
    """Adversarial cross-entropy on the labels, as one batch's loss for `train`.

    Args:
        eps: Budget in pixel units.
        attack: The inner attack.
    """

    eps: float
    attack: TrainingAttack

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Mean adversarial cross-entropy of a batch."""
        model.eval()
        moved = perturb(
            lambda x: label_loss(model(x), labels), images, eps=self.eps, attack=self.attack, generator=generator
        )
        model.train()
        return label_loss(model(moved), labels) / len(labels)


@dataclass(frozen=True)
class DistillRecovery:
    """Robust soft labels of a teacher, as one batch's loss for `train`.

    Args:
        eps: Budget in pixel units.
        attack: The inner attack; it maximises the distance to the teacher's clean answer.
        teacher: The dense base, in evaluation mode on the right device.
    """

    eps: float
    attack: TrainingAttack
    teacher: nn.Module

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Mean distillation loss of a batch; the labels are not used."""
        with torch.no_grad():
            target = self.teacher(images).float().softmax(-1)
        model.eval()
        moved = perturb(
            lambda x: soft_label_loss(model(x), target), images, eps=self.eps, attack=self.attack, generator=generator
        )
        model.train()
        adversarial, clean = model(torch.cat([moved, images])).chunk(2)
        return distill_loss(adversarial, clean, target) / len(labels)
