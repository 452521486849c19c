"""Shuffled, augmented batches, epoch after epoch; their state is a few kilobytes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eed_search.config.spec import Augment
from eed_search.data.splits import Split


class Batches:
    """Endless batches of a split; the last of an epoch may be smaller, but never single.

    Args:
        split: Images and labels.
        batch_size: Size of each batch but the last of an epoch.
        seed: Seed for the order and the augmentation.
        augment: `crop` shifts images by up to 4 pixels, `crop_flip` mirrors half of them too.
        device: Where the batches are put.
        memory_format: How their images lie in memory.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        augment: Augment,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self._split, self._batch_size, self._augment = split, batch_size, augment
        self._device, self._memory_format = device, memory_format
        self._generator = torch.Generator().manual_seed(seed)
        self._begin_epoch()

    def take(self) -> tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]:
        """Give the next images and labels."""
        if self._next == len(self._parts):
            self._begin_epoch()
        index = self._parts[self._next]
        self._next += 1
        if len(index) == 1:  # batch norm cannot train on one sample
            index = torch.cat([index, self._order[:1]])
        images = self._split.images[index]
        if self._augment != "none":
            images = shifted(images, self._generator, mirror=self._augment == "crop_flip")
        return (
            images.to(self._device, non_blocking=True).contiguous(memory_format=self._memory_format),
            self._split.labels[index].to(self._device, non_blocking=True),
        )

    def state(self) -> dict[str, Tensor]:
        """Give the generator at the epoch's beginning, from which its order follows, and now; and the batches taken since."""
        return {"began": self._began, "now": self._generator.get_state(), "taken": torch.tensor(self._next)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, on the same split."""
        self._generator.set_state(state["began"])
        self._begin_epoch()
        self._next = int(state["taken"])
        self._generator.set_state(state["now"])

    def _begin_epoch(self) -> None:
        self._began = self._generator.get_state()
        self._order = torch.randperm(len(self._split), generator=self._generator)
        self._parts = self._order.split(self._batch_size)
        self._next = 0


def shifted(
    images: Float[Tensor, "batch channels height width"], generator: torch.Generator, *, mirror: bool
) -> Float[Tensor, "batch channels height width"]:
    """Shift each image by up to 4 pixels (zeros come in); with `mirror`, mirror half of them."""
    batch, _, height, width = images.shape
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    top = torch.randint(0, 9, (batch,), generator=generator)
    left = torch.randint(0, 9, (batch,), generator=generator)
    flip = torch.rand(batch, generator=generator) < 0.5 if mirror else torch.zeros(batch, dtype=torch.bool)
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(batch, -1)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    sample = torch.arange(batch)[:, None, None]
    # NHWC indexing copies whole pixels
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
