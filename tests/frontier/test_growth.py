"""The frontier's growth agrees with what all trials together say, after every trial."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eed_search.frontier.growth import Growth
from eed_search.frontier.points import frontier, run_hypervolume
from eed_search.runs.ledger import RunView, fold
from tests.runs.ledgers import events_of
from tests.tracking.factories import make_latency, make_view


def follow(view: RunView, order: list[int]) -> None:
    """Let trials end in an order, and ask after each."""
    growth, so_far = Growth(), replace(view, trials={}, history=[])
    for number in order:
        so_far.trials[number] = view.trials[number]
        so_far.history.append(("result", number))
        volume, size = growth.now(so_far)
        assert volume == pytest.approx(run_hypervolume(so_far), abs=1e-12)
        assert size == len(frontier(so_far))


@pytest.mark.parametrize("step", [1, 7, 11])
def test_after_each_trial_it_is_what_all_together_say(step: int) -> None:
    view = make_view(24)
    follow(view, [n * step % 24 for n in range(24)])


def test_a_twin_that_ends_first_gives_way_to_the_earlier_trial() -> None:
    """Two trials of one team whose latencies differ: the smaller number counts, whenever it ends."""
    view = make_view(24)
    done = [n for n, trial in view.trials.items() if trial.outcome == "done"]
    first, second = done[0], done[1]
    made = view.trials[first].measurement
    assert made is not None
    twin = replace(made, latency=make_latency(0.9 * made.latency.latency_ms.value))
    view.trials[second] = replace(view.trials[first], number=second, measurement=twin)
    follow(view, [second, first, *done[2:]])
    follow(view, [first, second, *done[2:]])


def test_a_trial_that_could_not_be_timed_does_not_count() -> None:
    view = make_view(12)
    for number, trial in view.trials.items():
        if trial.measurement is not None and number % 2:
            noisy = replace(trial.measurement.latency, noisy=True)
            view.trials[number] = replace(trial, measurement=replace(trial.measurement, latency=noisy))
    follow(view, list(view.trials))


def test_final_latencies_replace_what_was_known() -> None:
    """One event after the other, the finals' included."""
    view = make_view(24)
    best = frontier(view)
    final = {point.id: make_latency(3 * point.measurement.latency.latency_ms.value) for point in best[:2]}
    growth, so_far = Growth(), RunView()
    for event in events_of(replace(view, latencies=final)):
        fold(so_far, event)
        if so_far.base is not None:
            volume, size = growth.now(so_far)
            assert (volume, size) == (pytest.approx(run_hypervolume(so_far), abs=1e-12), len(frontier(so_far)))
