"""Sources of images: scikit-learn's digits, a folder of npz files, torchvision's CIFAR-10.

Every source gives uint8 images in NHWC order and integer labels, checked at this door.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from eed_search.core.errors import DataError
from eed_search.core.spec import Data


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


@dataclass(frozen=True)
class Raw:
    """A source before it is split.

    Attributes:
        train: All that may be trained on or validated with.
        test: For claims only; none where the source has no test set of its own.
        num_classes: Classes, the same in both.
        identity: Hash of the bytes: part of every stage's key that sees the images.
    """

    train: Images
    test: Images | None
    num_classes: int
    identity: str


def load_images(data: Data) -> Raw:
    """Read a source.

    Raises:
        DataError: If files are missing, corrupt or of the wrong form; names the file and the fix.
    """
    train, test = {"digits": _digits, "npz": _npz, "cifar10": _cifar10}[data.source](data)
    num_classes = int(train.labels.max()) + 1
    if num_classes < 2:
        raise DataError(f"{_where(data)}: all labels are 0; a classifier needs at least two classes")
    if test is not None and int(test.labels.max()) >= num_classes:
        raise DataError(
            f"{_where(data)}: test label {int(test.labels.max())} never occurs in training (classes 0..{num_classes - 1})"
        )
    return Raw(train, test, num_classes, _identity([train] + ([test] if test is not None else [])))


def _where(data: Data) -> str:
    return data.path or data.source


def _identity(parts: list[Images]) -> str:
    import hashlib

    sha = hashlib.sha256()
    for part in parts:
        sha.update(str(part.images.shape).encode())
        sha.update(np.ascontiguousarray(part.images).data)
        sha.update(part.labels.astype("<i8").tobytes())
    return sha.hexdigest()[:32]


def _digits(data: Data) -> tuple[Images, Images | None]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 17 grey levels, 0..16, spread over 0..255 so that 16 becomes exactly 255
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return Images(images, bunch.target.astype(np.int64)), None


def _npz(data: Data) -> tuple[Images, Images | None]:
    folder = Path(data.path or "").expanduser()
    if not folder.is_dir():
        raise DataError(f"data.path: {folder} is not a folder; give the folder that holds train*.npz and test*.npz")
    parts = {}
    for split in ("train", "test"):
        files = sorted(folder.glob(f"{split}*.npz"))
        if not files:
            raise DataError(
                f"data.path: {folder} holds no {split}*.npz; each file needs `images` (uint8, NHWC) and `labels`"
            )
        loaded = [_read_npz(file) for file in files]
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


def _read_npz(file: Path) -> Images:
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


def _cifar10(data: Data) -> tuple[Images, Images | None]:
    from eed_search.models.torchvision_door import torchvision

    root = Path(data.path or "").expanduser()
    parts = []
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
    return parts[0], parts[1]


def refuse_download(data: Data) -> None:
    """Refuse data that a launch would download first.

    Raises:
        DataError: If they are not there.
    """
    root = Path(data.path or "").expanduser()
    if data.source == "cifar10" and not (root / "cifar-10-batches-py").is_dir():
        raise DataError(
            f"data.path: {root} holds no CIFAR-10; a launch would download it there, a dry run measures only what is"
            " there. Put cifar-10-batches-py there first"
        )


def readable(data: Data) -> list[str]:
    """Say what keeps a source from being read, without reading the images (for `check`).

    Returns:
        One line for each problem; none if it looks sound.
    """
    if data.source != "npz":
        return []
    folder = Path(data.path or "").expanduser()
    problems = []
    for split in ("train", "test"):
        files = sorted(folder.glob(f"{split}*.npz"))
        if not files:
            problems.append(
                f"data.path: {folder} holds no {split}*.npz; each file needs `images` (uint8, NHWC) and `labels`"
            )
        for file in files:
            if not os.access(file, os.R_OK):
                problems.append(f"data.path: {file} cannot be read; check its permissions")
            elif not zipfile.is_zipfile(file):
                problems.append(f"data.path: {file} is corrupt or not an npz file; copy it again")
    return problems
