"""From a run's view to its points: what enters the frontier, and how a person chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eed_search.config.spec import Constraints
from eed_search.core.errors import RunError
from eed_search.frontier.estimate import select
from eed_search.frontier.points import (
    frontier,
    measurement_of,
    normalised,
    points,
    run_hypervolume,
    stalled,
    violations,
)
from eed_search.runs.ledger import RunView
from eed_search.runs.records import SweptPoint
from tests.tracking.factories import BASE_MS, make_latency, make_measurement, make_spec, make_trial, make_view


def _view(*measured: tuple[float, float]) -> RunView:
    """Build a run whose trials have the robust accuracies and milliseconds given."""
    trials = {i: make_trial(i, measurement=make_measurement(robust, ms)) for i, (robust, ms) in enumerate(measured)}
    return make_view(0, trials=trials)


THREE = _view((0.80, 0.40), (0.70, 0.10), (0.78, 0.15), (0.60, 0.20))


def test_only_done_trials_are_points() -> None:
    """Infeasible, pruned and failed trials give no point."""
    view = make_view(10)
    assert [p.id for p in points(view)] == [f"{i}.0" for i in (0, 1, 2, 4, 7, 8, 9)]


def test_a_noisy_latency_is_no_point() -> None:
    """What could not be timed is not ranked."""
    noisy = make_measurement(0.9, 0.1, latency=make_latency(0.1, noisy=True))
    assert points(make_view(0, trials={0: make_trial(0, measurement=noisy)})) == []


def test_final_latencies_replace_the_searchs() -> None:
    """The cascade's own time counts where it was taken."""
    final = make_latency(0.3, method="cascade")
    view = replace(THREE, latencies={"1.0": final})
    assert next(p for p in points(view) if p.id == "1.0").measurement.latency == final
    assert [p.id for p in frontier(view)] == ["2.0", "0.0"]


def test_the_frontier_is_fastest_first() -> None:
    """The dominated trial is left out, the others stand by latency."""
    assert [p.id for p in frontier(THREE)] == ["1.0", "2.0", "0.0"]


def test_hypervolume_of_one_point_by_hand() -> None:
    """82 % robust at a quarter of the base's latency: (1 - 0.2) x 0.75 of the square."""
    view = _view((0.82, BASE_MS / 4))
    assert run_hypervolume(view) == pytest.approx((1 - 0.18 / 0.9) * 0.75)


def test_a_run_without_base_has_no_hypervolume() -> None:
    """Before the base is measured there is nothing to compare with."""
    view = make_view(0, base=None)
    assert run_hypervolume(view) == 0.0
    with pytest.raises(RunError, match=r"^run digits: has no dense base yet; wait for it or look at its log$"):
        normalised(view, [])


@pytest.mark.parametrize(
    ("wish", "chosen"), [("fastest", "1.0"), ("most-robust", "0.0"), ("knee", "2.0"), ("3.0", "3.0")]
)
def test_select_by_wish(wish: str, chosen: str) -> None:
    """The ends, the balance, or any finished trial by its id."""
    assert select(THREE, wish).id == chosen


@pytest.mark.parametrize(
    ("wish", "limits", "chosen"),
    [
        ("most-robust", {"max_latency_ms": 0.2}, "2.0"),
        ("most-robust", {"max_latency_ms": 0.15}, "2.0"),  # the limit itself is kept
        ("fastest", {"min_robust_accuracy": 0.75}, "2.0"),
        ("knee", {"min_robust_accuracy": 0.79}, "0.0"),
    ],
)
def test_select_within_limits(wish: str, limits: dict[str, float], chosen: str) -> None:
    """Points outside the limits are left out first."""
    assert select(THREE, wish, **limits).id == chosen


def test_select_names_what_there_is() -> None:
    """An unknown id lists the known ones."""
    with pytest.raises(RunError) as caught:
        select(THREE, "9.0")
    assert str(caught.value) == (
        "--select 9.0: no such point; allowed: knee, fastest, most-robust, or one of 0.0, 1.0, 2.0, 3.0"
    )


def test_select_by_id_keeps_the_limits_too() -> None:
    """A point that breaks a limit is not given although it was named."""
    with pytest.raises(RunError) as caught:
        select(THREE, "0.0", max_latency_ms=0.2)
    assert str(caught.value) == (
        "--select 0.0: takes 0.4 ms and has 80.0 % robust accuracy, which breaks a limit; loosen --max-latency-ms or --min-robust-accuracy"
    )


def test_select_says_what_can_be_reached() -> None:
    """Limits that nothing keeps: the best of each is named."""
    with pytest.raises(RunError) as caught:
        select(THREE, "knee", max_latency_ms=0.01, min_robust_accuracy=0.9)
    assert str(caught.value) == (
        "run digits: no frontier point keeps both limits; the most robust has 80.0 %, the fastest takes 0.1 ms. Loosen --max-latency-ms or --min-robust-accuracy"
    )


