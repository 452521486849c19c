"""What lies in a folder of images besides images: hidden and system folders, splits by other names, other files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

KINDS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
OTHER_IMAGES = (".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif")
Split = Literal["train", "validation", "test"]
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test",),
}
_SYSTEM = frozenset(
    [
        "__macosx",
        "@eadir",
        "@recycle",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
        "thumbs.db",
        "desktop.ini",
    ]
)
_LIKE_A_SPLIT = re.compile(
    r"(?P<word>train|test|val|valid|validate|validation|dev|eval|evaluation|holdout)(ing|s)?([ _.-]?(set|split|data|images?|imgs?|dir|folder))?[ _.-]?\d{0,4}",
    re.IGNORECASE,
)
_MOST_NAMED = 3


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that people do not see: hidden, or kept by a system or a tool."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM


def split_of(name: str) -> Split | None:
    """Give the split that a folder of this name is, whatever its case."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def meant_split(name: str) -> Split | None:
    """Give the split that a folder's name looks like, such as test for `Testing`; none if it looks like a class."""
    if (found := _LIKE_A_SPLIT.fullmatch(name)) is None:
        return None
    word = found["word"].lower()
    return "train" if word == "train" else "test" if word in ("test", "holdout") else "validation"


def visible_folders(folder: Path) -> list[Path]:
    """List the folders in a folder that are not hidden, by name."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())


@dataclass
class LeftOut:
    """Counts what is left out of a folder, and remembers where some of it lies.

    Attributes:
        hidden: Image files that are hidden or lie in hidden folders, by the hidden name.
        others: Files that are no images, by the ending.
        beside: Image files outside of any class, by their folder.
    """

    hidden: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)

    def lines(self) -> tuple[tuple[int, str], ...]:
        """Give what was left out: how many, and why."""
        found = (
            (self.hidden, "hidden or in folders of the system"),
            (self.others, "no PNG or JPEG to read"),
            (self.beside, "in no class of a split"),
        )
        return tuple((sum(some.values()), f"{why} ({_named(some)})") for some, why in found if some)


def images_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """List the images of a folder and all below it, in the order of their paths.

    Args:
        folder: A class's.
        left_out: Told what is passed over.
    """
    found = []
    for where, folders, files in os.walk(folder):
        for name in [name for name in folders if is_hidden(name)]:
            folders.remove(name)
            if count := count_images(Path(where) / name):
                left_out.hidden[name] += count
        for name in files:
            path = Path(where) / name
            image = path.suffix.lower() in KINDS
            if is_hidden(name):
                left_out.hidden.update([name.split("_")[0] + "_…" if name.startswith("._") else name] if image else [])
            elif image and path.is_file():
                found.append(path)
            elif image:
                left_out.others["links to nothing"] += 1
            elif path.suffix.lower() not in OTHER_IMAGES:  # those are refused
                left_out.others[path.suffix.lower() or name] += 1
    return sorted(found)


def count_images(folder: Path) -> int:
    """Count the image files in a folder and all below it, hidden ones included."""
    return sum(Path(name).suffix.lower() in KINDS for _, _, files in os.walk(folder) for name in files)


def others_below(folder: Path) -> list[Path]:
    """List the images of kinds that are not read, in a folder and all below it."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [
            Path(where) / name for name in files if Path(name).suffix.lower() in OTHER_IMAGES and not is_hidden(name)
        ]
    return sorted(found)


def in_order(names: Sequence[str]) -> list[str]:
    """Sort class names: as numbers where all are whole numbers, else as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _named(some: Counter[str]) -> str:
    names = [name for name, _ in some.most_common(_MOST_NAMED)]
    return ", ".join([*names, *(["…"] if len(some) > _MOST_NAMED else [])])
