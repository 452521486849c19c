"""Source `image_folder`: one sub-folder of PNG or JPEG files for each class, in splits of their own or in one folder.

Images are decoded once and kept, except where `data.num_train` says that only some of them are used: then those are
decoded when they are asked for.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.folders import (
    KINDS,
    SPLIT_NAMES,
    LeftOut,
    Split,
    count_images,
    images_below,
    in_order,
    is_hidden,
    meant_split,
    others_below,
    split_of,
    visible_folders,
)
from eed_search.data.groups import read_groups
from eed_search.data.images import Images, ImageSets

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_GREY, _COLOUR = ("1", "L"), ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_ORIENTATION = 0x0112  # tag of EXIF
_MOST_NAMED = 5


def image_folder(data: Data) -> ImageSets:
    """Read the folder; classes are numbered in the order of their names, as numbers where all are.

    With `data.image_size`, each image is scaled until its shorter side has that many pixels, and its middle is
    cut out; without, all must be of one size. Grey if all are grey, else RGB; transparency is dropped.

    Returns:
        The images of `train/`, of `val/` and `test/` where there are such; else all: the splits are cut from them.

    Raises:
        DataError: With everything that is wrong: no class, a class alone or without images, classes of the test
            images that training lacks, folders that look like splits, files that cannot be read, sizes that differ.
    """
    folder = Path(data.path or "").expanduser()
    if found := problems(data):
        raise DataError("\n".join(found))
    left_out = LeftOut()
    parts = _parts(folder)
    _count_beside(folder, parts, left_out)
    listed = {split: _classes(part, left_out) for split, part in parts.items()}
    names = in_order(list(listed["train"]))
    files = {
        split: [(file, names.index(name)) for name in names for file in classes.get(name, ())]
        for split, classes in listed.items()
    }
    paths: dict[str, list[Path]] = {split: [path for path, _ in some] for split, some in files.items()}
    reader = _Reader.of([path for some in paths.values() for path in some], data.image_size)
    relative = {split: [path.relative_to(folder).as_posix() for path in some] for split, some in paths.items()}
    groups = read_groups(data, relative)
    made: dict[str, Images] = {}
    for split, some in files.items():
        labels = np.array([label for _, label in some], np.int64)
        pixels = _Files(paths[split], reader)
        if data.num_train is not None:
            made[split] = Images(pixels, labels, groups.get(split), relative[split], pixels.contents())
        else:
            made[split] = Images(reader.read(paths[split]), labels, groups.get(split), relative[split])
    reader.refuse()
    came_from: dict[str, str] = {
        split: f"{part.name}/" if part != folder else "the folder" for split, part in parts.items()
    }
    return ImageSets(
        made["train"],
        made.get("validation"),
        made.get("test"),
        tuple(names),
        came_from,
        left_out.lines(),
        fitted=data.image_size is not None,
    )


def extent(data: Data) -> tuple[int, int, int, int] | None:
    """Say how many images there are and how large: samples, height, width, channels (3 at most); opens one image."""
    folder = Path(data.path or "").expanduser()
    if problems(data):
        return None
    found = [path for part in _parts(folder).values() for some in _classes(part).values() for path in some]
    if data.image_size is not None:
        return len(found), data.image_size, data.image_size, 3
    from PIL import Image

    try:
        with Image.open(found[0]) as opened:
            return len(found), opened.height, opened.width, 3
    except (OSError, ValueError):
        return None  # the reader says what is wrong with it


def problems(data: Data) -> list[str]:
    """Say what keeps the folder from being read, without opening an image."""
    folder = Path(data.path or "").expanduser()
    if not folder.is_dir():
        return [f"data.path: {folder} is not a folder; give the folder that holds one sub-folder for each class"]
    if found := _misnamed(folder):
        return found
    found = []
    parts = _parts(folder)
    for split, part in parts.items():
        classes = _classes(part)
        if split == "train" and len(classes) < 2:
            found.append(_too_few(part, list(classes)))
        elif not classes:
            found.append(f"data.path: {part} holds no sub-folder; it needs one for each class, as train/ has")
        found += [
            f"data.path: {part / name} holds no PNG or JPEG; add images, or take the class away"
            for name, some in classes.items()
            if not some
        ]
        found += [
            f"data.path: {path} is neither PNG nor JPEG; convert it, or take it away" for path in others_below(part)
        ]
        unknown = sorted(set(classes) - set(_classes(parts["train"])))
        found += [
            f"data.path: {part / name} is a class that {parts['train']} lacks; add it there, or take it away"
            for name in unknown
        ]
    if "test" in parts and data.test_share is not None:
        where = parts["test"].name
        found.insert(0, f"data.test_share: {folder} has test images of its own in {where}/; leave it out")
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


# ---------------------------------------------------------------- which folder is what


def _parts(folder: Path) -> dict[Split, Path]:
    """Give the folders of classes by split."""
    found: dict[Split, Path] = {}
    for path in visible_folders(folder):
        if split := split_of(path.name):
            found.setdefault(split, path)
    train = found.get("train")
    if train is None or not visible_folders(train):  # none, or a class of that name
        return {"train": folder}
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _misnamed(folder: Path) -> list[str]:
    """Find folders that look like splits and are none: read as classes, the search would tell splits apart."""
    there = visible_folders(folder)
    like = {path.name: split for path in there if (split := meant_split(path.name))}
    has_train = _parts(folder) != {"train": folder}
    same = [
        name for split in SPLIT_NAMES if len(some := [n for n in like if split_of(n) == split]) > 1 for name in some
    ]
    wrong = {name: split for name, split in like.items() if split_of(name) is None or not has_train}
    if has_train and same:
        return [f"data.path: {folder} holds {' and '.join(same)}, which are the same split; keep one of them"]
    holds_classes = [name for name in wrong if visible_folders(folder / name)]
    if wrong and (has_train or len(like) > 1 or holds_classes):
        fixes = ", ".join(f"{name} to {'val' if split == 'validation' else split}" for name, split in wrong.items())
        fix = f"; rename {fixes}" if any(split_of(name) is None for name in wrong) else ""
        look = "look like splits, not like classes" if len(wrong) > 1 else "looks like a split, not like a class"
        return [
            f"data.path: {' and '.join(wrong)} in {folder} {look}{fix}; a train/ with a sub-folder for each class is"
            " needed, val/ and test/ may lie beside it"
        ]
    for part in _parts(folder).values():
        for path in visible_folders(part):
            inside = [one.name for one in visible_folders(path) if meant_split(one.name)]
            if len(inside) > 1:
                return [
                    f"data.path: {path} holds {' and '.join(inside)}: splits inside of a class; put the split first, as"
                    f" in {folder / 'train' / path.name}"
                ]
    return []


def _too_few(part: Path, classes: Sequence[str]) -> str:
    held = f"only the class {classes[0]}" if classes else "no sub-folder"
    below = [one.name for one in visible_folders(part / classes[0])] if classes else []
    deeper = f" (or give {part / classes[0]}, which holds {', '.join(below[:_MOST_NAMED])})" if len(below) > 1 else ""
    return f"data.path: {part} holds {held}; a classifier needs a sub-folder for each of two classes or more{deeper}"


def _classes(part: Path, left_out: LeftOut | None = None) -> dict[str, list[Path]]:
    """Give each class's images in the order of their paths; hidden folders are no classes."""
    found = LeftOut() if left_out is None else left_out
    return {path.name: images_below(path, found) for path in visible_folders(part)}


