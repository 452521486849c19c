"""Nearest sparse weights: Euclidean projections onto the sets irregular, filter and column.

A weight is seen as the matrix C_out × (C_in·kh·kw). A projection is a mask, chosen by exact count and by index
(never by comparing with a threshold, which leaves ties neither kept nor trainable), and the weight
times its mask; the weight itself is never written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eed_search.compression.masks import top_mask

Weights = Mapping[str, Tensor]


def irregular(weight: Float[Tensor, ...], fraction: float) -> Bool[Tensor, ...]:
    """Keep the entries of largest magnitude, max(1, round(fraction · entries)) of them.

    Args:
        weight: Weight of any shape.
        fraction: Kept, in (0, 1].

    Returns:
        True where the nearest point of the set {non-zero entries ≤ count} is not zeroed.

    Source:
        R-ADMM, Ye et al. 2019, arXiv 1903.12561, section 3.2.
    """
    return top_mask(weight.abs(), fraction)


def column(weight: Float[Tensor, "outputs ..."], fraction: float) -> Bool[Tensor, "outputs ..."]:
    """Keep the columns of largest l2 norm, max(1, round(fraction · C_in·kh·kw)) of them.

    Source:
        R-ADMM, Ye et al. 2019, arXiv 1903.12561, section 3.2.
    """
    kept = top_mask(weight.flatten(1).square().sum(0), fraction)
    return kept.view(1, *weight.shape[1:]).expand(weight.shape).clone()


def rows(weights: Sequence[Float[Tensor, "outputs ..."]], count: int) -> Bool[Tensor, " outputs"]:
    """Keep the filters (rows) of largest l2 norm, the same ones in all of the weights.

    For one weight this is the set `filter` of the paper. Where a residual sum couples layers, a
    channel can only be removed from all of them, so the set is on their rows side by side (ours).

    Args:
        weights: Layers whose outputs are the same channels.
        count: Filters kept.

    Returns:
        True for the filters that stay.

    Source:
        R-ADMM, Ye et al. 2019, arXiv 1903.12561, section 3.2.
    """
    energy = torch.stack([weight.flatten(1).square().sum(1) for weight in weights]).sum(0)
    order = torch.sort(energy, descending=True, stable=True).indices
    kept = torch.zeros(len(energy), dtype=torch.bool, device=energy.device)
    kept[order[:count]] = True
    return kept


def masked(weights: Weights, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the masked weights as new tensors."""
    return {name: weights[name] * mask for name, mask in masks.items()}
