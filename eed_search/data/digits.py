"""scikit-learn's digits: 1,797 grey images of 8 by 8, read without importing scikit-learn."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.images import Images, ImageSets


def digits(data: Data) -> ImageSets:
    """Read them; all may be trained on.

    Raises:
        DataError: If scikit-learn is not installed.
    """
    if (folder := folder_of(data)) is None:
        raise DataError("data.source: digits come with scikit-learn, which is not installed; pip install scikit-learn")
    # read here: to import scikit-learn takes a second, and `check` needs nothing else of it
    table = np.loadtxt(folder / "digits.csv.gz", delimiter=",")
    # 17 grey levels, 0..16, spread over 0..255 so that 16 becomes exactly 255
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[..., None]
    return ImageSets(Images(images, table[:, -1].astype(np.int64)), came_from={"train": "scikit-learn's digits"})


def extent(data: Data) -> tuple[int, int, int, int] | None:
    """Give images, height, width and channels."""
    return 1797, 8, 8, 1


def folder_of(data: Data) -> Path | None:
    """Where scikit-learn keeps them; none where it is not installed."""
    found = util.find_spec("sklearn")
    folders = list(found.submodule_search_locations or ()) if found else []
    return Path(folders[0]) / "datasets" / "data" if folders else None


FILES = ("digits.csv.gz",)
