"""Source `svhn`: street-view house numbers as torchvision keeps them, or a stand-in as npz. Never downloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data import npz
from eed_search.data.images import Images, ImageSets

_FILES = ("train_32x32.mat", "test_32x32.mat")
_PUBLISHED = 73_257 + 26_032  # images


FILES = ("*_32x32.mat", "train*.npz", "test*.npz")


def svhn(data: Data) -> ImageSets:
    """Read `train_32x32.mat` and `test_32x32.mat`, or `train*.npz` and `test*.npz` in their place.

    Raises:
        DataError: If neither is there, or a file is not the published one; says how to get them.
    """
    folder = Path(data.path or "").expanduser()
    if not _given_as_mat(folder):
        if found := problems(data):
            raise DataError(found[0])
        return npz.npz(data)
    from eed_search.models.torchvision_door import torchvision

    parts = []
    for split in ("train", "test"):
        try:
            found = torchvision("datasets").SVHN(str(folder), split=split, download=False)
        except Exception as error:  # SciPy's reader raises whatever a broken file makes of it
            raise DataError(
                f"data.path: {folder / f'{split}_32x32.mat'} is missing or altered ({error}); {_how(folder)}"
            ) from error
        images = np.ascontiguousarray(np.asarray(found.data, np.uint8).transpose(0, 2, 3, 1))
        parts.append(Images(images, np.asarray(found.labels, np.int64)))
    return ImageSets(parts[0], None, parts[1], came_from={"train": _FILES[0], "test": _FILES[1]})


def problems(data: Data) -> list[str]:
    """Say what keeps the folder from being read, without reading an image."""
    folder = Path(data.path or "").expanduser()
    if _given_as_mat(folder):
        missing = [name for name in _FILES if not (folder / name).is_file()]
        return [f"data.path: {folder} lacks {missing[0]}; {_how(folder)}"] if missing else []
    if any(folder.glob("*.npz")):
        return npz.problems(data)
    return [f"data.path: {folder} holds no SVHN ({' and '.join(_FILES)}, or npz in their place); {_how(folder)}"]


def extent(data: Data) -> tuple[int, int, int, int] | None:
    """Say how many images there are and how large: samples, height, width, channels."""
    if _given_as_mat(Path(data.path or "").expanduser()):
        return _PUBLISHED, 32, 32, 3
    return npz.extent(data)


def _given_as_mat(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)


def _how(folder: Path) -> str:
    return (
        f"get {' and '.join(_FILES)} from http://ufldl.stanford.edu/housenumbers/ (246 MB together), put them there,"
        " and launch again"
    )
