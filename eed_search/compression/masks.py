"""Masks: which weights a member keeps, by exact count in each layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eed_search.compression.scores import Scores


def top_mask(score: Float[Tensor, ...], fraction: float) -> Bool[Tensor, ...]:
    """Keep the entries of highest score, exactly max(1, round(fraction * entries)) of them.

    Chosen by index, never by comparing with a threshold; of equal scores the earlier entry wins.

    Args:
        score: Finite.
        fraction: In (0, 1].

    Returns:
        True where kept.
    """
    count = max(1, round(fraction * score.numel()))
    order = torch.sort(score.flatten(), descending=True, stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[order[:count]] = True
    return mask.view(score.shape)


def layer_masks(scores: Scores, fraction: float) -> dict[str, Bool[Tensor, ...]]:
    """Mask every scored layer to the same fraction (layer-wise budget)."""
    return {name: top_mask(score, fraction) for name, score in scores.items()}


def masked_size_bytes(num_parameters: int, masks: Mapping[str, Tensor]) -> int:
    """Bytes of a masked network as a file: 4 for each weight kept, and one bit for each entry of a mask.

    Args:
        num_parameters: All parameters and batch-norm statistics, masked ones included.
        masks: True where kept.
    """
    entries = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 4 * (num_parameters - entries + kept) + (entries + 7) // 8
