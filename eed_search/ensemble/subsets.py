"""Which training images each member is fine-tuned on: different data make different members."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from eed_search.config.plans import NUM_PARTS


def subset_indices(num_samples: int, part: int, seed: int) -> Int[Tensor, " chosen"]:
    """Take the shared quarter and one of three disjoint others.

    Args:
        num_samples: Training images in all, at least 4.
        part: 0, 1 or 2; members of one score with the same part see the same images.
        seed: Seed for the shuffle; differs for each score.

    Returns:
        Half of the images (rounded), in shuffled order.

    Raises:
        ValueError: If there are too few images or the part is out of range.

    Source:
        EED, arXiv 2504.04747: d = 4 disjoint parts, one shared by all, the rest one each.
    """
    if num_samples < NUM_PARTS + 1 or not 0 <= part < NUM_PARTS:
        raise ValueError(
            f"part {part} of {num_samples} images: need part 0..{NUM_PARTS - 1} and at least {NUM_PARTS + 1} images"
        )
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    parts = torch.tensor_split(order, NUM_PARTS + 1)
    return torch.cat([parts[0], parts[1 + part]])
