"""Reading a source and dealing it into the four splits, and saying what was read. NumPy alone, so that `check` can."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from eed_search.config.spec import Data
from eed_search.core.errors import DataError
from eed_search.core.seeds import digest, seed_of
from eed_search.data.dealing import split_groups, split_indices
from eed_search.data.groups import Twins, find_twins
from eed_search.data.images import Images
from eed_search.data.memory import too_large
from eed_search.data.sources import Raw, load_images, where
from eed_search.runs.data_facts import DataFacts, Preprocessing

SPLITS = ("train", "validation", "fresh", "test")
_LEAST_TRAINED = 10
_MOST_NAMED = 5
_FLOAT = 4  # bytes of a pixel value in a split


@dataclass(frozen=True)
class Dealt:
    """A source, read and dealt.

    Attributes:
        raw: The source.
        splits: For each split the set of the source that it is from, and its samples there.
        facts: What to say of it.
        key: Names the images and how they were split: part of every stage's key.
    """

    raw: Raw = field(repr=False)
    splits: dict[str, tuple[Images, Int[np.ndarray, " samples"]]] = field(repr=False)
    facts: DataFacts
    key: str


def read(data: Data, seed: int) -> Dealt:
    """Read a source and deal it into splits.

    Validation and fresh are cut from the training images, class by class, and so is the test split where the source
    has no test set; validation images of the source's own are taken where it has some. Images that occur in the test
    set are not trained on, and images of one content or one group are in one split.

    Args:
        data: The file's section.
        seed: The search's seed.

    Raises:
        DataError: If the source cannot be read, does not fit into memory or is too small for the splits, or a class has
            too few images to be in all of them.
    """
    if problem := too_large(data):
        raise DataError(problem)
    try:
        raw = load_images(data)
    except MemoryError as error:
        raise DataError(
            f"{where(data)}: not enough memory to read it; lower data.image_size or data.num_train"
        ) from error
    twins = find_twins(raw.sets, where(data), leave_out=data.contradictions == "leave_out")
    sets = dict(raw.sets.items())
    pools = {name: np.flatnonzero(kept) for name, kept in twins.kept.items()}
    counts, cut = _counts(data, pools, len(raw.train))
    parts = _deal(raw, twins, pools, counts, seed)
    apart = {"validation": data.num_validation, "test": data.num_test}
    for name in apart.keys() & pools.keys():
        most = apart[name]
        wanted = len(pools[name]) if most is None else min(most, len(pools[name]))
        picked = split_indices(sets[name].labels[pools[name]], {name: wanted}, _seed(raw, f"{name}/{seed}"))
        parts[name] = pools[name][picked[name]]
    splits = {name: (sets.get(name, raw.train) if name not in cut else raw.train, parts[name]) for name in SPLITS}
    _refuse_rare_classes(raw, twins, pools["train"], splits, cut, where(data))
    facts = _facts(data, raw, twins, splits, cut)
    settings: dict[str, Any] = {"identity": raw.identity, "seed": seed, "counts": counts}
    if twins.num or "validation" in pools or raw.train.groups is not None:  # else the counts say it all
        settings["dealt"] = _hash(splits)
    return Dealt(raw, splits, facts, digest(settings))


def _counts(data: Data, pools: Mapping[str, np.ndarray], num_given: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Say how many images of the training set go where, and which splits are cut from it."""
    num = len(pools["train"])
    counts = {} if "validation" in pools else {"validation": data.num_validation}
    counts["fresh"] = data.num_fresh
    if "test" not in pools:
        share = data.num_fresh if data.test_share is None else round(data.test_share * num)
        counts["test"] = share if data.num_test is None else data.num_test
    left = num - sum(counts.values())
    cut = tuple(counts)
    counts["train"] = left if data.num_train is None else data.num_train
    if counts["train"] < _LEAST_TRAINED:
        out = "" if num == num_given else f", {num_given - num} more are the same as test or validation images"
        raise DataError(
            f"data: {max(0, left)} of {num} images are left to train on{out}; lower num_validation, num_fresh or num_test"
        )
    return counts, cut


def _deal(
    raw: Raw, twins: Twins, pools: Mapping[str, np.ndarray], counts: Mapping[str, int], seed: int
) -> dict[str, np.ndarray]:
    pool, of = pools["train"], _seed(raw, f"splits/{seed}")
    labels, groups = raw.train.labels[pool], twins.groups["train"][pool]
    if len(np.unique(groups)) < len(groups):
        dealt = split_groups(labels, groups, counts, of)
    else:
        dealt = split_indices(labels, counts, of)
    return {name: pool[index] for name, index in dealt.items()}


