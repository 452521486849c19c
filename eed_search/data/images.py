"""Images with labels, as every source gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8


@dataclass(frozen=True)
class Images:
    """Images with labels.

    Attributes:
        images: uint8, NHWC.
        labels: 0..num_classes-1.
    """

    images: UInt8[np.ndarray, "samples height width channels"]
    labels: Int[np.ndarray, " samples"]

    def __len__(self) -> int:
        return len(self.labels)
