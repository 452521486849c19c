"""Fixed, seeded, disjoint splits: train, validation (ranks trials), fresh (re-check), test (claims).

`reading` says which image goes where; here they become tensors. Nothing in a search reads the test split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.images import Images
from eed_search.data.reading import SPLITS, read
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


@dataclass(frozen=True)
class Splits:
    """The four splits of a search, with what stages need to know of them.

    Attributes:
        train: For training and scores.
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

    train: Split
    validation: Split
    fresh: Split
    test: Split
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    key: str
    facts: DataFacts | None = None


def load_splits(data: Data, seed: int) -> Splits:
    """Read a source and split it.

    Args:
        data: The file's section.
        seed: The search's seed.

    Returns:
        Tensors on the CPU, 4 bytes a pixel value.

    Raises:
        DataError: If the source cannot be read or is too small for the splits.
    """
    dealt = read(data, seed)
    train, validation, fresh, test = (_take(*dealt.splits[name]) for name in SPLITS)
    std, mean = torch.std_mean(train.images, dim=(0, 2, 3))
    channels, height, width = train.images.shape[1:]
    return Splits(
        train,
        validation,
        fresh,
        test,
        dealt.raw.num_classes,
        (channels, height, width),
        tuple(round(float(m), 4) for m in mean),
        tuple(round(max(float(s), 1e-3), 4) for s in std),
        dealt.key,
        dealt.facts,
    )


def _take(images: Images, index: Int[np.ndarray, " chosen"]) -> Split:
    """Make tensors of some images, a few at a time: memory holds no second copy of them."""
    _, height, width, channels = images.images.shape
    try:
        if channels == 1:  # torch chooses its kernels by these strides, and with them the last bits of every result
            pixels = torch.empty((len(index), height, width, 1)).permute(0, 3, 1, 2)
        else:
            pixels = torch.empty((len(index), channels, height, width))
        for start in range(0, len(index), _CHUNK):
            some = torch.from_numpy(images.images[index[start : start + _CHUNK]])
            pixels[start : start + _CHUNK] = some.permute(0, 3, 1, 2).float().div_(255)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise DataError(
            f"data: not enough memory for {len(index):,} images of {height}×{width}; lower data.image_size or"
            " data.num_train"
        ) from error
    return Split(pixels, torch.from_numpy(images.labels[index]))
