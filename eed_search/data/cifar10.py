"""CIFAR-10 as torchvision reads it; a launch downloads it where it is not there yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.images import Images, ImageSets

FILES = ("cifar-10-batches-py/*_batch*",)
DOWNLOADED = True  # to a folder that need not be there yet


def cifar10(data: Data) -> ImageSets:
    """Read its training and test set.

    Raises:
        DataError: If it is not there and cannot be downloaded.
    """
    from eed_search.models.torchvision_door import torchvision

    root = Path(data.path or "").expanduser()
    parts: list[Images] = []
    classes: tuple[str, ...] = ()
    for train in (True, False):
        try:
            found = torchvision("datasets").CIFAR10(
                str(root), train=train, download=not (root / "cifar-10-batches-py").is_dir()
            )
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"data.path: {root} holds no CIFAR-10 and it cannot be downloaded ({error}); put cifar-10-batches-py there, or use source npz"
            ) from error
        parts.append(Images(np.asarray(found.data, np.uint8), np.asarray(found.targets, np.int64)))
        classes = tuple(str(name) for name in found.classes)
    return ImageSets(parts[0], None, parts[1], classes, {"train": "CIFAR-10's training set", "test": "its test set"})


def extent(data: Data) -> tuple[int, int, int, int] | None:
    """Give images, height, width and channels."""
    return 60_000, 32, 32, 3
