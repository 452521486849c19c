"""Intervals for shares, against SciPy and against laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from eed_search.core.statistics import clopper_pearson, images_to_decide, paired_difference, sure_difference, wilson

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=400)


def _columns(rows: list[tuple[bool, bool]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(rows, dtype=bool)
    return table[:, 0], table[:, 1]


@given(counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_clopper_pearson_agrees_with_scipy(count: tuple[int, int], confidence: float) -> None:
    """The interval is SciPy's exact binomial interval."""
    right, num = count
    expected = binomtest(right, num).proportion_ci(confidence, method="exact")
    assert clopper_pearson(right, num, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(count: tuple[int, int], confidence: float) -> None:
    """The interval is SciPy's score interval without continuity correction."""
    right, num = count
    expected = binomtest(right, num).proportion_ci(confidence, method="wilson")
    assert wilson(right, num, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_refuses_counts_that_do_not_fit() -> None:
    """Counts that no evaluation can give are refused with both numbers."""
    with pytest.raises(ValueError, match=r"^3 hits of 2: need 0 <= hits <= samples, samples >= 1$"):
        wilson(3, 2)


@given(pairs)
def test_a_wider_confidence_has_the_wider_interval(rows: list[tuple[bool, bool]]) -> None:
    """The 90 % interval of a difference lies inside the 95 % one."""
    first, second = _columns(rows)
    _, low, high = paired_difference(first, second)
    _, low90, high90 = paired_difference(first, second, confidence=0.9)
    assert low <= low90 <= high90 <= high


def test_clopper_pearson_of_all_right() -> None:
    """All right: the lower end is the n-th root of half the tail, the upper end is 1."""
    assert clopper_pearson(300, 300) == pytest.approx((0.025 ** (1 / 300), 1.0))


@pytest.mark.parametrize(("right", "num"), [(3, 2), (-1, 2), (0, 0)])
def test_clopper_pearson_refuses_counts_that_do_not_fit(right: int, num: int) -> None:
    """Counts that no evaluation can give are refused with both numbers."""
    with pytest.raises(ValueError, match=f"^{right} right of {num}: need 0 <= right <= samples, samples >= 1$"):
        clopper_pearson(right, num)


@given(pairs)
def test_difference_is_that_of_the_two_shares(rows: list[tuple[bool, bool]]) -> None:
    """The value is the plain difference of means, and lies in [-1, 1] with its interval."""
    first, second = _columns(rows)
    value, low, high = paired_difference(first, second)
    assert value == pytest.approx(first.mean() - second.mean())
    assert -1 <= low <= high <= 1


@given(pairs)
def test_difference_turns_round_with_its_arguments(rows: list[tuple[bool, bool]]) -> None:
    """Exchanging the two classifiers negates value and interval."""
    first, second = _columns(rows)
    value, low, high = paired_difference(first, second)
    assert paired_difference(second, first) == pytest.approx((-value, -high, -low))


@given(pairs)
def test_difference_ignores_the_order_of_samples(rows: list[tuple[bool, bool]]) -> None:
    """Only the four counts matter."""
    shuffled = sorted(rows)
    assert paired_difference(*_columns(rows)) == pytest.approx(paired_difference(*_columns(shuffled)))


def test_difference_by_hand() -> None:
    """100 samples, 10 gained and 2 lost: Agresti and Min's adjusted interval worked out by hand."""
    first = np.array([True] * 10 + [False] * 2 + [True] * 88)
    second = np.array([False] * 10 + [True] * 2 + [True] * 88)
    half = 1.959963984540054 * np.sqrt(13 - 64 / 102) / 102
    assert paired_difference(first, second) == pytest.approx((0.08, 8 / 102 - half, 8 / 102 + half))


def test_agreement_on_more_samples_narrows_the_interval() -> None:
    """Samples on which both agree add certainty."""

    def width(num: int) -> float:
        _, low, high = paired_difference(np.ones(num, bool), np.ones(num, bool))
        return high - low

    assert width(1000) < width(100) < width(10)


def test_paired_interval_covers_as_it_promises() -> None:
    """Of 2,000 simulated evaluations about 95 % hold the true difference."""
    generator = np.random.default_rng(0)
    cells = generator.multinomial(200, [0.75, 0.08, 0.05, 0.12], size=2000)  # both, only first, only second, none
    held = 0
    for both, only_first, only_second, none in cells:
        first = np.repeat([True, True, False, False], [both, only_first, only_second, none])
        second = np.repeat([True, False, True, False], [both, only_first, only_second, none])
        _, low, high = paired_difference(first, second)
        held += low <= 0.03 <= high
    assert 0.935 <= held / 2000 <= 0.975


def test_difference_refuses_unequal_lengths() -> None:
    """Answers on different samples cannot be paired."""
    with pytest.raises(ValueError, match=r"^need two equal, non-empty lengths, got \(2,\) and \(3,\)$"):
        paired_difference(np.ones(2, bool), np.ones(3, bool))


@pytest.mark.parametrize(
    ("only_first", "only_second", "num"), [(5, 14, 200), (3, 2, 200), (12, 4, 100), (40, 60, 1000)]
)
def test_as_many_images_as_would_decide_do(only_first: int, only_second: int, num: int) -> None:
    """With so many of the same kind the interval leaves out 0, with a quarter less it does not; never fewer than there are."""

    def pair(times: float) -> tuple[np.ndarray, np.ndarray]:
        size = round(times * num)
        a, b = round(times * only_first), round(times * only_second)
        first, second = np.zeros(size, bool), np.zeros(size, bool)
        first[:a] = True
        second[a : a + b] = True
        return first, second

    needed = images_to_decide(*pair(1), confidence=0.99)
    assert needed is not None
    decides = [
        low > 0 or high < 0
        for _, low, high in (sure_difference(*pair(s * needed / num), confidence=0.99) for s in (0.75, 1.2))
    ]
    assert decides == [False, True]
    assert needed > num


def test_equals_are_never_decided() -> None:
    flags = np.arange(100) % 3 == 0
    assert images_to_decide(flags, flags) is None
    assert images_to_decide(np.arange(100) < 50, np.arange(100) >= 50) is None


def test_an_interval_that_only_the_approximation_calls_sure_includes_0() -> None:
    """Few samples differ: the exact test says no, and its word goes before."""
    first, second = np.arange(400) < 6, np.arange(400) >= 400
    assert paired_difference(first, second, confidence=0.975)[1] > 0
    assert sure_difference(first, second, confidence=0.975)[1] <= 0
