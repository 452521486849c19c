"""What is left to do when the trials are over follows from the run's view alone."""

from __future__ import annotations

from dataclasses import replace

from eed_search.core.ledger import RunView
from eed_search.core.params import TrialParams
from eed_search.core.points import frontier
from eed_search.core.records import FreshCheck, SweptPoint
from eed_search.search.finals import Final, What, next_final
from tests.tracking.factories import make_latency, make_measurement, make_trial, make_view


def _view() -> RunView:
    """Two trials; the second has a swept threshold whose bound is on the frontier."""
    slow = make_trial(0, measurement=make_measurement(0.80, 0.30))
    swept = SweptPoint(0.2, make_measurement(0.79, 0.10))
    team = make_trial(1, measurement=make_measurement(0.78, 0.20))
    return make_view(0, trials={0: slow, 1: replace(team, swept=(swept,))}, controls=[], latencies={})


def _do(view: RunView, final: Final, robust: float) -> None:
    for one in final.finalists:
        if final.what == "confirm":
            view.confirmed[one.id] = make_measurement(robust, 0.10)
        elif final.what == "final_latencies":
            view.latencies[one.id] = make_latency({"1.1": 0.1, "1.0": 0.2}.get(one.id, 0.3), method="cascade")
        else:
            fresh = make_measurement(0.7, 0.1)
            view.fresh[one.id] = FreshCheck(fresh.clean_accuracy, fresh.robust_accuracy, fresh.robust_hex)


def _play(view: RunView, robust: float, *, together: bool = True) -> list[tuple[str, list[str]]]:
    done = []
    while (one := next_final(view, together=together)) is not None:
        _do(view, one, robust)
        done.append((str(one.what), [finalist.id for finalist in one.finalists]))
    return done


def test_a_bound_is_confirmed_first_then_all_are_timed_together_then_checked() -> None:
    view = _view()
    assert view.base is not None
    base = view.base.name
    assert _play(view, 0.785) == [
        ("confirm", ["1.1"]),
        ("final_latencies", [base, "1.1", "0.0"]),
        ("recheck", [base]),
        ("recheck", ["1.1"]),
        ("recheck", ["0.0"]),
    ]


def test_one_by_one_where_they_cannot_be_timed_together() -> None:
    done = _play(_view(), 0.785, together=False)
    assert [len(ids) for what, ids in done if what == "final_latencies"] == [1, 1, 1]


def test_a_bound_that_falls_gives_its_place_back() -> None:
    view = _view()
    done = _play(view, 0.30)
    assert ("recheck", ["1.0"]) in done
    assert [p.id for p in frontier(view)] == ["1.1", "1.0", "0.0"]


def test_what_cannot_be_confirmed_hides_nothing() -> None:
    view = _view()
    found = next_final(view, {("confirm", "1.1")})
    assert found is not None
    assert found.what == "final_latencies"
    tried: set[tuple[What, str]] = {("confirm", "1.1")}
    while (one := next_final(view, tried)) is not None:
        _do(view, one, 0.0)
    assert "1.0" in view.latencies
    assert "1.1" not in view.fresh


def test_a_point_to_confirm_brings_its_threshold_and_its_bound() -> None:
    found = next_final(_view())
    assert found is not None
    given = found.arguments()
    assert isinstance(given["params"], TrialParams)
    assert given["params"].gate_threshold == 0.2
    assert given["bound"].robust_accuracy.value == 0.79


def test_without_a_base_there_is_nothing_to_do() -> None:
    assert next_final(RunView()) is None
