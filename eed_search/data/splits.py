"""Fixed, seeded, disjoint splits: train, validation (ranks trials), fresh (re-check), test (claims).

Validation and fresh are cut from the source's training images, class by class; the test images are
the source's own where it has them. Nothing in a search reads the test split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eed_search.core.errors import DataError
from eed_search.core.seeds import digest, seed_of
from eed_search.core.spec import Data
from eed_search.data.images import Images
from eed_search.data.sources import load_images


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
        mean: Of the training images, per channel.
        std: Of the training images, per channel.
        key: Names the images and how they were split: part of every stage's key.
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


def split_indices(
    labels: Int[np.ndarray, " samples"], counts: dict[str, int], seed: int
) -> dict[str, Int[np.ndarray, " split"]]:
    """Deal samples into disjoint splits, each class in proportion.

    Args:
        labels: Of all samples.
        counts: Samples for each split; together at most all.
        seed: Of the shuffle.

    Returns:
        For each split its sample indices, exactly as many as asked for, shuffled.

    Raises:
        DataError: If more samples are asked for than there are.

    Source:
        Ours: samples are shuffled, sorted stably by their rank within their class, and dealt from
        the front, so each prefix holds the classes in nearly equal shares.
    """
    if sum(counts.values()) > len(labels):
        raise DataError(
            f"data: {sum(counts.values())} images asked for, the source has {len(labels)}; lower num_train, num_validation, num_fresh or num_test"
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        where = np.flatnonzero(labels[order] == label)
        share[where] = (np.arange(len(where)) + generator.random()) / len(where)
    order = order[np.argsort(share, kind="stable")]
    dealt, start = {}, 0
    for name, count in counts.items():
        dealt[name] = generator.permutation(order[start : start + count])
        start += count
    return dealt


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
    raw = load_images(data)
    counts = {"validation": data.num_validation, "fresh": data.num_fresh}
    if raw.test is None:
        share = data.num_fresh if data.test_share is None else round(data.test_share * len(raw.train))
        counts["test"] = share if data.num_test is None else data.num_test
    left = len(raw.train) - sum(counts.values())
    counts["train"] = left if data.num_train is None else data.num_train
    if counts["train"] < 10:
        raise DataError(
            f"data: {left} of {len(raw.train)} images are left to train on; lower num_validation, num_fresh or num_test"
        )
    dealt = split_indices(raw.train.labels, counts, seed_of(raw.identity, f"splits/{seed}") % 2**32)
    train, validation, fresh = (_take(raw.train, dealt[name]) for name in ("train", "validation", "fresh"))
    if raw.test is None:
        test = _take(raw.train, dealt["test"])
    else:
        count = len(raw.test) if data.num_test is None else min(data.num_test, len(raw.test))
        picked = split_indices(raw.test.labels, {"test": count}, seed_of(raw.identity, f"test/{seed}") % 2**32)
        test = _take(raw.test, picked["test"])
    std, mean = torch.std_mean(train.images, dim=(0, 2, 3))
    channels, height, width = train.images.shape[1:]
    return Splits(
        train,
        validation,
        fresh,
        test,
        raw.num_classes,
        (channels, height, width),
        tuple(round(float(m), 4) for m in mean),
        tuple(round(max(float(s), 1e-3), 4) for s in std),
        digest({"identity": raw.identity, "seed": seed, "counts": counts}),
    )


def _take(images: Images, index: Int[np.ndarray, " chosen"]) -> Split:
    pixels = torch.from_numpy(images.images[index]).permute(0, 3, 1, 2).float().div_(255)
    return Split(pixels.contiguous(), torch.from_numpy(images.labels[index]))
