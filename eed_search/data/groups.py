"""Which images belong together: groups that a person names, and twins, which hold the same content.

Frames of one video, pictures of one patient or one physical object are nearly the same image, and copies are: on both
sides of a split they let a network be tested on what it has learnt by heart.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Int

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.data.images import Images, ImageSets

_MOST_NAMED = 5
_PRIORITY = ("test", "validation", "train")  # twins stay in the first of these that holds one
_HEADINGS = ("file", "path", "image", "filename", "group")


@dataclass(frozen=True)
class Twins:
    """Images of the same content.

    Attributes:
        groups: For each set, the group of each image: images of one content or one named group share it.
        kept: For each set, which images stay: one that occurs in the test set too is left out of training.
        num: Images that occur more than once, in all sets together.
        num_left_out: How many are left out, by set.
    """

    groups: dict[str, Int[np.ndarray, " samples"]]
    kept: dict[str, Bool[np.ndarray, " samples"]]
    num: int
    num_left_out: dict[str, int]


# ---------------------------------------------------------------- groups that are named


def read_groups(data: Data, files: Mapping[str, Sequence[str]]) -> dict[str, Int[np.ndarray, " samples"]]:
    """Read `data.groups`, a CSV file of two columns: an image's path below the data's folder (or its name, where that is unique), and its group.

    Args:
        data: The file's section.
        files: The paths of each set's images, below the data's folder.

    Returns:
        For each set the groups of its images, numbered; empty where no file is given.

    Raises:
        DataError: If the file cannot be read, or an image has no group or two.
    """
    if data.groups is None:
        return {}
    path = find_groups(data)
    by_path = _rows(path)
    every = [name for some in files.values() for name in some]
    names = defaultdict(list)
    for name in every:
        names[PurePosixPath(name).name].append(name)
    found = {name: by_path.get(name) or _by_name(by_path, names, name) for name in every}
    if lacking := [name for name, group in found.items() if group is None]:
        raise DataError(
            f"data.groups: {path} names no group for {len(lacking)} of {len(every)} images ({_listed(lacking)}); give each a"
            " row: its path below the data's folder, then its group"
        )
    numbers = {group: i for i, group in enumerate(dict.fromkeys(found.values()))}
    return {split: np.array([numbers[found[name]] for name in some], np.int64) for split, some in files.items()}


def find_groups(data: Data) -> Path:
    """Find the file of groups: as given, else in the data's folder."""
    path = Path(data.groups or "").expanduser()
    inside = Path(data.path or "").expanduser() / path
    return inside if not path.exists() and inside.exists() else path


def _rows(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"data.groups: {path} cannot be read ({error}); give a CSV file with rows `path,group`"
        ) from error
    if rows and all(cell.strip().lower() in _HEADINGS for cell in rows[0]):
        rows = rows[1:]
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            raise DataError(
                f"data.groups: {path}, row {number} is {','.join(row)!r}; needs two columns, an image's path and its group"
            )
        name = cells[0].replace("\\", "/").removeprefix("./")
        if found.setdefault(name, cells[1]) != cells[1]:
            raise DataError(f"data.groups: {path} gives {name} the groups {found[name]} and {cells[1]}; give it one")
    return found


def _by_name(by_path: Mapping[str, str], names: Mapping[str, Sequence[str]], name: str) -> str | None:
    last = PurePosixPath(name).name
    return by_path.get(last) if len(names[last]) == 1 else None


# ---------------------------------------------------------------- twins


