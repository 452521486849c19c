"""The verdict: when a control counts as beaten, by how much, and how surely."""

import pytest

from eed_search.core.ledger import RunView
from eed_search.core.records import Interval, Reference, unpack_bits
from eed_search.core.statistics import paired_difference
from eed_search.tracking.verdict import judge
from tests.tracking.factories import NUM_SAMPLES, make_measurement, make_trial, make_view


def run(points: list[tuple[float, float]], *controls: tuple[float, float]) -> RunView:
    """Build a run from (robust accuracy, milliseconds) of its points and controls, all on the same images."""
    trials = {i: make_trial(i, measurement=make_measurement(*point)) for i, point in enumerate(points)}
    references = [Reference(f"control {i}", make_measurement(*c), 1.0) for i, c in enumerate(controls)]
    return make_view(0, trials=trials, controls=references)


def test_faster_and_more_robust_beats() -> None:
    """Faster and more robust beats."""
    verdict = judge(run([(0.82, 0.2)], (0.80, 0.3)))
    assert verdict.beats_controls is True
    assert verdict.comparisons[0].times_faster == pytest.approx(1.5)
    assert verdict.comparisons[0].robust_difference is not None
    assert verdict.comparisons[0].robust_difference.value == pytest.approx(0.02)


@pytest.mark.parametrize("point", [(0.80, 0.2), (0.82, 0.3)])
def test_equal_in_one_and_better_in_the_other_beats(point: tuple[float, float]) -> None:
    """Equal in one and better in the other beats."""
    assert judge(run([point], (0.80, 0.3))).comparisons[0].beaten


def test_equal_in_both_does_not_beat() -> None:
    """Equal in both does not beat."""
    assert not judge(run([(0.80, 0.3)], (0.80, 0.3))).comparisons[0].beaten


@pytest.mark.parametrize("point", [(0.90, 0.33), (0.79, 0.1)])
def test_better_in_one_and_worse_in_the_other_does_not_beat(point: tuple[float, float]) -> None:
    """Better in one and worse in the other does not beat."""
    verdict = judge(run([point], (0.80, 0.3)))
    assert verdict.beats_controls is False
    assert "does NOT beat the controls" in verdict.text


def test_a_latency_within_the_interval_is_as_fast() -> None:
    """One architecture timed twice differs by noise: the more robust one beats, neither by its speed."""
    assert judge(run([(0.81, 0.301)], (0.80, 0.3))).comparisons[0].beaten
    assert not judge(run([(0.80, 0.299)], (0.80, 0.3))).comparisons[0].beaten


def test_one_of_two_controls_missed_is_named() -> None:
    """One of two controls missed is named."""
    verdict = judge(run([(0.82, 0.2)], (0.80, 0.3), (0.81, 0.1)))
    assert verdict.text == "The frontier does NOT beat all controls: not control 1."
    assert "no point is as fast; the fastest, 0.0: +1.0 points" in verdict.comparisons[1].text


def test_the_most_robust_of_the_beating_points_is_named() -> None:
    """The most robust of the beating points is named."""
    assert judge(run([(0.81, 0.1), (0.85, 0.25), (0.90, 0.5)], (0.80, 0.3))).comparisons[0].point == "1.0"


def test_difference_is_the_paired_one() -> None:
    """Difference is the paired one."""
    view = run([(0.90, 0.2)], (0.80, 0.3))
    first = unpack_bits(view.trials[0].measurement.robust_hex, NUM_SAMPLES)  # type: ignore[union-attr]
    second = unpack_bits(view.controls[0].measurement.robust_hex, NUM_SAMPLES)
    assert judge(view).comparisons[0].robust_difference == Interval(*paired_difference(first, second))


def test_a_clear_difference_excludes_zero_and_an_equal_one_does_not() -> None:
    """A clear difference excludes zero and an equal one does not."""
    comparisons = judge(run([(0.80, 0.2)], (0.70, 0.3), (0.80, 0.3))).comparisons
    assert [c.significant for c in comparisons] == [True, False]
    assert "excludes 0" in comparisons[0].text
    assert "includes 0" in comparisons[1].text


def test_a_control_on_other_images_gets_no_interval() -> None:
    """A control on other images gets no interval."""
    view = run([(0.82, 0.2)])
    other = make_measurement(0.80, 0.3, robust_hex="")
    view.controls.append(Reference("elsewhere", other, 1.0))
    comparison = judge(view).comparisons[0]
    assert comparison.beaten
    assert comparison.robust_difference is None
    assert "without an interval" in comparison.text


def test_no_control_or_no_frontier_gives_no_verdict() -> None:
    """No control or no frontier gives no verdict."""
    assert judge(run([(0.82, 0.2)])).beats_controls is None
    assert judge(run([], (0.80, 0.3))).beats_controls is None
