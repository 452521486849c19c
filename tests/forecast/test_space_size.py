"""How much a space holds: the formulas against counting one by one."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from eed_search.config.loader import parse
from eed_search.config.plans import plan_members
from eed_search.config.spec import Spec
from eed_search.forecast.space_size import all_members, choices_of, space_size


def _spec(**space: object) -> Spec:
    return parse({"name": "t", "threat": {"eps": 0.1}, "search": {"space": space}}, "t")


def _pool(num_subsets: int) -> Spec:
    team = {"mode": "pool", "pool": {"scores": ["nis", "erm"], "num_subsets": num_subsets}}
    return parse({"name": "t", "threat": {"eps": 0.1}, "team": team}, "t")


SPACES: tuple[dict[str, object], ...] = (
    {"num_members": [1, 2, 3], "score": ["nis", "erm"], "size": [0.25, 0.5], "subsets": ["all", "shared"]},
    {"num_members": {"low": 2, "high": 4}, "score": "nis", "size": {"low": 0.2, "high": 0.6, "step": 0.2}},
    {"num_members": 1, "score": ["nis"], "size": 0.5, "subsets": "all", "recovery": "labels"},
    {"num_members": [1, 2], "method": ["prune", "radmm"], "score": ["nis", "erm"], "size": [0.25, 0.5]},
)


@pytest.mark.parametrize("space", SPACES)
def test_the_counts_are_those_of_an_enumeration(space: dict[str, object]) -> None:
    """Every team of every number of members is planned; members and teams are counted as sets."""
    spec = _spec(**space)
    full = spec.search.space
    counts = range(2, 5) if isinstance(space["num_members"], dict) else [int(v) for v in full.num_members.values]
    teams = {
        tuple(plan_members(team, subsets, recovery))
        for subsets in full.subsets.values
        for recovery in full.recovery.values
        for num in counts
        for team in combinations_with_replacement(choices_of(spec), num)
    }
    members = {plan for team in teams for plan in team}
    assert space_size(spec).teams == len(teams)
    assert space_size(spec).members == len(members)
    assert set(all_members(spec)) == members


@pytest.mark.parametrize("num_subsets", [1, 3])
def test_a_pool_holds_every_score_on_every_part(num_subsets: int) -> None:
    """A pool is a size, a recovery, and its images; its members are scores times parts."""
    spec = _pool(num_subsets)
    found = space_size(spec)
    images = 1 if num_subsets > 1 else 2
    assert found.teams == 2 * 2 * images
    assert found.members == found.teams * 2 * num_subsets == len(all_members(spec))


def test_a_range_of_sizes_has_no_number() -> None:
    """Any size between two ends: neither members nor teams can be counted or listed."""
    spec = _spec(size={"low": 0.2, "high": 0.8})
    assert (space_size(spec).members, space_size(spec).teams, all_members(spec)) == (None, None, [])
