"""Notices when one-step adversarial training collapses: it learns to fool its own attack, and PGD breaks everything.

Looked at after each epoch, on a fixed batch of training images: there it shows as well as on others (Wong et al. do the
same), nothing is taken from the training, and no image that judges anything is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from eed_search.config.spec import TrainingAttack
from eed_search.data.splits import AnySplit
from eed_search.training.attacks import perturb

_MOST, _LEAST, _SHARE = 128, 32, 32  # images: one in so many, within these limits
_PGD = TrainingAttack(method="pgd", steps=5)
_LEFT = 0.5  # share of the best robust accuracy so far; below it, with a loss that did not grow, training collapsed
_MATTERS = 0.1  # robust accuracy from which on a fall says something


class Guard:
    """Keeps the last good weights of a one-step training, and brings them back.

    Args:
        model: The network that is trained; gives logits, or those of several members.
        average: Its averaged weights, if there are any.
        split: Training images.
        eps: Budget in pixel units.
        seed: Seed for the batch and for PGD's start.
        device: Where the network is.
        memory_format: How its images lie in memory.

    Attributes:
        collapsed_at: Epochs done when it collapsed; none as long as it did not.

    Source:
        Wong et al. 2020, arXiv 2001.03994, section 5 (catastrophic overfitting, noticed by PGD on training images).
        That the last good weights go on with two steps is ours.
    """

    def __init__(
        self,
        model: nn.Module,
        average: Sequence[Tensor],
        split: AnySplit,
        *,
        eps: float,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self._model, self._average, self._eps, self._seed = model, average, eps, seed
        num = min(len(split), _MOST, max(_LEAST, len(split) // _SHARE))
        some = split.subset(torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:num])
        self._images = some.images.to(device).contiguous(memory_format=memory_format)
        self._labels = some.labels.to(device)
        self.collapsed_at: float | None = None
        self._best, self._loss = 0.0, float("inf")
        self._good: list[Tensor] = []

    def look(self, loss: float, epoch: float) -> bool:
        """Look at the network after an epoch; if it collapsed, give it back its last good weights.

        Args:
            loss: Mean training loss of the epoch.
            epoch: Epochs done.

        Returns:
            Whether it has just collapsed.
        """
        if self.collapsed_at is not None:
            return False
        robust = self.robust_accuracy()
        if self._best >= _MATTERS and robust < _LEFT * self._best and loss <= self._loss:
            self.collapsed_at = epoch
            with torch.no_grad():
                for tensor, good in zip(self._watched(), self._good, strict=True):
                    tensor.copy_(good)
            self._good = []
            return True
        if robust >= _LEFT * self._best:
            self._good, self._loss = [tensor.detach().clone() for tensor in self._watched()], loss
        self._best = max(self._best, robust)
        return False

    def robust_accuracy(self) -> float:
        """Share of the batch that five steps of PGD leave right; the network is then in training mode."""
        self._model.eval()
        start = torch.Generator(self._images.device).manual_seed(self._seed)
        moved = perturb(self._loss_of, self._images, eps=self._eps, attack=_PGD, generator=start)
        with torch.no_grad():
            right = _together(self._model(moved)).argmax(-1) == self._labels
        self._model.train()
        return float(right.float().mean())

    def state(self) -> dict[str, Tensor]:
        """Give everything that `restore` needs."""
        facts = (self._best, self._loss, -1.0 if self.collapsed_at is None else self.collapsed_at)
        return {"facts": torch.tensor(facts, dtype=torch.float64)} | {str(i): t for i, t in enumerate(self._good)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self._best, self._loss, at = state["facts"].tolist()
        self.collapsed_at = None if at < 0 else at
        kept = [state[str(i)] for i in range(len(state) - 1)]
        self._good = [good.to(tensor.device) for good, tensor in zip(kept, self._watched(), strict=False)]

    def _watched(self) -> list[Tensor]:
        return [*self._model.state_dict().values(), *self._average]

    def _loss_of(self, images: Tensor) -> Tensor:
        return functional.nll_loss(_together(self._model(images)), self._labels, reduction="sum")


def _together(logits: Tensor) -> Float[Tensor, "batch classes"]:
    """Log probabilities of a network, or of the mean of several members' logarithms."""
    logs = logits.float().log_softmax(-1)
    return logs if logs.ndim == 2 else logs.mean(0).log_softmax(-1)
