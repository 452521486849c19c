"""Transfer rate, gaps and the equivalence test, against closed forms and slow definitions."""

from __future__ import annotations

import numpy as np
import pytest

from eed_search.core.statistics import paired_difference, wilson
from eed_search.transfer.metrics import (
    Answers,
    Estimate,
    compare,
    difference,
    mean_gap,
    replicates,
    share,
    verdict,
)


def _flags(text: str) -> np.ndarray:
    return np.array([c == "1" for c in text])


def _answers(base_clean: str, clean: str, base: str, static: str, adaptive: str) -> Answers:
    agree = _flags(base_clean) == _flags(clean)
    return Answers(_flags(base_clean), _flags(clean), agree, _flags(base), _flags(static), _flags(adaptive))


def _random(seed: int, num: int = 300) -> Answers:
    rng = np.random.default_rng(seed)
    clean, base_clean = rng.random(num) < 0.95, rng.random(num) < 0.95
    base, static = base_clean & (rng.random(num) < 0.3), clean & (rng.random(num) < 0.5)
    return Answers(base_clean, clean, rng.random(num) < 0.9, base, static, static & (rng.random(num) < 0.5))


def test_the_transfer_rate_by_hand() -> None:
    """Six images: one the base gets wrong, one the pruned gets wrong, one failed attack; of the other three two transfer."""
    found = compare({0: _answers("011111", "101111", "000100", "110001", "000000")})
    assert found.transfer.num == 3
    assert found.transfer.value == pytest.approx(2 / 3)


def test_failed_attacks_are_dropped() -> None:
    """An image that the base still answers rightly is not counted, whatever the pruned network says."""
    found = compare({0: _answers("1111", "1111", "1100", "0000", "0000")})
    assert (found.transfer.num, found.transfer.value) == (2, 1.0)


def test_nothing_broken_is_no_rate() -> None:
    """Where the base was never broken there is nothing to transfer."""
    found = compare({0: _answers("11", "11", "11", "11", "11")})
    assert found.transfer == Estimate.nothing()
    assert verdict(found.transfer, 0.02) == "undecided"


def test_one_seed_has_the_closed_forms() -> None:
    """Wilson for shares, Agresti and Min for gaps."""
    one = _random(0)
    found = compare({0: one})
    eligible, hits = int(one.eligible.sum()), int(one.transferred.sum())
    assert (found.transfer.low, found.transfer.high) == wilson(hits, eligible)
    expected = paired_difference(one.static, one.base, confidence=0.9)
    assert (found.gap_static.value, found.gap_static.low90, found.gap_static.high90) == expected


def test_several_seeds_are_at_least_as_wide() -> None:
    """The hull holds the pooled interval, and grows where seeds disagree."""
    flat = [np.arange(300) < 150] * 3
    none, some = [np.zeros(300, bool)] * 3, [np.arange(300) < k for k in (0, 150, 300)]
    agreeing, disagreeing = difference(flat, none), difference(some, none)
    pooled = paired_difference(np.concatenate(flat), np.zeros(900, bool))
    assert agreeing.value == disagreeing.value == pooled[0]
    assert agreeing.low is not None
    assert disagreeing.low is not None
    assert agreeing.low <= pooled[1]
    assert disagreeing.low < agreeing.low - 0.2


def test_the_bootstrap_agrees_with_the_slow_definition() -> None:
    """Seeds drawn first, then samples within each: the same mean and spread as a loop."""
    rng = np.random.default_rng(1)
    values = [rng.random(40) < p for p in (0.2, 0.5, 0.9)]
    drawn = replicates([v.astype(float) for v in values]) / replicates([np.ones(40) for _ in values])
    slow = [
        np.mean([rng.choice(values[seed], 40) for seed in rng.integers(0, 3, 3)]) for _ in range(2000)
    ]  # fmt: skip
    assert drawn.mean() == pytest.approx(np.mean(slow), abs=0.02)
    assert drawn.std() == pytest.approx(np.std(slow), rel=0.08)


def test_equal_counts_see_equal_draws() -> None:
    """So that networks are compared on the same draws, and results are the same each time."""
    values = [np.arange(10.0), np.arange(10.0)]
    assert (replicates(values) == replicates(values)).all()


def test_a_mean_of_gaps_is_the_mean() -> None:
    """Over networks, seeds pooled."""
    gaps = [[np.array([1.0, 0.0]), np.array([0.0, 0.0])], [np.array([0.0, 0.0]), np.array([-1.0, 0.0])]]
    assert mean_gap(gaps).value == 0.0
    assert mean_gap([]) == Estimate.nothing()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.01, 0.015, "comparable"),
        (-0.01, 0.025, "undecided"),
        (0.021, 0.3, "not comparable"),
        (-0.3, -0.021, "not comparable"),
        (-0.3, 0.3, "undecided"),
        (-0.02, 0.0, "undecided"),
    ],
)
def test_equivalence_by_the_90_per_cent_interval(low: float, high: float, expected: str) -> None:
    """Inside the margin, outside it, or across."""
    assert verdict(Estimate((low + high) / 2, low - 1, high + 1, low, high, 100), 0.02) == expected


def test_the_equivalence_test_keeps_its_level() -> None:
    """A true gap at the margin is called comparable in at most about 5 % of 400 experiments."""
    rng = np.random.default_rng(0)
    calls = 0
    for _ in range(400):
        drawn = rng.random(2000)
        first, second = drawn < 0.52, (drawn < 0.45) | (drawn > 0.95)  # shares 0.52 and 0.50 on the same samples
        calls += verdict(difference([first], [second]), 0.02) == "comparable"
    assert calls / 400 <= 0.08


def test_a_share_of_everything() -> None:
    """All hits: 1, and the interval ends there."""
    found = share([np.ones(50, bool)], [np.ones(50, bool)])
    assert (found.value, found.high, found.num) == (1.0, 1.0, 50)
