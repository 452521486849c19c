"""Source `image_folder`: one sub-folder of PNG or JPEG files for each class, with or without `train/` and `test/`."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from eed_search.core.errors import DataError
from eed_search.core.spec import Data
from eed_search.data.images import Images

_KINDS = (".png", ".jpg", ".jpeg")
_OTHER_IMAGES = (".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif")
_GREY, _COLOUR = ("1", "L"), ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_MOST_NAMED = 5


def image_folder(data: Data) -> tuple[Images, Images | None]:
    """Read the folder; classes are numbered in the order of their names.

    With `data.image_size`, each image is scaled until its shorter side has that many pixels, and its middle is
    cut out; without, all must be of one size. Grey if all are grey, else RGB; transparency is dropped.

    Returns:
        The training images, and the test images where `train/` and `test/` are given; else none: the split
        cuts them from all (`data.num_test` or `data.test_share`).

    Raises:
        DataError: With everything that is wrong: no class, a class alone or without images, classes of the test
            images that training lacks, files that cannot be read, sizes that differ.
    """
    folder = Path(data.path or "").expanduser()
    if found := problems(data):
        raise DataError("\n".join(found))
    parts = _parts(folder)
    names = sorted(_classes(parts["train"]))
    files = {
        split: [(f, names.index(c)) for c, some in _classes(part).items() for f in some]
        for split, part in parts.items()
    }
    opened = _Reader(data.image_size)
    read = {split: opened.read(some) for split, some in files.items()}
    if opened.problems:
        raise DataError("\n".join(_shortened(opened.problems)))
    made = {}
    for split, some in files.items():
        pixels = np.stack([image if opened.colour else image[..., :1] for image in read[split]])
        made[split] = Images(pixels, np.array([label for _, label in some], np.int64))
    return made["train"], made.get("test")


def problems(data: Data) -> list[str]:
    """Say what keeps the folder from being read, without opening an image."""
    folder = Path(data.path or "").expanduser()
    if not folder.is_dir():
        return [f"data.path: {folder} is not a folder; give the folder that holds one sub-folder for each class"]
    found = []
    parts = _parts(folder)
    for split, part in parts.items():
        classes = _classes(part)
        if split == "train" and len(classes) < 2:
            held = f"only the class {next(iter(classes))}" if classes else "no sub-folder"
            found.append(
                f"data.path: {part} holds {held}; a classifier needs a sub-folder for each of two classes or more"
            )
        found += [
            f"data.path: {part / name} holds no PNG or JPEG; add images, or take the class away"
            for name, some in classes.items()
            if not some
        ]
        found += [f"data.path: {path} is neither PNG nor JPEG; convert it, or take it away" for path in _others(part)]
    if "test" in parts:
        if data.test_share is not None:
            found.append(f"data.test_share: {folder} has test images of its own in test/; leave it out")
        unknown = sorted(set(_classes(parts["test"])) - set(_classes(parts["train"])))
        found += [
            f"data.path: {parts['test'] / name} is a class that {parts['train']} lacks; add it there, or take it away"
            for name in unknown
        ]
    return _shortened(found)


def digests(folder: Path) -> dict[str, str]:
    """Hash the images of each class folder, by its path below the folder: one line for each, however many files."""
    found = {}
    for part in _parts(folder).values():
        for name, files in _classes(part).items():
            sha = hashlib.sha256()
            for path in files:
                content = path.read_bytes()
                sha.update(f"{path.name}:{len(content)}:".encode() + content)
            found[str((part / name).relative_to(folder))] = f"{sha.hexdigest()[:16]}, {len(files):,} images"
    return found


def _parts(folder: Path) -> dict[str, Path]:
    """Give the folders of classes by split."""
    train, test = folder / "train", folder / "test"
    if not train.is_dir() or not any(path.is_dir() for path in train.iterdir()):  # or a class of that name
        return {"train": folder}
    return {"train": train, "test": test} if test.is_dir() else {"train": train}


def _classes(part: Path) -> dict[str, list[Path]]:
    """Give each class's images in the order of their names; hidden folders are no classes."""
    folders = sorted(path for path in part.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {
        path.name: sorted(f for f in path.rglob("*") if f.suffix.lower() in _KINDS and _visible(f)) for path in folders
    }


def _others(part: Path) -> list[Path]:
    return sorted(f for f in part.rglob("*") if f.suffix.lower() in _OTHER_IMAGES and _visible(f))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_NAMED
    return [*lines[:_MOST_NAMED], f"and {more} more"] if more > 0 else lines


class _Reader:
    """Opens images, all by the same rule, and remembers what is wrong with any.

    Args:
        size: Side to scale and crop to; none takes images as they are.

    Attributes:
        problems: One line for each image that cannot be used.
        colour: Whether any image has colours.
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._first: tuple[Path, tuple[int, int]] | None = None
        self.problems: list[str] = []
        self.colour = False

    def read(self, files: Iterable[tuple[Path, int]]) -> list[np.ndarray]:
        """Open images as RGB."""
        return [image for path, _ in files if (image := self._open(path)) is not None]

    def _open(self, path: Path) -> np.ndarray | None:
        from PIL import Image, ImageOps

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=("PNG", "JPEG")) as opened:
                    if opened.mode not in _COLOUR:
                        self.problems.append(f"{path}: has pixels of kind {opened.mode}; save it with 8 bits a channel")
                        return None
                    grey = opened.mode in _GREY
                    turned = ImageOps.exif_transpose(opened)  # photographs say so where the camera was turned
                    image = turned.convert("RGB")
        except Exception as error:  # Pillow raises many kinds for broken files
            self.problems.append(f"{path}: is corrupt, or no PNG or JPEG ({error}); replace it, or take it away")
            return None
        if self._size is not None:
            image = ImageOps.fit(image, (self._size, self._size), Image.Resampling.BILINEAR)
        elif self._first is None:
            self._first = (path, image.size)
        elif image.size != self._first[1]:
            first, (width, height) = self._first
            self.problems.append(
                f"{path}: is {image.size[0]}×{image.size[1]}, {first} is {width}×{height}; set data.image_size to scale all alike"
            )
            return None
        self.colour = self.colour or not grey
        return np.asarray(image, np.uint8)
