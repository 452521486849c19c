"""Source `npz`: a folder with `train*.npz` and `test*.npz`, each with `images` (uint8, NHWC) and `labels`."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from eed_search.core.errors import DataError
from eed_search.core.spec import Data
from eed_search.data.images import Images

SPLITS = ("train", "test")


def npz(data: Data) -> tuple[Images, Images | None]:
    """Read the folder; shards of a split are joined in the order of their names."""
    folder = Path(data.path or "").expanduser()
    if not folder.is_dir():
        raise DataError(f"data.path: {folder} is not a folder; give the folder that holds train*.npz and test*.npz")
    parts = {}
    for split in SPLITS:
        files = sorted(folder.glob(f"{split}*.npz"))
        if not files:
            raise DataError(_absent(folder, split))
        loaded = [_read(file) for file in files]
        shapes = {part.images.shape[1:] for part in loaded}
        if len(shapes) > 1:
            raise DataError(
                f"{folder}: the {split} files hold images of different shapes {sorted(shapes)}; they must agree"
            )
        parts[split] = Images(
            np.concatenate([part.images for part in loaded]), np.concatenate([part.labels for part in loaded])
        )
    if parts["train"].images.shape[1:] != parts["test"].images.shape[1:]:
        raise DataError(
            f"{folder}: training and test images differ in shape: {parts['train'].images.shape[1:]} and {parts['test'].images.shape[1:]}"
        )
    return parts["train"], parts["test"]


def problems(data: Data) -> list[str]:
    """Say what keeps the folder from being read, without reading an image."""
    folder = Path(data.path or "").expanduser()
    found = []
    for split in SPLITS:
        files = sorted(folder.glob(f"{split}*.npz"))
        if not files:
            found.append(_absent(folder, split))
        for file in files:
            if not os.access(file, os.R_OK):
                found.append(f"data.path: {file} cannot be read; check its permissions")
            elif not zipfile.is_zipfile(file):
                found.append(f"data.path: {file} is corrupt or not an npz file; copy it again")
    return found


def _absent(folder: Path, split: str) -> str:
    return f"data.path: {folder} holds no {split}*.npz; each file needs `images` (uint8, NHWC) and `labels`"


def _read(file: Path) -> Images:
    try:
        # opened here: numpy leaves the file open where it turns out not to be an archive
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            names = set(arrays.files)
            if not {"images", "labels"} <= names:
                raise DataError(f"{file}: holds {sorted(names)}; needs `images` (uint8, NHWC) and `labels`")
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise DataError(f"{file}: is corrupt or not an npz file ({error}); copy it again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(
            f"{file}: `images` is {images.dtype} of shape {images.shape}; needs uint8, NHWC, 1 or 3 channels"
        )
    labels = labels.reshape(-1)
    if not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images) or len(labels) == 0:
        raise DataError(
            f"{file}: `labels` is {labels.dtype} of length {len(labels)}; needs one integer for each of the {len(images)} images"
        )
    if int(labels.min()) < 0:
        raise DataError(f"{file}: label {int(labels.min())}; labels count from 0")
    return Images(images, labels.astype(np.int64))
