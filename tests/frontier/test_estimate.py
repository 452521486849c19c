"""Which points a run reports as its frontier, which may belong, and how a person chooses one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eed_search.core.errors import RunError, SpecError
from eed_search.frontier.estimate import decide, estimate_frontier, first_probabilities, is_decided, plan_of, select
from eed_search.frontier.points import frontier
from eed_search.frontier.selection import plan_rounds
from eed_search.runs.ledger import RunView
from eed_search.runs.records import (
    Accuracy,
    FreshCheck,
    RobustAccuracy,
    SweptPoint,
    ValidationRound,
    pack_bits,
    unpack_bits,
)
from tests.tracking.factories import NUM_SAMPLES, make_latency, make_measurement, make_spec, make_trial, make_view


def _view(*measured: tuple[float, float], **search: Any) -> RunView:
    """Build a run whose trials have the robust accuracies and milliseconds given; more of its file under `search`."""
    trials = {i: make_trial(i, measurement=make_measurement(robust, ms)) for i, (robust, ms) in enumerate(measured)}
    return _with(make_view(0, trials=trials), **search)


def _with(view: RunView, *, num_fresh: int = 200, **search: Any) -> RunView:
    spec = view.spec
    data = spec["data"] | {"num_fresh": num_fresh}
    return replace(view, spec=spec | {"search": spec["search"] | search, "data": data})


def _lucky(**changes: Any) -> RunView:
    """A fast network, and a slower one that is right on three more images, but on others."""
    fast, slow = make_measurement(0.70, 0.1), make_measurement(0.71, 0.2)
    others = pack_bits(np.roll(unpack_bits(slow.robust_hex, NUM_SAMPLES), NUM_SAMPLES // 4))
    trials = {0: make_trial(0, measurement=fast), 1: make_trial(1, measurement=replace(slow, robust_hex=others))}
    return _with(make_view(0, trials=trials), **changes)


THREE = _view((0.80, 0.40), (0.70, 0.10), (0.78, 0.15), (0.60, 0.20))


def _check(right: np.ndarray) -> FreshCheck:
    return FreshCheck(
        Accuracy.of(right), RobustAccuracy.of(right, attack="PGD-20", eps=0.15, badge="proxy"), pack_bits(right)
    )


def test_who_is_right_on_the_images_of_a_faster_one_and_on_more_is_sure() -> None:
    found = estimate_frontier(THREE)
    assert [p.id for p in found.front] == ["1.0", "2.0", "0.0"]
    assert found.probability == {"1.0": 1.0, "2.0": 1.0, "0.0": 1.0}
    assert found.uncertain == []
    assert found.reached
    assert not found.decided


def test_a_lead_on_other_images_may_be_luck() -> None:
    """It is on the apparent frontier, and not reported; it may belong."""
    view = _lucky()
    assert [p.id for p in frontier(view)] == ["0.0", "1.0"]
    found = estimate_frontier(view)
    assert [p.id for p in found.front] == ["0.0"]
    assert [p.id for p in found.uncertain] == ["1.0"]
    assert 0.4 < found.probability["1.0"] < 0.75


@pytest.mark.parametrize(("threshold", "front"), [(0.0, ["0.0", "1.0"]), (0.4, ["0.0", "1.0"]), (1.0, ["0.0"])])
def test_the_file_says_how_sure_a_point_must_be(threshold: float, front: list[str]) -> None:
    assert [p.id for p in estimate_frontier(_lucky(front_probability=threshold)).front] == front


def test_the_surest_is_shown_where_none_reaches_the_threshold() -> None:
    """Two that cannot be told apart: each may be faster, and neither is sure."""
    right = np.arange(NUM_SAMPLES) < 200
    other = np.roll(right, 50)
    measured = [
        make_measurement(0.667, ms, robust_hex=pack_bits(bits), latency=make_latency(ms))
        for ms, bits in ((0.200, right), (0.2001, other))
    ]
    view = _with(
        make_view(0, trials={i: make_trial(i, measurement=m) for i, m in enumerate(measured)}), front_probability=0.99
    )
    found = estimate_frontier(view)
    assert not found.reached
    assert (len(found.front), len(found.uncertain)) == (1, 1)
    assert found.probability[found.front[0].id] >= found.probability[found.uncertain[0].id]


def test_without_points_nothing_is_reported() -> None:
    found = estimate_frontier(make_view(0, trials={}))
    assert (found.front, found.uncertain, found.probability) == ([], [], {})


def test_a_point_that_was_given_up_on_the_way_is_no_contender() -> None:
    """It was evaluated on fewer images than the others."""
    half = make_measurement(0.9, 0.05)
    bits = unpack_bits(half.robust_hex, NUM_SAMPLES)[:100]
    fewer = replace(half, robust_accuracy=replace(half.robust_accuracy, num_samples=100), robust_hex=pack_bits(bits))
    view = replace(THREE, trials=THREE.trials | {9: make_trial(9, measurement=fewer)})
    assert "9.0" not in first_probabilities(view)
    assert [p.id for p in estimate_frontier(view).front] == ["1.0", "2.0", "0.0"]


def test_a_bound_is_judged_and_judges_nobody() -> None:
    """A swept threshold that no attack has confirmed: only those who ask for it see it."""
    swept = SweptPoint(0.3, make_measurement(0.85, 0.05))
    view = replace(THREE, trials=THREE.trials | {0: replace(THREE.trials[0], swept=(swept,))})
    assert "0.1" not in first_probabilities(view)
    found = first_probabilities(view, unconfirmed=True)
    assert found["0.1"] == 1.0
    assert found["1.0"] == 1.0  # though the bound is better and faster
    assert [p.id for p in estimate_frontier(view).front] == ["1.0", "2.0", "0.0"]


# ---------------------------------------------------------------- looks


def test_few_fresh_images_choose_nothing() -> None:
    """200 beside the 300 that ranked: look 0 decides."""
    view = _lucky()
    assert plan_of(view) == plan_rounds(300, 200)
    view.validation_rounds.append(decide(view, 0))
    assert is_decided(view)
    assert estimate_frontier(view).decided


def test_fresh_images_move_the_frontier() -> None:
    """300 more on which the slower one is not better: it leaves."""
    view = _lucky(num_fresh=1000)
    view.validation_rounds.append(decide(view, 0))
    assert not is_decided(view)
    assert set(view.validation_rounds[0].left) == {"0.0", "1.0"}
    fast, slow = np.arange(300) < 240, np.arange(300) < 180
    view.slices = {"0.0": {0: _check(fast)}, "1.0": {0: _check(slow)}}
    view.validation_rounds.append(decide(view, 1))
    assert view.validation_rounds[1].left == ("0.0",)
    assert is_decided(view)
    found = estimate_frontier(view)
    assert ([p.id for p in found.front], found.uncertain, found.num_rounds_taken) == (["0.0"], [], 1)


def test_who_could_not_be_checked_keeps_its_probability() -> None:
    view = _lucky(num_fresh=1000)
    view.validation_rounds.append(decide(view, 0))
    view.slices = {"0.0": {0: _check(np.arange(300) < 240)}}
    look = decide(view, 1)
    assert look.probability["1.0"] == view.validation_rounds[0].probability["1.0"]


def test_a_base_alone_has_its_own_images_to_plan_by() -> None:
    """No trial came to its end: the base and the baselines are still checked on a whole slice."""
    view = _with(make_view(0, trials={}), num_fresh=1000)
    assert plan_of(view) == plan_rounds(NUM_SAMPLES, 1000)


# ---------------------------------------------------------------- one point


def test_select_takes_the_reported_frontier_and_any_point_by_its_id() -> None:
    view = _lucky()
    assert select(view, "most-robust").id == "0.0"
    assert select(view, "1.0").id == "1.0"
    assert select(_lucky(front_probability=0.1), "most-robust").id == "1.0"


def test_select_says_what_can_be_reached_on_the_reported_frontier() -> None:
    with pytest.raises(RunError, match=r"no frontier point keeps both limits; the most robust has 70\.0 %"):
        select(_lucky(), "knee", min_robust_accuracy=0.705)


def test_a_look_survives_the_ledger() -> None:
    """As JSON and back, nothing lost."""
    from eed_search.runs.records import from_json, to_json

    look = decide(_lucky(), 0)
    assert from_json(ValidationRound, to_json(look)) == look


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "1.5 is outside the allowed 0..1"),
        (-0.1, "-0.1 is outside the allowed 0..1"),
        ("high", "'high' is not a number; allowed: 0..1"),
        (float("nan"), "search.front_probability"),
    ],
)
def test_a_threshold_that_is_no_probability_is_one_error(value: object, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(search={"front_probability": value})
    assert words in str(caught.value)
    assert str(caught.value).count("search.front_probability") == 1
