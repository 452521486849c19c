"""Images with labels, as every source gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, UInt8


class Pixels(Protocol):
    """Pixels of many images, uint8, NHWC: an array, or files that are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples, height, width, channels."""

    def __getitem__(self, index: Int[np.ndarray, " chosen"], /) -> UInt8[np.ndarray, "chosen height width channels"]:
        """Give some of the images."""


@dataclass(frozen=True)
class Images:
    """Images with labels.

    Attributes:
        images: uint8, NHWC.
        labels: 0..num_classes-1.
        groups: What each image shows: a physical object, a patient, a video. Images of one group are
            never in two splits. None where nothing is known.
        names: Where each image lies, for messages; none where they have no names.
        contents: A digest of each image's content where it is known without the pixels; none: of the pixels.
    """

    images: UInt8[np.ndarray, "samples height width channels"] | Any
    labels: Int[np.ndarray, " samples"]
    groups: Int[np.ndarray, " samples"] | None = None
    names: Sequence[str] = field(default=(), repr=False)
    contents: Sequence[bytes] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Say which image this is, for a message."""
        return self.names[index] if len(self.names) else f"image {index}"


@dataclass(frozen=True)
class ImageSets:
    """All that a source gives.

    Attributes:
        train: What may be trained on; validation and fresh images are cut from it.
        validation: Where the source has a validation set of its own.
        test: Where the source has a test set of its own.
        class_names: One for each class, in the order of the labels; none: the labels' numbers.
        came_from: Where each set lies, such as `train/`.
        left_out: What lies there and was not read: how many, and why.
        fitted: Whether images were scaled and cropped to one size.
    """

    train: Images
    validation: Images | None = None
    test: Images | None = None
    class_names: tuple[str, ...] = ()
    came_from: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[tuple[int, str], ...] = ()
    fitted: bool = False

    def items(self) -> list[tuple[str, Images]]:
        """List the sets that there are, with their names."""
        found = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(name, images) for name, images in found if images is not None]
