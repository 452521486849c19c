"""What an attack on the gate costs: closed forms, and what stands in where little was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eed_search.config.spec import Constraints
from eed_search.frontier.points import objectives, violations
from eed_search.runs.cost import attacked_speedup, costs, latency_at, latency_of
from eed_search.runs.records import Exits, Interval, Measurement, UnderAttack, from_json, to_json
from tests.tracking.factories import make_measurement, make_view

DENSE = 0.8
CLEAN = (0.75, 0.15, 0.10)
EXIT_MS = (0.10, 0.25, 0.60)
MEAN = 0.75 * 0.10 + 0.15 * 0.25 + 0.10 * 0.60


def team(accuracy: tuple[float, ...] = CLEAN, slowed: tuple[float, ...] = CLEAN, **changes: object) -> Measurement:
    """Three members whose exits take 0.10, 0.25 and 0.60 ms; the dense base takes 0.8 ms."""
    found = make_measurement(0.8, MEAN, members=3)
    latency = replace(
        found.latency,
        latency_ms=Interval(MEAN, 0.9 * MEAN, 1.2 * MEAN),
        worst_case_ms=0.60,
        speedup=Interval(DENSE / MEAN, DENSE / MEAN, DENSE / MEAN),
        worst_case_speedup=DENSE / 0.60,
        exit_ms=EXIT_MS,
    )
    under = UnderAttack(Exits(accuracy, 1000), Exits(slowed, 2000), "S1 slow-down, 10 steps")
    made = replace(found, latency=latency, exit_shares=CLEAN, macs=500, worst_case_macs=4000, under_attack=under)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_latency_under_attack_weighs_each_exits_own_time() -> None:
    """A quarter of the images pushed to the end cost a quarter of the difference."""
    measured = team(slowed=(0.50, 0.15, 0.35))
    assert latency_at(measured, Exits((0.50, 0.15, 0.35), 0)) == pytest.approx(MEAN + 0.25 * (0.60 - 0.10))
    assert costs(measured).slowed is not None
    assert costs(measured).slowed.latency_ms == pytest.approx(MEAN + 0.125)  # type: ignore[union-attr]
    assert costs(measured).slowed.members_run == pytest.approx(0.50 + 2 * 0.15 + 3 * 0.35)  # type: ignore[union-attr]


def test_exits_that_do_not_move_cost_what_they_did_to_the_last_bit() -> None:
    assert latency_at(team(), Exits(CLEAN, 999)) == MEAN


def test_no_attack_costs_more_than_all_members() -> None:
    """Rounding of the exits' times cannot lift the mean above the measured worst case."""
    measured = team()
    tall = replace(measured, latency=replace(measured.latency, exit_ms=(0.0, 0.0, 0.9)))
    assert latency_at(tall, Exits((0.0, 0.0, 1.0), 0)) == 0.60


def test_where_no_exit_was_timed_multiply_accumulates_interpolate() -> None:
    """As for two members, where that is exact."""
    measured = team()
    old = replace(measured, latency=replace(measured.latency, exit_ms=()))
    half_way = Exits((0.4, 0.2, 0.4), (500 + 4000) // 2)
    assert latency_at(old, half_way) == pytest.approx((MEAN + 0.60) / 2)


def test_the_attacked_speed_up_is_that_of_the_slower_attack() -> None:
    slow, fast = (0.50, 0.15, 0.35), (0.70, 0.15, 0.15)
    expected = pytest.approx(DENSE / (MEAN + 0.125))
    assert attacked_speedup(team(accuracy=slow, slowed=fast)) == expected
    assert attacked_speedup(team(accuracy=fast, slowed=slow)) == expected


def test_each_latency_ranks_with_the_clean_ones_relative_interval() -> None:
    measured = team(slowed=(0.50, 0.15, 0.35))
    assert latency_of(measured, "clean") == measured.latency.latency_ms
    for kind, value in (("attacked", MEAN + 0.125), ("worst_case", 0.60)):
        found = latency_of(measured, kind)  # type: ignore[arg-type]
        assert (found.value, found.low, found.high) == pytest.approx((value, 0.9 * value, 1.2 * value))


def test_of_a_run_that_never_slowed_its_gates_the_worst_case_stands_in() -> None:
    """Nothing is claimed that was not measured; nobody ranks better for it."""
    old = team(under_attack=None)
    assert attacked_speedup(old) is None
    assert latency_of(old, "attacked").value == latency_of(old, "worst_case").value


def test_a_single_network_costs_what_it_always_costs() -> None:
    alone = make_measurement(0.8, 0.2)
    assert alone.under_attack is None
    assert attacked_speedup(alone) == alone.latency.speedup.value
    assert latency_of(alone, "attacked") == alone.latency.latency_ms


def test_a_record_of_an_older_version_is_read() -> None:
    """Without exits' times and costs under attack."""
    plain = to_json(team())
    del plain["under_attack"], plain["latency"]["exit_ms"]
    old = from_json(Measurement, plain)
    assert (old.under_attack, old.latency.exit_ms) == (None, ())
    assert from_json(Measurement, to_json(team())) == team()


def test_constraints_limit_the_attacked_latency() -> None:
    """In ms, and as a multiple of the dense base's."""
    base = make_view().base
    assert base is not None
    attacked = MEAN + 0.125
    limits = Constraints(max_attacked_latency_ms=0.25, max_attacked_slowdown=0.5)
    excess = violations(dict(limits), team(slowed=(0.50, 0.15, 0.35)), base)
    assert excess == pytest.approx(
        {"max_attacked_latency_ms": attacked - 0.25, "max_attacked_slowdown": attacked / DENSE - 0.5}
    )
    assert violations(dict(limits), team(), base)["max_attacked_latency_ms"] < 0


def test_the_objective_is_the_latency_that_was_asked_for() -> None:
    """The faster of two on clean images is the slower one under attack."""
    steady, swift = team(), team(slowed=(0.0, 0.0, 1.0))
    swift = replace(swift, latency=replace(swift.latency, latency_ms=Interval(0.9 * MEAN, 0.8 * MEAN, MEAN)))
    clean, attacked = (objectives([steady, swift], kind)[:, 1] for kind in ("clean", "attacked"))  # type: ignore[arg-type]
    assert clean[1] < clean[0]
    assert attacked[0] < attacked[1]
