"""Robust diversity: its limits, and the choice of the team."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eed_search.ensemble.diversity import choose_team, robust_diversity


def rows(*texts):
    return np.array([[c == "x" for c in text] for text in texts])


def test_identical_members_have_none():
    """They always fail together."""
    assert robust_diversity(rows("x.x.", "x.x.", "x.x.")) == pytest.approx(0)


def test_members_that_never_fail_together_have_all():
    """No sample breaks two."""
    assert robust_diversity(rows("x...", ".x..", "..x.")) == 1


def test_members_that_never_fail_have_all():
    """p_one = 0 is defined as 1."""
    assert robust_diversity(rows("....", "....")) == 1


def test_independent_members_have_one_minus_their_failure_rate():
    """The law that says 0.7 is out of reach at 45 % failures."""
    failures = np.random.default_rng(0).random((4, 200_000)) < 0.45
    assert robust_diversity(failures) == pytest.approx(0.55, abs=0.005)


def test_one_member_is_refused():
    """Undefined, not 1."""
    with pytest.raises(ValueError, match="one member is undefined"):
        robust_diversity(rows("x."))


@given(st.integers(2, 5), st.integers(0, 1000))
def test_the_counting_form_equals_the_paper_s_sums(members, seed):
    """1 − sum(i(i−1)/(S(S−1)) p_i) / sum(i/S p_i) over exact counts."""
    failures = np.random.default_rng(seed).random((members, 50)) < 0.4
    counts = failures.sum(0)
    p = [(counts == i).mean() for i in range(members + 1)]
    one = sum(i / members * p[i] for i in range(members + 1))
    two = sum(i * (i - 1) / (members * (members - 1)) * p[i] for i in range(members + 1))
    assert robust_diversity(failures) == pytest.approx(1 if one == 0 else 1 - two / one)


def test_the_smallest_team_above_the_threshold_wins():
    """Two members suffice although three would be more diverse."""
    failures = rows("xx......", ".xx.....", "....x...")
    team = choose_team(failures, threshold=0.6, max_members=3, accuracy_slack=1)
    assert team.reached
    assert len(team.members) == 2
    assert team.diversity == max(robust_diversity(failures[list(t)]) for t in combinations(range(3), 2))


def test_where_no_team_reaches_the_threshold_the_most_diverse_one_is_taken():
    """And it says so."""
    failures = rows("xxxx....", "xxx.x...", "xx..xx..")
    team = choose_team(failures, threshold=0.9, max_members=3, accuracy_slack=1)
    assert not team.reached
    assert team.members == (0, 2)


def test_weak_members_are_left_out_first():
    """Diversity is blind to accuracy: a member that fails everywhere else is not a partner."""
    failures = rows("x.......", ".x......", "..xxxxxx")
    team = choose_team(failures, threshold=0.5, max_members=3, accuracy_slack=0.2)
    assert team.members == (0, 1)


def test_a_team_needs_two_robust_members():
    """The filter can leave nobody."""
    with pytest.raises(ValueError, match="1 of 2 pool members are within"):
        choose_team(rows("....", "xxxx"), threshold=0.5, max_members=2, accuracy_slack=0.1)
