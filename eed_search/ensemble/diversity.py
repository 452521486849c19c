"""Robust diversity: how seldom members fail together, and the smallest team in which they seldom do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool


def robust_diversity(failures: Bool[np.ndarray, "members samples"]) -> float:
    """Share of failures that members do not share.

    With p_i the share of samples on which EXACTLY i of the S members fail:
    RD = 1 - sum(i(i-1)/(S(S-1)) p_i) / sum((i/S) p_i). Identical members give 0, members that never
    fail together 1, independent members of failure rate q give 1 - q; no failure at all gives 1.
    Says nothing of accuracy: filter on robust accuracy first.

    Args:
        failures: For each member, true for each adversarial sample it gets wrong.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: For a single member, whose diversity is undefined.

    Source:
        EED, arXiv 2504.04747, read as the generalised diversity of Partridge and Krzanowski 1997,
        https://doi.org/10.1016/S0950-5849(97)00023-2.
    """
    num_members = len(failures)
    if num_members < 2:
        raise ValueError("the robust diversity of one member is undefined")
    counts = failures.sum(axis=0)
    one = float((counts / num_members).mean())
    two = float((counts * (counts - 1) / (num_members * (num_members - 1))).mean())
    return 1.0 if one == 0 else 1 - two / one


@dataclass(frozen=True)
class ChosenTeam:
    """What `choose_team` found.

    Attributes:
        members: Positions in the pool, ascending.
        diversity: Its robust diversity.
        reached: Whether that reaches the threshold.
    """

    members: tuple[int, ...]
    diversity: float
    reached: bool


def choose_team(
    failures: Bool[np.ndarray, "members samples"],
    *,
    threshold: float,
    max_members: int,
    accuracy_slack: float,
    allowed: Sequence[int] | None = None,
) -> ChosenTeam:
    """Choose the smallest team whose robust diversity reaches the threshold.

    Among teams of that size the most diverse wins, then the one whose members are more robust. Where
    no team reaches the threshold: the most diverse one at all, the smaller of equals.

    Args:
        failures: For each pool member, true for each sample it gets wrong under its own attack.
        threshold: Wanted diversity.
        max_members: Largest team, at least 2.
        accuracy_slack: Members whose robust accuracy is this much below the best one's are left out.
        allowed: Positions to choose from; all by default.

    Returns:
        The team.

    Raises:
        ValueError: If fewer than two members are robust enough.

    Source:
        EED, arXiv 2504.04747; the fallback is ours.
    """
    robust = 1 - failures.mean(axis=1)
    positions = [i for i in (allowed or range(len(failures))) if robust[i] >= robust.max() - accuracy_slack]
    if len(positions) < 2:
        raise ValueError(
            f"{len(positions)} of {len(failures)} pool members are within {accuracy_slack:g} of the most robust one; a team needs two"
        )
    best: ChosenTeam | None = None
    for size in range(2, min(max_members, len(positions)) + 1):
        ranked = max(
            (robust_diversity(failures[list(team)]), float(robust[list(team)].mean()), tuple(-i for i in team))
            for team in combinations(positions, size)
        )
        candidate = ChosenTeam(tuple(-i for i in ranked[2]), ranked[0], ranked[0] >= threshold)
        if candidate.reached:
            return candidate
        if best is None or candidate.diversity > best.diversity + 1e-12:
            best = candidate
    assert best is not None
    return best