def find_twins(sets: ImageSets, where: str, *, leave_out: bool = False) -> Twins:
    """Find images of the same content, join them with the named groups, and leave out of training what is tested on.

    Args:
        sets: What the source gave.
        where: Names the source, for messages.
        leave_out: Leave images of one content and different labels out instead of refusing them.

    Raises:
        DataError: If images of the same content have different labels, or a named group lies in two of the sets.
    """
    places: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for name, images in sets.items():
        for i, content in enumerate(_contents(images)):
            places[content].append((name, i))
    by_name = dict(sets.items())
    twins = [some for some in places.values() if len(some) > 1]
    clashing = [some for some in twins if len({int(by_name[name].labels[i]) for name, i in some}) > 1]
    if clashing and not leave_out:
        raise DataError(_clashes(where, sets, clashing))
    kept = {name: np.ones(len(images), bool) for name, images in sets.items()}
    for some in clashing:
        for name, i in some:
            kept[name][i] = False
    _refuse_divided_groups(sets, where)
    joined = {name: _Joined(images) for name, images in sets.items()}
    for some in twins:
        first = min((name for name, _ in some), key=_PRIORITY.index)
        for name, i in some:
            if name != first:
                kept[name][i] = False
        for name, group in joined.items():
            group.join([i for one, i in some if one == name])
    return Twins(
        {name: group.numbers() for name, group in joined.items()},
        kept,
        sum(len(some) for some in twins),
        {name: int((~stay).sum()) for name, stay in kept.items() if not stay.all()},
    )


def _contents(images: Images) -> Sequence[bytes]:
    if images.contents is not None:
        return images.contents
    return [hashlib.blake2b(np.ascontiguousarray(one).data, digest_size=16).digest() for one in images.images]


def _clashes(where: str, sets: ImageSets, clashing: Sequence[Sequence[tuple[str, int]]]) -> str:
    by_name = dict(sets.items())

    def said(name: str, i: int) -> str:
        images = by_name[name]
        label = int(images.labels[i])
        title = sets.class_names[label] if label < len(sets.class_names) else str(label)
        return f"{images.name(i) if len(images.names) else f'{name} {images.name(i)}'} ({title})"

    lines = [" = ".join(said(name, i) for name, i in some[:_MOST_NAMED]) for some in clashing[:_MOST_NAMED]]
    more = len(clashing) - len(lines)
    return "\n".join(
        [
            f"{where}: {len(clashing)} image{'' if len(clashing) == 1 else 's'} of the same content under different labels;"
            " correct the labels or remove the copies, or set data.contradictions: leave_out",
            *(f"  {line}" for line in lines),
            *([f"  and {more} more"] if more > 0 else []),
        ]
    )


def _refuse_divided_groups(sets: ImageSets, where: str) -> None:
    seen: dict[int, str] = {}
    for name, images in sets.items():
        if images.groups is None:
            continue
        for group in np.unique(images.groups):
            other = seen.setdefault(int(group), name)
            if other != name:
                i, j = (int(np.flatnonzero(dict(sets.items())[one].groups == group)[0]) for one in (other, name))
                shown = [f"{one} ({dict(sets.items())[one].name(k)})" for one, k in ((other, i), (name, j))]
                raise DataError(
                    f"{where}: a group has images in {shown[0]} and in {shown[1]}; a group belongs to one split: move its"
                    " images, or, where the two are not the same, give them different groups"
                )


class _Joined:
    """Groups of one set's images, joined where images are twins.

    Args:
        images: The set.
    """

    def __init__(self, images: Images) -> None:
        if images.groups is None:
            self._number = np.arange(len(images))
        else:
            self._number = np.unique(images.groups, return_inverse=True)[1].astype(np.int64)
        self._parent = np.arange(int(self._number.max(initial=0)) + 1)

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = int(self._parent[group])
        return group

    def join(self, samples: Sequence[int]) -> None:
        """Make the groups of some images one."""
        for sample in samples[1:]:
            self._parent[self._root(int(self._number[sample]))] = self._root(int(self._number[samples[0]]))

    def numbers(self) -> Int[np.ndarray, " samples"]:
        """Give each image's group, numbered from 0."""
        roots = np.array([self._root(group) for group in range(len(self._parent))])
        return np.unique(roots[self._number], return_inverse=True)[1].astype(np.int64)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
