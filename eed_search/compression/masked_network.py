"""A network of frozen weights whose masks are learned: a score for each entry, a keep rate for each layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from eed_search.compression.channels import ChannelGroup
from eed_search.config.kept_channels import kept_channels
from eed_search.config.spec import Learned


class _Choose(torch.autograd.Function):
    """The best entries, by exact count and index; gradients pass straight through."""

    @staticmethod
    def forward(ctx: object, scores: Tensor, rate: Tensor, count: int) -> Tensor:
        return top_count(scores, count).to(scores.dtype)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], gradients[0].sum(), None


_choose = cast("Callable[[Tensor, Tensor, int], Tensor]", _Choose.apply)


def top_count(scores: Float[Tensor, " entries"], count: int) -> Bool[Tensor, " entries"]:
    """Mark the `count` entries of highest score, the earlier of equals."""
    order = torch.sort(scores, descending=True, stable=True).indices
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[order[:count]] = True
    return mask


class MaskedNetwork(nn.Module, ABC):
    """What both granularities share: scores, rates, counts, the budget.

    k_l = k_min + (1 − k_min)·sigmoid(a_l) starts at the size everywhere. The scores' gradient is the mask's
    own, a_l gets the sum of it.

    Args:
        model: Its weights are frozen; batch norms go on measuring.
        start: First scores of each layer, flat.
        size: Share kept of everything together, in (0, 1].
        block: Entries are kept in multiples of this.
        recipe: Budget and smallest share.

    Attributes:
        scores: One vector for each layer.
        rates: a_l.
        allowed: Entries that may stay in all layers together.
        phi: Weight of the budget, grown by the loss.
        learns_rates: Whether layers may keep different shares.

    Source:
        HARP, Zhao and Wressnegger 2023 (ICLR); EED, arXiv 2504.04747, equation 5.
    """

    phi: Tensor

    def __init__(self, model: nn.Module, start: Sequence[Tensor], size: float, block: int, recipe: Learned) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.scores = nn.ParameterList([nn.Parameter(score.flatten().clone()) for score in start])
        self.size, self.block, self.learns_rates = size, block, recipe.budget == "global"
        self._least = recipe.min_share * size
        share = min(max((size - self._least) / (1 - self._least), 1e-6), 1 - 1e-6)
        first = torch.full((len(start),), share).logit()
        self.rates = nn.Parameter(first, requires_grad=self.learns_rates)
        self.register_buffer("phi", torch.zeros(()))
        self.allowed = sum(kept_channels(score.numel(), size, block) for score in start)
        self._fixed: list[Tensor] | None = None

    def keep_rates(self, shift: float = 0.0) -> Float[Tensor, " layers"]:
        """k_l, with all a_l moved by a common amount."""
        return self._least + (1 - self._least) * torch.sigmoid(self.rates + shift)

    def counts(self, shift: float = 0.0) -> list[int]:
        """Entries that each layer keeps at the current rates."""
        if not self.learns_rates:
            return [kept_channels(score.numel(), self.size, self.block) for score in self.scores]
        rates = self.keep_rates(shift).tolist()
        return [kept_channels(s.numel(), rate, self.block) for s, rate in zip(self.scores, rates, strict=True)]

    def excess(self) -> float:
        """Kept over allowed, minus 1, as counted."""
        return sum(self.counts()) / self.allowed - 1

    def soft_excess(self) -> Float[Tensor, ""]:
        """Kept over allowed, minus 1, with a gradient for the rates."""
        sizes = torch.tensor([float(score.numel()) for score in self.scores], device=self.rates.device)
        return (self.keep_rates() * sizes).sum() / self.allowed - 1

    def masks_of(self, counts: Sequence[int]) -> list[Tensor]:
        """The masks that keep so many entries of each layer, true where kept."""
        chosen = [top_count(s.detach(), count) for s, count in zip(self.scores, counts, strict=True)]
        return [self._shaped(i, mask) for i, mask in enumerate(chosen)]

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of the masked network; in training mode gradients reach scores and rates.

        In evaluation mode the masks are chosen once and kept until the next training pass, since an
        attack asks many times between two steps.
        """
        if self.training:
            self._fixed = None
            rates = self.keep_rates()
            triples = zip(self.scores, rates, self.counts(), strict=True)
            return self._masked(images, [_choose(score, rate, count) for score, rate, count in triples])
        if self._fixed is None:
            flat = [top_count(s.detach(), count) for s, count in zip(self.scores, self.counts(), strict=True)]
            self._fixed = [mask.to(s.dtype) for mask, s in zip(flat, self.scores, strict=True)]
        return self._masked(images, self._fixed)

    @abstractmethod
    def _masked(self, images: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Run the network with flat masks."""

    @abstractmethod
    def _shaped(self, layer: int, mask: Tensor) -> Tensor:
        """Give a flat mask the form that a member keeps it in."""


class MaskedWeights(MaskedNetwork):
    """Masks on single weights."""

    def __init__(self, model: nn.Module, names: Sequence[str], start: Sequence[Tensor], size: float, recipe: Learned):
        super().__init__(model, start, size, 1, recipe)
        self._names = list(names)

    def _masked(self, images: Tensor, masks: Sequence[Tensor]) -> Tensor:
        weights = {
            name: self.model.get_parameter(name) * mask.view_as(self.model.get_parameter(name))
            for name, mask in zip(self._names, masks, strict=True)
        }
        logits: Tensor = functional_call(self.model, weights, (images,))
        return logits

    def _shaped(self, layer: int, mask: Tensor) -> Tensor:
        return mask.view_as(self.model.get_parameter(self._names[layer]))


class MaskedChannels(MaskedNetwork):
    """Masks on channels, after their batch norm: a masked channel says 0, as a removed one does."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        start: Sequence[Tensor],
        size: float,
        block: int,
        recipe: Learned,
    ) -> None:
        super().__init__(model, start, size, block, recipe)
        self._current: Sequence[Tensor] = ()
        for i, group in enumerate(groups):
            for name in group.norms or group.producers:
                model.get_submodule(name).register_forward_hook(self._hook(i))

    def _hook(self, layer: int) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def masked(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            mask = self._current[layer]  # a linear layer's channels are the last dimension, a convolution's the second
            return output * (mask if isinstance(module, nn.Linear) else mask.view(1, -1, *[1] * (output.ndim - 2)))

        return masked

    def _masked(self, images: Tensor, masks: Sequence[Tensor]) -> Tensor:
        self._current = masks
        logits: Tensor = self.model(images)
        return logits

    def _shaped(self, layer: int, mask: Tensor) -> Tensor:
        return mask
