"""Fixed, seeded, disjoint splits: train, validation (ranks trials), fresh (re-check), test (claims).

`reading` says which image goes where; here they become tensors. Nothing in a search reads the test split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.images import Images
from eed_search.data.reading import read
from eed_search.runs.data_facts import DataFacts

_CHUNK = 1024  # images


@dataclass(frozen=True)
class Split:
    """One split as tensors.

    Attributes:
        images: float32 in [0, 1], NCHW.
        labels: 0..num_classes-1.
    """

    images: Float[Tensor, "samples channels height width"]
    labels: Int[Tensor, " samples"]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Int[Tensor, " chosen"]) -> Split:
        """Take some of the samples, in the order of `index`."""
        return Split(self.images[index], self.labels[index])

    def floats(self) -> Split:
        """Itself."""
        return self


@dataclass(frozen=True)
class ByteSplit:
    """One split as it was read: a quarter of the memory, and the same images.

    Attributes:
        pixels: uint8, NHWC.
        labels: 0..num_classes-1.
    """

    pixels: UInt8[Tensor, "samples height width channels"]
    labels: Int[Tensor, " samples"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Float[Tensor, "samples channels height width"]:
        """All of its images in [0, 1], made anew: four times the memory."""
        return as_images(self.pixels).contiguous()

    def subset(self, index: Int[Tensor, " chosen"]) -> ByteSplit:
        """Take some of the samples, in the order of `index`."""
        return ByteSplit(self.pixels[index], self.labels[index])

    def floats(self) -> Split:
        """Make its images once, for whoever needs them more than once."""
        return Split(self.images, self.labels)


AnySplit = Split | ByteSplit
"""What a network may be trained on."""


def as_images(pixels: UInt8[Tensor, "samples height width channels"]) -> Float[Tensor, "samples channels height width"]:
    """Make images in [0, 1] of pixels; they stay in the order of NHWC."""
    return pixels.permute(0, 3, 1, 2).float().div_(255)


@dataclass(frozen=True)
class Splits:
    """The four splits of a search, with what stages need to know of them.

    Attributes:
        train: For training and scores; like `test` as bytes where it was read, since they are the largest.
        validation: Ranks trials.
        fresh: Re-checks the frontier.
        test: For claims, once.
        num_classes: Classes.
        image_shape: Channels, height, width.
        mean: Mean of the training images, per channel.
        std: Standard deviation of the training images, per channel.
        key: Names the images and how they were split: part of every stage's key.
        facts: What was read; none where it is not told.
    """

    train: AnySplit
    validation: Split
    fresh: Split
    test: AnySplit
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    key: str
    facts: DataFacts | None = None


def load_splits(data: Data, seed: int, *, test: bool = True) -> Splits:
    """Read a source and split it.

    Args:
        data: The file's section.
        seed: The search's seed.
        test: Whether the images for claims are wanted; else that split is empty.

    Returns:
        Tensors on the CPU; 1 byte a pixel value of the training and test images, 4 of the others.

    Raises:
        DataError: If the source cannot be read or is too small for the splits.
    """
    dealt = read(data, seed)
    train = _bytes(*dealt.splits["train"])
    images, chosen = dealt.splits["test"]
    claims = _bytes(images, chosen if test else chosen[:0])
    validation, fresh = (_take(*dealt.splits[name]) for name in ("validation", "fresh"))
    mean, std = _moments(train.pixels)
    height, width, channels = train.pixels.shape[1:]
    return Splits(
        train,
        validation,
        fresh,
        claims,
        dealt.raw.num_classes,
        (channels, height, width),
        tuple(round(m, 4) for m in mean),
        tuple(round(max(s, 1e-3), 4) for s in std),
        dealt.key,
        dealt.facts,
    )


def _bytes(images: Images, index: Int[np.ndarray, " chosen"]) -> ByteSplit:
    """Take some images as they are, a few at a time: a source may decode them only now."""
    _, height, width, channels = images.images.shape
    with _enough_memory(len(index), height, width):
        pixels = torch.empty((len(index), height, width, channels), dtype=torch.uint8)
        for start in range(0, len(index), _CHUNK):
            pixels[start : start + _CHUNK] = torch.from_numpy(images.images[index[start : start + _CHUNK]])
    return ByteSplit(pixels, torch.from_numpy(images.labels[index]))


def _moments(pixels: UInt8[Tensor, "samples height width channels"]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in [0, 1], from how often each value occurs: exact, without a copy."""
    means, stds = [], []
    values = np.arange(256) / 255
    for channel in range(pixels.shape[-1]):
        counts = sum(
            torch.bincount(some[..., channel].flatten(), minlength=256).double() for some in pixels.split(_CHUNK)
        )
        weights = np.asarray(counts)
        num = weights.sum()
        mean = float(weights @ values / num)
        means.append(mean)
        stds.append(math.sqrt(float(weights @ (values - mean) ** 2) / max(1.0, num - 1)))
    return means, stds


def _take(images: Images, index: Int[np.ndarray, " chosen"]) -> Split:
    """Make tensors of some images, a few at a time: memory holds no second copy of them."""
    _, height, width, channels = images.images.shape
    with _enough_memory(len(index), height, width):
        if channels == 1:  # torch chooses its kernels by these strides, and with them the last bits of every result
            pixels = torch.empty((len(index), height, width, 1)).permute(0, 3, 1, 2)
        else:
            pixels = torch.empty((len(index), channels, height, width))
        for start in range(0, len(index), _CHUNK):
            some = torch.from_numpy(images.images[index[start : start + _CHUNK]])
            pixels[start : start + _CHUNK] = some.permute(0, 3, 1, 2).float().div_(255)
    return Split(pixels, torch.from_numpy(images.labels[index]))


@contextmanager
def _enough_memory(num: int, height: int, width: int) -> Iterator[None]:
    """Say what to do where some images do not fit.

    Raises:
        DataError: If so.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise DataError(
            f"data: not enough memory for {num:,} images of {height}×{width}; lower data.image_size or data.num_train"
        ) from error
