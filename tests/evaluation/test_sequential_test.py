"""Repeated looks at the same images: how often they err, what they say, and whom a team is held against."""

from __future__ import annotations

import numpy as np
import pytest

from eed_search.evaluation.sequential_test import (
    ERROR,
    Incumbent,
    beaten_by,
    incumbent_for,
    interim_sizes,
    surely_behind,
)
from eed_search.runs.records import Interval, pack_bits

MS = Interval(1.0, 0.99, 1.01)


def incumbent(right: np.ndarray, latency: Interval = MS, id_: str = "0.0") -> Incumbent:
    return Incumbent(id_, latency, float(right.mean()), pack_bits(right), len(right))


@pytest.mark.parametrize(
    ("num", "ends"),
    [
        (1000, (32, 63, 125, 250, 500, 1000)),
        (320, (10, 20, 40, 80, 160, 320)),
        (3, (1, 2, 3)),
        (1, (1,)),
    ],
)
def test_each_look_goes_about_twice_as_far_as_the_one_before(num: int, ends: tuple[int, ...]) -> None:
    assert interim_sizes(num) == ends


@pytest.mark.parametrize(("num", "apart"), [(300, 0.1), (1000, 0.3), (1000, 1.0)])
def test_one_that_is_as_good_is_rarely_called_behind(num: int, apart: float) -> None:
    """Two equal classifiers that answer a share of the images differently: the promise holds at the worst case, equality."""
    rng, ends, trials = np.random.default_rng(7), interim_sizes(num), 1000
    called = 0
    for _ in range(trials):
        differ, mine = rng.random(num) < apart, rng.random(num) < 0.5
        called += surely_behind(differ & mine, differ & ~mine, ends)
    assert called / trials < ERROR + 3 * (ERROR * (1 - ERROR) / trials) ** 0.5


@pytest.mark.parametrize("differing", [30, 100])
def test_one_that_is_as_good_on_all_images_is_rarely_called_behind_on_the_first(differing: int) -> None:
    """The same for a fixed number of images in a random order, each of the two ahead on half of those that differ."""
    rng, ends, trials = np.random.default_rng(8), interim_sizes(300), 1000
    called = 0
    for _ in range(trials):
        kind = rng.permutation(np.arange(300))
        called += surely_behind(kind < differing // 2, (kind >= differing // 2) & (kind < differing), ends)
    assert called / trials < ERROR


def test_one_that_is_clearly_worse_is_called_behind_early() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.random(1000) < 0.8
    mine = theirs & (rng.random(1000) < 0.7)
    ends = interim_sizes(1000)
    assert not surely_behind(mine[:20], theirs[:20], ends)  # no look was taken yet
    assert surely_behind(mine[:125], theirs[:125], ends)
    assert not surely_behind(theirs, mine, ends)


def test_the_bound_is_that_of_the_exact_test() -> None:
    """By hand: at the first of two looks half of the error may be spent; 2^-5 is above 0.05 / 2, 2^-6 below."""
    ends = (10, 20, 40)
    theirs = np.arange(10) < 6
    assert not surely_behind(np.arange(10) < 1, theirs, ends)  # 0 of 5
    assert surely_behind(np.zeros(10, bool), theirs, ends)  # 0 of 6


def test_what_was_not_spent_may_be_spent_later() -> None:
    """Nothing differs at the first look; at the second one all of the error is left: 2^-5 is below 0.05."""
    theirs = np.r_[np.zeros(10, bool), np.ones(5, bool), np.zeros(5, bool)]
    assert surely_behind(np.zeros(20, bool), theirs, (10, 20, 40))


def test_the_last_look_calls_nobody_behind() -> None:
    assert not surely_behind(np.zeros(8, bool), np.ones(8, bool), (8,))


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        surely_behind(np.zeros(3, bool), np.zeros(4, bool), (2, 4))


# ---------------------------------------------------------------- incumbents


def test_a_rival_is_as_fast_only_for_sure() -> None:
    one = incumbent(np.ones(4, bool))
    assert one.is_as_fast(Interval(1.1, 1.02, 1.2))
    assert not one.is_as_fast(Interval(1.1, 1.0, 1.2))  # the intervals touch
    assert one.is_as_fast(MS)  # the same measurement of the same architecture


def test_the_most_robust_of_those_that_are_as_fast_is_the_rival() -> None:
    slow = incumbent(np.ones(4, bool), Interval(9, 9, 9), "slow")
    weak = incumbent(np.array([True, False, False, False]), id_="weak")
    good = incumbent(np.array([True, True, False, False]), id_="good")
    assert incumbent_for(Interval(2, 2, 2), [slow, weak, good]) == good
    assert incumbent_for(Interval(0.5, 0.5, 0.5), [slow, weak, good]) is None


def test_a_team_is_beaten_only_at_every_threshold() -> None:
    ends = interim_sizes(64)
    good, bad = np.ones(32, bool), np.zeros(32, bool)
    incumbents = [incumbent(np.ones(64, bool), id_="3.0")]
    slower = Interval(2, 2, 2)
    assert beaten_by([slower, slower], [bad, bad], incumbents, ends) == ("3.0",)
    assert beaten_by([slower, slower], [bad, good], incumbents, ends) == ()
    assert beaten_by([slower, Interval(0.5, 0.5, 0.5)], [bad, bad], incumbents, ends) == ()  # nobody is as fast
    assert beaten_by([slower], [bad], [], ends) == ()


def test_other_images_than_the_rivals_beat_nobody() -> None:
    """A run that was resumed although its data had changed."""
    assert beaten_by([Interval(2, 2, 2)], [np.zeros(32, bool)], [incumbent(np.ones(50, bool))], interim_sizes(64)) == ()