def test_select_in_an_empty_run() -> None:
    """Nothing finished: nothing to select."""
    with pytest.raises(RunError, match=r"^run digits: has no finished trial, so there is nothing to select$"):
        select(make_view(0), "knee")
    with pytest.raises(RunError, match=r"or one of none \(no finished trial\)$"):
        select(make_view(0), "1.0")


def test_constraints_measure_by_how_much_they_are_broken() -> None:
    """Above 0 is broken, at most 0 is kept, in the limit's own unit; limits not given are left out."""
    base = make_view(0).base
    assert base is not None
    measured = make_measurement(0.8, 0.4, latency=make_latency(0.4, 1.2))
    limits = Constraints(min_robust_accuracy=0.9, max_latency_ms=0.5, max_worst_case_slowdown=1.0)
    assert violations(dict(limits), measured, base) == pytest.approx(
        {"min_robust_accuracy": 0.1, "max_latency_ms": -0.1, "max_worst_case_slowdown": 0.5}
    )


def test_a_confirmed_threshold_that_breaks_a_limit_is_no_point() -> None:
    """The bound kept it; what an attack at the threshold itself found does not."""
    trial = make_trial(0, swept=(SweptPoint(0.5, make_measurement(0.8, 0.2)),))
    limits = {"search": {"constraints": {"min_robust_accuracy": 0.75}}}
    for robust, ids in ((0.76, ["0.0", "0.1"]), (0.74, ["0.0"])):
        confirmed = {"0.1": make_measurement(robust, 0.2)}
        view = make_view(0, trials={0: trial}, confirmed=confirmed, spec=make_spec(**limits).to_plain())
        assert [p.id for p in points(view)] == ids


def test_a_noisy_final_latency_replaces_the_searchs_too() -> None:
    """The deployed cascade's own time is never ranked beside a sum of member latencies."""
    noisy = make_latency(0.3, method="cascade", noisy=True)
    found = points(replace(THREE, latencies={"1.0": noisy}))[1].measurement.latency
    assert found == noisy


def test_a_point_without_a_latency_to_rank_by_is_among_those_timed_at_the_end() -> None:
    """It is off the frontier until its final latency comes."""
    noisy = make_measurement(0.9, 0.1, latency=make_latency(0.1, noisy=True))
    view = make_view(0, trials={0: make_trial(0, measurement=noisy)})
    assert [p.id for p in frontier(view, unrankable=True)] == ["0.0"]


def test_one_team_at_one_threshold_is_one_point() -> None:
    """Trial 1 came to trial 0's team: what the sweep found of both is the earlier trial's, its own threshold is not."""
    team = make_measurement(0.8, 0.2, members=2, artifact="team.1/a")
    slower = replace(team, latency=make_latency(0.3))
    trials = {
        number: make_trial(
            number,
            params={"gate_threshold": threshold},
            measurement=slower if number else team,
            swept=(SweptPoint(0.5, team), SweptPoint(0.6 + number / 10, team)),
        )
        for number, threshold in enumerate((0.3, 0.4))
    }
    view = make_view(0, trials=trials)
    assert [p.id for p in points(view, unconfirmed=True)] == ["0.0", "0.1", "0.2", "1.0", "1.2"]
    assert [p.id for p in points(view, unconfirmed=True, twins=True)][3:] == ["1.0", "1.1", "1.2"]
    confirmed = replace(view, confirmed={"0.1": team, "1.1": team})
    assert [p.id for p in points(confirmed)] == ["0.0", "0.1", "1.0"]
    assert select(confirmed, "1.1").id == "1.1"
    assert measurement_of(confirmed, "1.1") == team


def test_a_single_network_is_one_point_whatever_its_threshold() -> None:
    """There is no gate to ask."""
    network = make_measurement(0.8, 0.2, artifact="team.1/a")
    trials = {n: make_trial(n, params={"gate_threshold": 0.3 + n}, measurement=network) for n in (0, 1)}
    assert [p.id for p in points(make_view(0, trials=trials))] == ["0.0"]


def _ended(*measured: tuple[float, float]) -> RunView:
    view = _view(*measured)
    return replace(view, history=[("result", number) for number in view.trials])


@pytest.mark.parametrize(("patience", "expected"), [(None, False), (1, True), (2, True), (3, False), (9, False)])
def test_a_search_stalls_when_its_last_trials_add_nothing(patience: int | None, expected: bool) -> None:
    """The second trial is the best there is; two more follow it."""
    view = _ended((0.70, 0.20), (0.80, 0.10), (0.75, 0.20), (0.60, 0.15))
    assert stalled(view, patience) is expected


def test_a_search_that_grows_does_not_stall() -> None:
    assert not stalled(_ended((0.70, 0.20), (0.75, 0.20), (0.80, 0.20)), 1)