def _count_beside(folder: Path, parts: dict[Split, Path], left_out: LeftOut) -> None:
    """Count the images that lie in no class: hidden folders, folders beside the splits, files beside the classes."""
    for part in {folder, *parts.values()}:
        for path in part.iterdir():
            if path.is_dir() and is_hidden(path.name) and (count := count_images(path)):
                left_out.hidden[path.name] += count
            elif path.is_dir() and part == folder and folder not in parts.values() and path not in parts.values():
                if count := count_images(path):
                    left_out.beside[f"{path.name}/"] += count
            elif path.is_file() and path.suffix.lower() in KINDS and not is_hidden(path.name):
                left_out.beside[path.name] += 1


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_NAMED
    return [*lines[:_MOST_NAMED], f"and {more} more"] if more > 0 else lines


# ---------------------------------------------------------------- pixels


@dataclass(frozen=True)
class _Files:
    """Images in files, decoded when they are asked for."""

    paths: Sequence[Path]
    reader: _Reader

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Samples, height, width, channels."""
        return len(self.paths), *self.reader.shape

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        found = self.reader.read([self.paths[i] for i in index])
        self.reader.refuse()
        return found

    def contents(self) -> list[bytes]:
        """Hash the files."""
        return [hashlib.sha256(path.read_bytes()).digest()[:16] for path in self.paths]


class _Reader:
    """Opens images, all by the same rule, and remembers what is wrong with any.

    Args:
        shape: Height, width, channels of what it gives.
        size: Side to scale and crop to; none takes images as they are.
        problems: What the files' heads say is wrong, by path.

    Attributes:
        shape: As given.
        problems: One line for each image that cannot be used, by path.
    """

    def __init__(self, shape: tuple[int, int, int], size: int | None, problems: dict[Path, str]) -> None:
        self.shape = shape
        self._size = size
        self.problems = problems

    @classmethod
    def of(cls, paths: Iterable[Path], size: int | None) -> _Reader:
        """Look at the head of every file: whether any has colours, and whether all are of one size."""
        first: tuple[Path, tuple[int, int]] | None = None
        colour = False
        problems: dict[Path, str] = {}
        for path in paths:
            try:
                with _opened(path) as opened:
                    mode, (width, height) = opened.mode, opened.size
                    if size is None and opened.getexif().get(_ORIENTATION, 1) > 4:  # a quarter turn
                        width, height = height, width
            except Exception as error:  # Pillow raises many kinds for broken files
                problems[path] = _corrupt(path, error)
                continue
            if mode not in _COLOUR:
                problems[path] = f"{path}: has pixels of kind {mode}; save it with 8 bits a channel"
                continue
            if size is None and first is None:
                first = (path, (width, height))
            elif size is None and first is not None and (width, height) != first[1]:
                problems[path] = (
                    f"{path}: is {width}×{height}, {first[0]} is {first[1][0]}×{first[1][1]}; set data.image_size to scale all alike"
                )
            colour = colour or mode not in _GREY
        width, height = (size, size) if size is not None else first[1] if first else (1, 1)
        return cls((height, width, 3 if colour else 1), size, problems)

    def read(self, paths: Sequence[Path]) -> np.ndarray:
        """Decode images; what cannot be decoded is black, and among `problems`."""
        height, width, channels = self.shape
        made = np.zeros((len(paths), height, width, channels), np.uint8)
        for i, path in enumerate(paths):
            if path not in self.problems and (image := self._decoded(path)) is not None:
                made[i] = np.asarray(image, np.uint8)[..., :channels]
        return made

    def refuse(self) -> None:
        """Raise a DataError with all problems, if there are any."""
        if self.problems:
            raise DataError("\n".join(_shortened([self.problems[path] for path in sorted(self.problems)])))

    def _decoded(self, path: Path) -> Picture | None:
        from PIL import Image, ImageOps

        try:
            with _opened(path) as opened:
                turned = ImageOps.exif_transpose(opened)  # photographs say so where the camera was turned
                image = turned.convert("RGB")
            if self._size is not None:
                image = ImageOps.fit(image, (self._size, self._size), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except Exception as error:
            self.problems[path] = _corrupt(path, error)
            return None
        return image


def _opened(path: Path) -> Picture:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=("PNG", "JPEG"))


def _corrupt(path: Path, error: Exception) -> str:
    return f"{path}: is corrupt, or no PNG or JPEG ({error}); replace it, or take it away"
