"""Dealing samples into disjoint splits, each class in proportion and no group divided. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from eed_search.core.errors import DataError


def split_indices(
    labels: Int[np.ndarray, " samples"], counts: Mapping[str, int], seed: int
) -> dict[str, Int[np.ndarray, " split"]]:
    """Deal samples into disjoint splits, each class in proportion.

    Args:
        labels: Labels of all samples.
        counts: Samples for each split; together at most all.
        seed: Seed for the shuffle.

    Returns:
        For each split its sample indices, exactly as many as asked for, shuffled.

    Raises:
        DataError: If more samples are asked for than there are.

    Source:
        Ours: samples are shuffled, sorted stably by their rank within their class, and dealt from
        the front, so each prefix holds the classes in nearly equal shares.
    """
    _refuse_too_many(len(labels), counts)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        where = np.flatnonzero(labels[order] == label)
        share[where] = (np.arange(len(where)) + generator.random()) / len(where)
    order = order[np.argsort(share, kind="stable")]
    dealt, start = {}, 0
    for name, count in counts.items():
        dealt[name] = generator.permutation(order[start : start + count])
        start += count
    return dealt


def split_groups(
    labels: Int[np.ndarray, " samples"], groups: Int[np.ndarray, " samples"], counts: Mapping[str, int], seed: int
) -> dict[str, Int[np.ndarray, " split"]]:
    """Deal whole groups into disjoint splits, each class in proportion.

    Args:
        labels: Labels of all samples; a group's class is that of most of its samples.
        groups: Groups of all samples.
        counts: Samples for each split. The last one takes what the groups leave, so it may get fewer.
        seed: Seed for the shuffle.

    Returns:
        For each split its sample indices, as many as asked for, shuffled. Samples that the last group of a split has
        too many of are in no split.

    Raises:
        DataError: If more samples are asked for than the groups allow.

    Source:
        Ours: groups are shuffled, sorted by the share of their class's samples that lies before them, and dealt from
        the front.
    """
    _refuse_too_many(len(labels), counts)
    generator = np.random.default_rng(seed)
    members = np.split(np.argsort(groups, kind="stable"), np.unique(groups, return_index=False, return_counts=True)[1].cumsum()[:-1])  # fmt: skip
    order = generator.permutation(len(members))
    classes = np.array([np.bincount(labels[some]).argmax() for some in members])[order]
    sizes = np.array([len(some) for some in members])[order]
    share = np.empty(len(order))
    for label in np.unique(classes):
        where = np.flatnonzero(classes == label)
        before = np.cumsum(sizes[where]) - sizes[where]
        share[where] = (before + generator.random() * sizes[where]) / sizes[where].sum()
    order = order[np.argsort(share, kind="stable")]
    dealt, start, last = {}, 0, list(counts)[-1]
    for name, count in counts.items():
        taken: list[int] = []
        while len(taken) < count and start < len(order):
            taken += members[order[start]].tolist()
            start += 1
        if len(taken) < count and name != last:
            raise DataError(
                f"data: {len(np.unique(groups))} groups of together {len(labels)} images cannot be dealt into"
                f" {_listed(counts)}; no group is divided. Lower the numbers"
            )
        dealt[name] = generator.permutation(np.array(taken[:count], np.int64))
    return dealt


def _refuse_too_many(num: int, counts: Mapping[str, int]) -> None:
    if sum(counts.values()) > num:
        raise DataError(
            f"data: {sum(counts.values())} images asked for, the source has {num}; lower num_train, num_validation, num_fresh or num_test"
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
