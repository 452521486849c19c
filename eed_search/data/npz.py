"""Source `npz`: a folder with `train*.npz` and `test*.npz`, each with `images` (uint8, NHWC) and `labels`.

`val*.npz` (or `valid*`, `dev*`) are the validation images where they are there. A file may also hold `groups`, one for
each image, and `class_names`.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.images import Images, ImageSets

PATTERNS: dict[str, tuple[str, ...]] = {
    "train": ("train*.npz",),
    "validation": ("val*.npz", "dev*.npz"),
    "test": ("test*.npz",),
}
_NEEDED = ("train", "test")


@dataclass(frozen=True)
class _Shard:
    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    class_names: tuple[str, ...]


FILES = ("train*.npz", "test*.npz")


def npz(data: Data) -> ImageSets:
    """Read the folder; shards of a split are joined in the order of their names.

    Raises:
        DataError: If files are missing, corrupt or of the wrong form, or do not fit together; names the file.
    """
    folder = Path(data.path or "").expanduser()
    if not folder.is_dir():
        raise DataError(f"data.path: {folder} is not a folder; give the folder that holds train*.npz and test*.npz")
    sets: dict[str, Images] = {}
    came_from: dict[str, str] = {}
    names: dict[str, tuple[str, ...]] = {}
    for split in PATTERNS:
        files = files_of(folder, split)
        if not files and split in _NEEDED:
            raise DataError(_absent(folder, split))
        if not files:
            continue
        loaded = [_read(file) for file in files]
        shapes = {part.images.shape[1:] for part in loaded}
        if len(shapes) > 1:
            raise DataError(
                f"{folder}: the {split} files hold images of different shapes {sorted(shapes)}; they must agree"
            )
        names |= {file.name: part.class_names for file, part in zip(files, loaded, strict=True) if part.class_names}
        sets[split] = Images(
            np.concatenate([part.images for part in loaded]) if len(loaded) > 1 else loaded[0].images,
            np.concatenate([part.labels for part in loaded]),
            _groups(folder, split, {file.name: part.groups for file, part in zip(files, loaded, strict=True)}),
        )
        came_from[split] = files[0].name if len(files) == 1 else f"{PATTERNS[split][0]}"
    for split, other in sets.items():
        shape = other.images.shape[1:]
        if sets["train"].images.shape[1:] != shape:
            raise DataError(
                f"{folder}: training and {split} images differ in shape: {sets['train'].images.shape[1:]} and {shape}"
            )
    if len(set(names.values())) > 1:
        raise DataError(f"{folder}: `class_names` differ between {' and '.join(names)}; give all files the same")
    used = [file for split in PATTERNS for file in files_of(folder, split)]
    others = [file for file in folder.glob("*.npz") if file not in used]
    left_out = ((len(others), f"npz files of no split ({', '.join(sorted(f.name for f in others)[:3])})"),)
    return ImageSets(
        sets["train"],
        sets.get("validation"),
        sets.get("test"),
        next(iter(names.values()), ()),
        came_from,
        left_out if others else (),
    )


def files_of(folder: Path, split: str) -> list[Path]:
    """List a split's files in the order of their names."""
    return sorted({file for pattern in PATTERNS[split] for file in folder.glob(pattern)})


def extent(data: Data) -> tuple[int, int, int, int] | None:
    """Say how many images there are and how large, from the files' heads: samples, height, width, channels."""
    folder = Path(data.path or "").expanduser()
    shapes = [shape for split in PATTERNS for file in files_of(folder, split) if (shape := _shape(file))]
    if not shapes:
        return None
    _, height, width, channels = shapes[0]
    return sum(shape[0] for shape in shapes), height, width, channels


def _shape(file: Path) -> tuple[int, int, int, int] | None:
    """Read the shape of a file's images; none where it has none of the right form: the reader says so."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("images.npy") as head:
            version = np.lib.format.read_magic(head)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape = read(head)[0]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return shape if len(shape) == 4 else None


def problems(data: Data) -> list[str]:
    """Say what keeps the folder from being read, without reading an image."""
    folder = Path(data.path or "").expanduser()
    found = []
    for split in PATTERNS:
        files = files_of(folder, split)
        if not files and split in _NEEDED:
            found.append(_absent(folder, split))
        for file in files:
            if not os.access(file, os.R_OK):
                found.append(f"data.path: {file} cannot be read; check its permissions")
            elif not zipfile.is_zipfile(file):
                found.append(f"data.path: {file} is corrupt or not an npz file; copy it again")
    return found


def _absent(folder: Path, split: str) -> str:
    return f"data.path: {folder} holds no {split}*.npz; each file needs `images` (uint8, NHWC) and `labels`"


def _read(file: Path) -> _Shard:
    try:
        # opened here: numpy leaves the file open where it turns out not to be an archive
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            names = set(arrays.files)
            if not {"images", "labels"} <= names:
                raise DataError(f"{file}: holds {sorted(names)}; needs `images` (uint8, NHWC) and `labels`")
            images, labels = arrays["images"], arrays["labels"]
            groups = arrays["groups"] if "groups" in names else None
            classes = arrays["class_names"] if "class_names" in names else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise DataError(
            f"{file}: is corrupt or not an npz file of plain arrays ({error}); copy it again, or save numbers and"
            " text, no Python objects"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(
            f"{file}: `images` is {images.dtype} of shape {images.shape}; needs uint8, NHWC, 1 or 3 channels"
        )
    one_hot = labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == len(images)
    labels = labels.reshape(-1)
    if not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images) or len(labels) == 0:
        raise DataError(
            f"{file}: `labels` is {labels.dtype} of length {len(labels)}; needs one integer for each of the {len(images)} images"
            f"{': write labels.argmax(1)' if one_hot else ''}"
        )
    if int(labels.min()) < 0:
        raise DataError(f"{file}: label {int(labels.min())}; labels count from 0")
    return _Shard(images, labels.astype(np.int64), groups, _class_names(file, classes))


def _class_names(file: Path, given: np.ndarray | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if given.ndim != 1 or given.dtype.kind not in "US":
        raise DataError(
            f"{file}: `class_names` is {given.dtype} of shape {given.shape}; needs one text for each class, in the order of"
            " the labels"
        )
    names = tuple(one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in given.tolist())
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"{file}: `class_names` holds {twice[0]!r} twice; give each class a name of its own")
    return names


def _groups(folder: Path, split: str, given: dict[str, Any]) -> np.ndarray | None:
    """Join the groups of a split's files; the same number or text in two files is the same group."""
    there = {name: groups for name, groups in given.items() if groups is not None}
    if not there:
        return None
    if lacking := [name for name in given if name not in there]:
        raise DataError(
            f"{folder / lacking[0]}: has no `groups`, {next(iter(there))} has; give all files of a split some"
        )
    for name, groups in there.items():
        if groups.ndim != 1 or groups.dtype.kind not in "iuUS":
            raise DataError(
                f"{folder / name}: `groups` is {groups.dtype} of shape {groups.shape}; needs a whole number or text for each"
                " image"
            )
    return np.concatenate(list(there.values()))
