"""Each sanity check as a pure function: what it lets pass, what it does not, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

from eed_search.evaluation import sanity
from eed_search.runs.attack_records import Check


def flags(num_right: int, num: int = 200) -> np.ndarray:
    return np.arange(num) < num_right


def ways(*labels: list[int]) -> dict[str, sanity.Answers]:
    return {f"way {i}": (np.array(row), np.ones(len(row), int)) for i, row in enumerate(labels)}


def test_one_sample_more_or_less_at_eps_zero_is_a_fault() -> None:
    assert sanity.zero_eps(flags(150), flags(150)).passed
    assert not sanity.zero_eps(flags(150), flags(149)).passed


def test_another_clean_accuracy_than_recorded_is_a_fault() -> None:
    recorded = ("the search", 0.75, flags(150))
    assert sanity.zero_eps(flags(150), flags(150), recorded).passed
    check = sanity.zero_eps(flags(150), flags(150), ("the search", 0.9, flags(150)))
    assert not check.passed
    assert "the search says 90.0 % where 75.0 % are right now" in check.seen


@pytest.mark.parametrize(
    ("farthest", "outside", "passed"),
    [(0.1, 0, True), (0.1 + 5e-7, 0, True), (0.1 + 2e-6, 0, False), (0.1, 1e-3, False), (float("nan"), 0, False)],
)
def test_images_stay_within_the_budget(farthest: float, outside: float, passed: bool) -> None:
    assert sanity.inside_ball(farthest, outside, 0.1).passed is passed


def test_an_answer_that_depends_on_its_neighbours_is_found() -> None:
    everyone = np.ones(3, bool)
    assert sanity.same_answers(ways([1, 2, 3], [1, 2, 3]), everyone, 0.0).passed
    check = sanity.same_answers(ways([1, 2, 3], [1, 2, 3], [1, 0, 3]), everyone, 0.0)
    assert not check.passed
    assert "way 2: 1 of 3 samples get another label or depth than way 0" in check.seen


def test_a_depth_that_differs_counts_although_the_label_does_not() -> None:
    labels = np.zeros(3, int)
    answers = {"a": (labels, np.array([1, 1, 2])), "b": (labels, np.array([1, 2, 2]))}
    assert not sanity.same_answers(answers, np.ones(3, bool), 0.0).passed
    assert sanity.same_answers(answers, np.array([True, False, True]), 0.0).passed  # rounding could have done it
    assert not sanity.same_answers(answers, np.array([True, False, True]), 0.1).passed  # equal calls that differ


def test_a_stronger_attack_that_finds_significantly_less_is_a_fault() -> None:
    """Two samples may be chance (p = 0.25), seven are not (p = 0.008)."""
    for weaker, passed in ((150, True), (148, True), (143, False)):
        rows = [("FGSM", flags(weaker)), ("PGD", flags(150))]
        assert sanity.stronger_is_lower(rows).passed is passed


def test_a_break_that_is_lost_on_the_way_is_a_fault() -> None:
    rows = [("FGSM", flags(150)), ("PGD", flags(140))]
    assert "3 samples were broken on the way and given back unbroken" in sanity.stronger_is_lower(rows, 3).seen
    assert not sanity.stronger_is_lower(rows, 3).passed
    broken = sanity.stronger_is_lower(rows, 0, 2)
    assert "2 certified samples were broken: the bounds or the attacks are at fault" in broken.seen
    assert not broken.passed


def test_twice_the_steps_may_find_what_sampling_error_explains() -> None:
    """1 of 64 is within it (lower end 0.02 %), 6 of 64 are not (2.8 %)."""
    assert sanity.doubling_steps(0, 64, 0.5).passed
    assert sanity.doubling_steps(1, 64, 0.5).passed
    assert not sanity.doubling_steps(6, 64, 0.5).passed
    assert sanity.doubling_steps(0, 0, 0.0).passed


def test_a_huge_eps_must_break_everything() -> None:
    def check(*right: int) -> Check:
        return sanity.larger_eps([(eps, flags(n)) for eps, n in zip((0.1, 0.2, 0.5, 1.0), right, strict=True)], 10)

    assert check(150, 50, 0, 0).passed
    assert check(150, 50, 25, 0).passed  # 12.5 % of 200 is chance within the error
    assert not check(150, 50, 40, 0).passed
    assert not check(150, 50, 25, 25).passed
    assert "eps 0.2 breaks less than 0.1" in check(50, 150, 0, 0).seen


@pytest.mark.parametrize(("broken", "passed"), [(0, True), (2, True), (4, False)])
def test_attacks_without_gradients_may_add_two_of_a_thousand(broken: int, passed: bool) -> None:
    assert sanity.black_box_adds_little(broken, 200).passed is passed


def test_an_undefended_twin_must_lose_half() -> None:
    assert sanity.twin_is_broken(flags(160), flags(20)).passed
    assert not sanity.twin_is_broken(flags(160), flags(120)).passed
    assert not sanity.twin_is_broken(flags(160), flags(20), most=0.01).passed


def test_samples_without_a_gradient_are_counted() -> None:
    gradients = np.ones((4, 3))
    gradients[0], gradients[1, 2] = 0, np.nan
    gradients[2, :2] = 0
    assert sanity.share_without(gradients) == 0.5
    assert sanity.gradients_arrive({"member 1": 0.0, "stop 1": 0.005}).passed
    check = sanity.gradients_arrive({"member 1": 0.0, "stop 1": 0.5})
    assert not check.passed
    assert check.seen == "no gradient: stop 1 50 % of samples"


def test_both_ends_of_the_threshold_are_compared() -> None:
    first, whole = (np.zeros(3, int), np.ones(3, int)), (np.ones(3, int), np.full(3, 2))
    assert sanity.ends_of_threshold(first, first, whole, whole).passed
    assert not sanity.ends_of_threshold(first, first, first, whole).passed


def test_a_deployed_model_that_resists_is_another_model() -> None:
    assert sanity.deployed_falls_too(0, 40, 0, 32).passed
    assert not sanity.deployed_falls_too(1, 40, 0, 32).passed
    assert not sanity.deployed_falls_too(0, 40, 8, 32).passed
