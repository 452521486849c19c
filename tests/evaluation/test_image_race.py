"""A team under attack and its incumbents: latencies known beforehand, every threshold counts, parts make the whole."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation.image_race import ImageRace
from eed_search.evaluation.latency import RatioEstimate
from eed_search.evaluation.robust import RobustEvaluation, RobustEvaluator
from eed_search.evaluation.sequential_test import Incumbent, interim_sizes
from eed_search.runs.records import Interval, pack_bits
from tests.evaluation.test_robust import CPU, SETTINGS, linear, samples

NUM = 120
TEAM = GatedEnsemble([linear(0, scale=3.0), linear(1, scale=3.0)], Gate(0.5))
SPLIT = samples(TEAM, NUM)


def examination(sweep: int = 5) -> RobustEvaluator:
    return RobustEvaluator(TEAM, SPLIT, eps=0.05, settings=SETTINGS, seed=0, device=CPU, sweep=sweep)


@pytest.fixture(scope="module")
def whole() -> RobustEvaluation:
    """All looks in one go."""
    one = examination()
    for end in interim_sizes(NUM):
        one.attack(end)
    return one.so_far()


def same(first: RobustEvaluation, second: RobustEvaluation) -> bool:
    return all(
        np.array_equal(getattr(first, one.name), getattr(second, one.name)) for one in fields(RobustEvaluation)
    )  # fmt: skip


@pytest.mark.parametrize("cut", interim_sizes(NUM)[:-1])
def test_an_examination_that_was_cut_off_goes_on_to_the_same_bits(whole: RobustEvaluation, cut: int) -> None:
    first, second = examination(), examination()
    for end in interim_sizes(NUM):
        if end <= cut:
            first.attack(end)
    assert same(first.so_far(), whole.until(cut))
    second.restore(first.state())
    assert second.num_attacked == cut
    for end in interim_sizes(NUM):
        second.attack(end)
    assert same(second.so_far(), whole)


def test_what_was_attacked_is_not_attacked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[int] = []
    attack = RobustEvaluator._attack

    def count(self: RobustEvaluator, where: slice) -> None:
        attacked.extend(range(where.start, where.stop))
        attack(self, where)

    monkeypatch.setattr(RobustEvaluator, "_attack", count)
    first, second = examination(), examination()
    first.attack(30)
    second.restore(first.state())
    second.attack(15)
    second.attack(NUM)
    assert attacked == list(range(NUM))


def test_the_state_of_another_sweep_is_passed_over() -> None:
    first, second = examination(sweep=2), examination(sweep=5)
    first.attack(20)
    second.restore(first.state())
    assert second.num_attacked == 0


# ---------------------------------------------------------------- against incumbents


def ratio(value: float) -> RatioEstimate:
    return RatioEstimate(Interval(value, 0.99 * value, 1.01 * value), value, value, False, 3, 0, None, ())


def incumbent(right: np.ndarray, ms: float, id_: str) -> Incumbent:
    return Incumbent(id_, Interval(ms, ms, ms), float(right.mean()), pack_bits(right), len(right))


def test_a_rival_that_is_faster_than_every_threshold_and_right_everywhere_beats_the_team(
    whole: RobustEvaluation,
) -> None:
    race = ImageRace([incumbent(np.ones(NUM, bool), 0.1, "4.0")], [ratio(0.5), ratio(0.5)], 1.0, 0.0)
    looks = [race.beaten_by(whole.until(end)) for end in interim_sizes(NUM)]
    assert looks[0] == ()  # four images say nothing
    assert looks[-2] == ("4.0",)
    stop = race.stop(whole.until(60))
    assert (stop.num_images, stop.num_all, stop.beaten_by) == (60, NUM, ("4.0",))
    assert stop.robust_accuracy == pytest.approx(whole.robust_right[:60].mean())
    assert stop.latency_ms.value == pytest.approx(0.5 * whole.members_run.mean())


def test_a_threshold_that_no_rival_is_as_fast_as_keeps_the_team(whole: RobustEvaluation) -> None:
    """The incumbent is as fast as the team at its own threshold, not as at the fastest swept one."""
    own, fastest = 0.5 * whole.members_run.mean(), 0.5 * whole.swept_members_run.mean(axis=1).min()
    assert fastest < own
    between = incumbent(np.ones(NUM, bool), (own + fastest) / 2, "4.0")
    race = ImageRace([between], [ratio(0.5), ratio(0.5)], 1.0, 0.0)
    unswept = replace(whole, swept_members_run=whole.members_run[:0], swept_robust_right=whole.robust_right[:0, None])
    assert race.beaten_by(whole.until(60)) == ()
    assert race.beaten_by(unswept.until(60)) == ("4.0",)


def test_where_the_worst_case_ranks_every_threshold_costs_all_members(whole: RobustEvaluation) -> None:
    perfect = incumbent(np.ones(NUM, bool), 0.9, "4.0")
    ratios = [ratio(0.5), ratio(0.5)]
    assert ImageRace([perfect], ratios, 1.0, 0.0, "worst_case").beaten_by(whole.until(60)) == ("4.0",)
    assert ImageRace([perfect], ratios, 1.0, 0.0).beaten_by(whole.until(60)) == ()


def test_nobody_is_beaten_by_nobody(whole: RobustEvaluation) -> None:
    assert ImageRace([], [ratio(0.5), ratio(0.5)], 1.0, 0.0).beaten_by(whole) == ()


def test_the_images_are_in_one_order_for_all() -> None:
    """Flags stand at the images' places in the split, whichever team is attacked."""
    other = GatedEnsemble([linear(2, scale=3.0)], Gate())
    for team in (TEAM, other):
        one = RobustEvaluator(team, SPLIT, eps=0.0, settings=SETTINGS, seed=0, device=CPU)
        one.attack(50)
        with torch.no_grad():
            right = team.decide(SPLIT.images[:50]).labels == SPLIT.labels[:50]
        assert one.so_far().robust_right.tolist() == right.tolist()
