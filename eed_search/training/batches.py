"""Shuffled, augmented batches, epoch after epoch; their state is a few kilobytes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from eed_search.config.spec import Augment
from eed_search.data.splits import AnySplit, ByteSplit, as_images

_SHIFT = 4  # pixels
_RESIDENT_SHARE = 0.25  # of the device's free memory, which the images may take


class Batches:
    """Endless batches of a split; the last of an epoch may be smaller, but never single.

    Args:
        split: Images and labels; they are put on the device once where they fit.
        batch_size: Size of each batch but the last of an epoch.
        seed: Seed for the order and the augmentation.
        augment: See `shifted`.
        device: Where the batches are put.
        memory_format: How their images lie in memory.
    """

    def __init__(
        self,
        split: AnySplit,
        batch_size: int,
        *,
        seed: int,
        augment: Augment,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self._batch_size, self._augment = batch_size, augment
        self._device, self._memory_format = device, memory_format
        pixels = split.pixels if isinstance(split, ByteSplit) else split.images.permute(0, 2, 3, 1)
        self._pixels, self._labels = _resident(pixels, device), split.labels.to(device)
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
        pixels = self._pixels[index.to(self._pixels.device)]
        if self._augment != "none":
            pixels = shifted(pixels, self._generator, self._augment)
        pixels = pixels.to(self._device, non_blocking=True)
        images = as_images(pixels) if pixels.dtype == torch.uint8 else pixels.permute(0, 3, 1, 2)
        return images.contiguous(memory_format=self._memory_format), self._labels[index.to(self._device)]

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
        self._order = torch.randperm(len(self._labels), generator=self._generator)
        self._parts = self._order.split(self._batch_size)
        self._next = 0


def shifted(
    pixels: Num[Tensor, "batch height width channels"], generator: torch.Generator, augment: Augment
) -> Num[Tensor, "batch height width channels"]:
    """Shift each image by up to 4 pixels.

    Args:
        pixels: Of any type and on any device.
        generator: The CPU's.
        augment: With `crop` what comes in repeats the border; with `crop_flip` it is black, and half of the images are
            mirrored too, as is the custom on CIFAR-10.

    Returns:
        Other images of the same shape.
    """
    batch, height, width, _ = pixels.shape
    mirror = augment == "crop_flip"
    top = torch.randint(0, 2 * _SHIFT + 1, (batch,), generator=generator)
    left = torch.randint(0, 2 * _SHIFT + 1, (batch,), generator=generator)
    flip = torch.rand(batch, generator=generator) < 0.5 if mirror else torch.zeros(batch, dtype=torch.bool)
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(batch, -1)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    if mirror:
        pixels = nn.functional.pad(pixels, (0, 0, _SHIFT, _SHIFT, _SHIFT, _SHIFT))
    else:
        rows, columns = (rows - _SHIFT).clamp_(0, height - 1), (columns - _SHIFT).clamp_(0, width - 1)
    rows, columns = rows.to(pixels.device), columns.to(pixels.device)
    sample = torch.arange(batch, device=pixels.device)[:, None, None]
    return pixels[sample, rows[:, :, None], columns[:, None, :]]


def augment_key(augment: Augment) -> str:
    """Name a way to augment in a stage's key: `crop` had black borders before."""
    return "crop, replicated" if augment == "crop" else augment


def _resident(pixels: Tensor, device: torch.device) -> Tensor:
    """Put the images where the training is, if that leaves room; else they travel batch by batch."""
    if device.type != "cuda":
        return pixels.to(device)
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.to(device) if pixels.numel() * pixels.element_size() <= _RESIDENT_SHARE * free else pixels
