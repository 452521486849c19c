"""Sources of images: scikit-learn's digits, npz files, CIFAR-10, SVHN, folders of images, and registered ones.

Every source gives uint8 images in NHWC order and integer labels, checked at this door.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eed_search.core import names
from eed_search.core.errors import DataError
from eed_search.core.spec import Data
from eed_search.data import image_folder, npz, svhn
from eed_search.data.images import Images


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
    read = SOURCES.get(data.source)
    train, test = read(data) if read else _from_user_code(data)
    num_classes = int(train.labels.max()) + 1
    if num_classes < 2:
        raise DataError(f"{_where(data)}: all labels are 0; a classifier needs at least two classes")
    if test is not None and int(test.labels.max()) >= num_classes:
        raise DataError(
            f"{_where(data)}: test label {int(test.labels.max())} never occurs in training (classes 0..{num_classes - 1})"
        )
    return Raw(train, test, num_classes, _identity([train] + ([test] if test is not None else [])))


def _from_user_code(data: Data) -> tuple[Images, Images | None]:
    """Ask a registered source, and refuse what is not of the form that every source gives."""
    if (found := names.find("source", data.source)) is None:
        raise DataError(
            f"data.source: {data.source!r} is registered by user code that is not imported here; give the images by --data"
        )
    what = f"{found.place}: source {data.source!r}"
    given = found.make(data)
    train, test = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    for part in (train,) if test is None else (train, test):
        if not isinstance(part, Images):
            raise DataError(f"{what}: gives {type(part).__name__}; give Images, or two of them: (train, test)")
        images, labels = np.asarray(part.images), np.asarray(part.labels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise DataError(
                f"{what}: images are {images.dtype} of shape {images.shape}; give uint8, NHWC, 1 or 3 channels"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),) or not len(labels):
            raise DataError(
                f"{what}: labels are {labels.dtype} of shape {labels.shape} for {len(images)} images; give one integer each"
            )
        if int(labels.min()) < 0 or images.shape[1:] != train.images.shape[1:]:
            raise DataError(f"{what}: labels count from 0, and all images have one shape")
    return train, test


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


SOURCES: dict[str, Callable[[Data], tuple[Images, Images | None]]] = {
    "digits": _digits,
    "npz": npz.npz,
    "cifar10": _cifar10,
    "svhn": svhn.svhn,
    "image_folder": image_folder.image_folder,
}
_DOWNLOADED = ("cifar10",)  # to a folder that need not be there yet
_PROBLEMS = {"npz": npz.problems, "svhn": svhn.problems, "image_folder": image_folder.problems}


def readable(data: Data) -> list[str]:
    """Say what keeps a source from being read, without reading the images (for `check`).

    Returns:
        One line for each problem; none if it looks sound.
    """
    if data.path is None or data.source == "digits":
        return []
    folder = Path(data.path).expanduser()
    is_made = data.source in _DOWNLOADED and not folder.exists()
    if not folder.is_dir() and not is_made:
        return [f"data.path: {data.path} is not a folder; give the data's folder (in the file or by --data)"]
    look = _PROBLEMS.get(data.source)
    return look(data) if look else []
