"""Sources of images, by the names of the registry or of user code: what each gives is checked at this door.

A built-in source's module may say more beside its function: `extent(data)` (size before any image is read), `problems(data)`
(what keeps it from being read), `FILES` or `digests(folder)` (what it is made of), `DOWNLOADED`. Every source gives uint8 images in NHWC order and integer labels, checked at this door.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eed_search.config import names, registry
from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.groups import find_groups
from eed_search.data.images import Images, ImageSets

_MOST_NAMED = 6


@dataclass(frozen=True)
class Raw:
    """A source, read and checked, before it is split.

    Attributes:
        sets: All that it gives; groups are numbers, and the same group has the same number in all sets.
        class_names: One for each class: the source's, or the labels' numbers.
        identity: Hash of the bytes: part of every stage's key that sees the images.
    """

    sets: ImageSets
    class_names: tuple[str, ...]
    identity: str

    @property
    def train(self) -> Images:
        """All that may be trained on."""
        return self.sets.train

    @property
    def test(self) -> Images | None:
        """For claims only; none where the source has no test set of its own."""
        return self.sets.test

    @property
    def num_classes(self) -> int:
        """Classes, the same in all sets."""
        return len(self.class_names)


def load_images(data: Data) -> Raw:
    """Read a source.

    Raises:
        DataError: If files are missing, corrupt or of the wrong form; names the file and the fix.
    """
    built_in = data.source in registry.BUILT_IN["source"]
    sets: ImageSets = registry.load("source", data.source)(data) if built_in else _from_user_code(data)
    place = where(data)
    num_classes = _refuse_labels(place, sets)
    for name, images in sets.items():
        if images.groups is not None and len(images.groups) != len(images):
            raise DataError(f"{place}: {len(images.groups)} groups for {len(images)} {name} images; give one each")
    names_ = sets.class_names or tuple(str(label) for label in range(num_classes))
    parts = [images for _, images in sets.items()]
    return Raw(_with_numbered_groups(sets), names_, _identity(parts))


def _refuse_labels(where: str, sets: ImageSets) -> int:
    """Refuse labels that cannot be meant, and count the classes."""
    train, named = sets.train.labels, len(sets.class_names)
    num_classes = named or int(train.max()) + 1
    if int(train.max()) >= num_classes:
        raise DataError(
            f"{where}: label {int(train.max())} occurs, and `class_names` has {named} names (labels 0..{named - 1}); add"
            " the missing ones, or correct the labels"
        )
    occurring = np.unique(train)
    if num_classes < 2 or (len(occurring) < 2 and not named):
        only = "all labels are 0" if num_classes < 2 else f"all labels are {int(occurring[0])}"
        raise DataError(f"{where}: {only}; a classifier needs at least two classes")
    if not named and num_classes - len(occurring) > len(occurring):
        raise DataError(
            f"{where}: labels reach {num_classes - 1}, and only {len(occurring)} of those {num_classes} classes have images"
            f" ({_shown(occurring)}); number the classes from 0 without gaps, as np.unique(labels, return_inverse=True)[1]"
            " does, or name all classes in `class_names`"
        )
    for name, images in sets.items():
        if name != "train" and int(images.labels.max()) >= num_classes:
            raise DataError(
                f"{where}: {name} label {int(images.labels.max())} never occurs in training (classes 0..{num_classes - 1})"
            )
    return num_classes


def _shown(labels: np.ndarray) -> str:
    found = [str(label) for label in labels.tolist()]
    return ", ".join(found) if len(found) <= _MOST_NAMED else f"{', '.join(found[:3])}, … {found[-1]}"


def _with_numbered_groups(sets: ImageSets) -> ImageSets:
    """Number the groups, over all sets together: they may be text."""
    there = {name: images.groups for name, images in sets.items() if images.groups is not None}
    if not there:
        return sets
    texts = any(groups.dtype.kind not in "iu" for groups in there.values())
    given = [groups.astype(str) if texts else groups.astype(np.int64) for groups in there.values()]
    numbers = np.unique(np.concatenate(given), return_inverse=True)[1].astype(np.int64)
    parts = dict(zip(there, np.split(numbers, np.cumsum([len(one) for one in given])[:-1]), strict=True))
    made = {name: replace(images, groups=parts.get(name)) for name, images in sets.items()}
    return replace(sets, train=made["train"], validation=made.get("validation"), test=made.get("test"))


def _from_user_code(data: Data) -> ImageSets:
    """Ask a registered source, and refuse what is not of the form that every source gives."""
    if (found := names.find("source", data.source)) is None:
        raise DataError(
            f"data.source: {data.source!r} is registered by user code that is not imported here; give the images by --data"
        )
    what = f"{found.place}: source {data.source!r}"
    given = found.make(data)
    parts = given if isinstance(given, tuple) else (given,)
    if not isinstance(given, ImageSets):
        if not (1 <= len(parts) <= 2 and isinstance(parts[0], Images) and isinstance(parts[-1], Images | None)):
            wrong = next((part for part in parts if not isinstance(part, Images)), given)
            raise DataError(
                f"{what}: gives {type(wrong).__name__}; give Images, two of them: (train, test), or ImageSets"
            )
        given = ImageSets(parts[0], test=parts[1] if len(parts) == 2 else None)
    for _, part in given.items():
        images, labels = np.asarray(part.images), np.asarray(part.labels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise DataError(
                f"{what}: images are {images.dtype} of shape {images.shape}; give uint8, NHWC, 1 or 3 channels"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),) or not len(labels):
            raise DataError(
                f"{what}: labels are {labels.dtype} of shape {labels.shape} for {len(images)} images; give one integer each"
            )
        if int(labels.min()) < 0 or images.shape[1:] != given.train.images.shape[1:]:
            raise DataError(f"{what}: labels count from 0, and all images have one shape")
    return given


def where(data: Data) -> str:
    """Name a source in a message: its folder, or its name."""
    return data.path or data.source


def _identity(parts: list[Images]) -> str:
    import hashlib

    sha = hashlib.sha256()
    for part in parts:
        sha.update(str(part.images.shape).encode())
        if part.contents is None:
            sha.update(np.ascontiguousarray(part.images).data)
        else:
            sha.update(b"".join(part.contents))
        sha.update(part.labels.astype("<i8").tobytes())
    return sha.hexdigest()[:32]


def is_absent(data: Data) -> bool:
    """Whether a launch would download the images first."""
    return data.source == "cifar10" and not (Path(data.path or "").expanduser() / "cifar-10-batches-py").is_dir()


def refuse_download(data: Data) -> None:
    """Refuse data that a launch would download first.

    Raises:
        DataError: If they are not there.
    """
    root = Path(data.path or "").expanduser()
    if is_absent(data):
        raise DataError(
            f"data.path: {root} holds no CIFAR-10; a launch would download it there, a dry run measures only what is"
            " there. Put cifar-10-batches-py there first"
        )


def readable(data: Data) -> list[str]:
    """Say what keeps a source from being read, without reading the images (for `check`).

    Returns:
        One line for each problem; none if it looks sound.
    """
    if data.path is None or data.source == "digits":
        return []
    folder = Path(data.path).expanduser()
    is_made = registry.beside("source", data.source, "DOWNLOADED", False) and not folder.exists()
    if not folder.is_dir() and not is_made:
        return [f"data.path: {data.path} is not a folder; give the data's folder (in the file or by --data)"]
    look = registry.beside("source", data.source, "problems")
    found: list[str] = look(data) if look else []
    if data.groups is not None and not find_groups(data).is_file():
        found.append(
            f"data.groups: {data.groups} is no file, here or in {folder}; give a CSV file with rows `path,group`"
        )
    return found


def extent(data: Data) -> tuple[int, int, int, int] | None:
    """Say how many images a source holds and how large they are, before any is read; none where that is not known.

    Returns:
        Samples, height, width, channels.
    """
    look = registry.beside("source", data.source, "extent")
    found: tuple[int, int, int, int] | None = look(data) if look else None
    return found