def _seed(raw: Raw, purpose: str) -> int:
    return seed_of(raw.identity, purpose) % 2**32


def _hash(splits: Mapping[str, tuple[Images, np.ndarray]]) -> str:
    sha = hashlib.sha256()
    for name, (_, index) in splits.items():
        sha.update(name.encode())
        sha.update(index.astype("<i8").tobytes())
    return sha.hexdigest()[:32]


# ---------------------------------------------------------------- classes


def _refuse_rare_classes(
    raw: Raw,
    twins: Twins,
    pool: np.ndarray,
    splits: Mapping[str, tuple[Images, np.ndarray]],
    cut: Sequence[str],
    where: str,
) -> None:
    """Refuse a class that cannot be in every split that is cut from the training images."""
    needed = 1 + len(cut)
    labels, groups = raw.train.labels[pool], twins.groups["train"][pool]
    trained = set(splits["train"][0].labels[splits["train"][1]].tolist())
    found = []
    for label in np.unique(labels).tolist():
        images = int((labels == label).sum())
        apart = len(np.unique(groups[labels == label]))
        if apart < needed or label not in trained:
            of = f"{images} image{'' if images == 1 else 's'}"
            of += f" in {apart} group{'' if apart == 1 else 's'}" if apart < images else ""
            found.append(f"class {raw.class_names[label]} has {of}")
    if found:
        into = ", ".join(("train", *cut[:-1])) + f" and {cut[-1]}"
        raise DataError(
            f"{where}: {_listed(found)}; a class is dealt into {into}, so it needs {needed} or more that can be parted,"
            " and enough to be in training. Add images, or take the class away"
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------- what is said


def _facts(
    data: Data,
    raw: Raw,
    twins: Twins,
    splits: Mapping[str, tuple[Images, np.ndarray]],
    cut: Sequence[str],
) -> DataFacts:
    _, height, width, channels = raw.train.images.shape
    places = {name: raw.sets.came_from.get(name, data.source) for name, _ in raw.sets.items()}
    came_from = {
        name: places[name] if name in places and name not in cut else f"cut from {places['train']}" for name in SPLITS
    }
    if "test" in cut:  # nothing of the source is whole
        came_from["train"] = f"cut from {places['train']}"
    num_images = {name: len(index) for name, (_, index) in splits.items()}
    groups = raw.train.groups
    return DataFacts(
        data.source,
        raw.class_names,
        Preprocessing("grey" if channels == 1 else "RGB", height, width, "fit" if raw.sets.fitted else "none"),
        num_images,
        came_from,
        (*raw.sets.left_out, *_unused(data, raw, twins, num_images, cut)),
        twins.num,
        None if groups is None else len(np.unique(groups)),
        tuple(_warnings(raw, splits)),
        sum(num_images.values()) * height * width * channels * _FLOAT,
    )


def _unused(
    data: Data, raw: Raw, twins: Twins, num_images: Mapping[str, int], cut: Sequence[str]
) -> list[tuple[int, str]]:
    """Count the images that were read and are in no split, and say why."""
    found = []
    for name, images in raw.sets.items():
        out = twins.num_left_out.get(name, 0)
        used = sum(num_images[split] for split in (("train", *cut) if name == "train" else (name,)))
        if out:
            why = "of the same content as test or validation images"
            found.append(
                (out, f"of {name}: {why}{' or under different labels' if data.contradictions == 'leave_out' else ''}")
            )
        if rest := len(images) - out - used:
            asked = {"train": data.num_train, "validation": data.num_validation, "test": data.num_test}[name]
            reason = f"more than data.num_{name}" if asked is not None else "left over where a group went to one split"
            found.append((rest, f"of {name}: {reason}"))
    return found


def _warnings(raw: Raw, splits: Mapping[str, tuple[Images, np.ndarray]]) -> list[str]:
    found = []
    present = np.bincount(raw.train.labels, minlength=raw.num_classes) > 0
    if not present.all():
        found.append(f"no image at all of class {_listed([raw.class_names[i] for i in np.flatnonzero(~present)])}")
    for name, (images, index) in splits.items():
        there = np.bincount(images.labels[index], minlength=raw.num_classes) > 0
        if lacking := [raw.class_names[i] for i in np.flatnonzero(present & ~there)]:
            found.append(f"no {name} image of class {_listed(lacking)}")
    return found
