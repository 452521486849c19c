"""The one contract of all ways to make a member: `compress(base, target, work) -> Member`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from eed_search.compression.member import Member
from eed_search.compression.scores import Scores
from eed_search.config.params import Recovery
from eed_search.config.spec import Augment, Members
from eed_search.data.splits import AnySplit
from eed_search.training.checkpoints import Checkpoint, NoCheckpoint


@dataclass(frozen=True)
class Target:
    """What a member must be.

    Attributes:
        size: Fraction kept, in (0, 1]: of each layer's channels or of the weights, as the method says.
        settings: Section `members` of the file: granularity, block, and each method's recipe.
    """

    size: float
    settings: Members


@dataclass(frozen=True)
class Work:
    """What a method works with.

    Attributes:
        image_shape: Channels, height, width.
        split: The member's training images.
        scores: Gives the importance scores; only methods that rank by them ask.
        eps: L∞ budget in pixel units.
        recovery: What the adversarial loss learns from: the labels, or the base's soft labels.
        seed: Seed for order, augmentation and attacks.
        augment: How training images are shifted and mirrored.
        device: Where to compute.
        report: Called with a line of progress.
        checkpoint: Where a long method keeps its state; its fine-tuning keeps its own in the part `retrain`.
    """

    image_shape: tuple[int, int, int]
    split: AnySplit
    scores: Callable[[], Scores]
    eps: float
    recovery: Recovery
    seed: int
    augment: Augment
    device: torch.device
    report: Callable[[str], None]
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)


class Compress(Protocol):
    """One way to make a member."""

    def __call__(self, base: nn.Module, target: Target, work: Work) -> Member:
        """Make a member of the base.

        Args:
            base: The dense base; left untouched.
            target: Size and settings.
            work: Images, budget, seed, device.

        Returns:
            The member, on the CPU, in evaluation mode; the same bits for the same arguments.

        Raises:
            ModelError: If nothing of the base can be compressed so, or the size cannot be met.
            Diverged: If a loss becomes NaN or infinite.
        """
        ...
