"""How much memory a data set takes, known before an image of it is read."""

from __future__ import annotations

from dataclasses import dataclass

from eed_search.config.spec import Data
from eed_search.data.sources import extent
from eed_search.system.memory import available_bytes

_BYTE, _FLOAT = 1, 4  # of a pixel value: training and test images as they were read, the others ready for a network


@dataclass(frozen=True)
class Footprint:
    """What a data set takes.

    Attributes:
        num_images: Images that are held.
        height: Pixels.
        width: Pixels.
        num_bytes: Bytes that each process holds, at most, while it reads them.
    """

    num_images: int
    height: int
    width: int
    num_bytes: int


def footprint(data: Data) -> Footprint | None:
    """Forecast what a source takes in each process, from its files' heads; none where that is not known."""
    found = extent(data)
    if found is None:
        return None
    num, height, width, channels = found
    used = num
    if data.num_train is not None:
        test = num if data.num_test is None and data.test_share is not None else (data.num_test or data.num_fresh)
        used = min(num, data.num_train + data.num_validation + data.num_fresh + test)
    pixels = height * width * channels
    decoded = 0 if data.source == "image_folder" and data.num_train is not None else num
    floats = min(used, data.num_validation + data.num_fresh)
    return Footprint(used, height, width, pixels * (decoded + _BYTE * (used - floats) + _FLOAT * floats))


def too_large(data: Data, num_processes: int = 1, available: int | None = None) -> str:
    """Say why a data set cannot be held in memory; empty if it can, or if nobody knows.

    Args:
        data: The file's section.
        num_processes: How many hold it at once.
        available: Bytes that are left; asked of the system by default.
    """
    found = footprint(data)
    left = available_bytes() if available is None else available
    if found is None or left is None or found.num_bytes * num_processes <= left:
        return ""
    each = "" if num_processes == 1 else f" in each of {num_processes} processes"
    smaller = "data.image_size, " if data.source == "image_folder" else ""
    fewer = "" if num_processes == 1 else ", or fewer trials at once (larger resources.cpu)"
    return (
        f"data: {found.num_images:,} images of {found.height}×{found.width} take {_size(found.num_bytes)}{each}, and"
        f" {_size(left)} are free; take a smaller {smaller}data.num_train{fewer}"
    )


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"
