"""What is left to do when the trials are over follows from the run's view alone, looks included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from eed_search.config.params import TrialParams
from eed_search.frontier.estimate import estimate_frontier
from eed_search.runs.events import RunDescribed, TrialEnded, TrialProposed
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, fold, read_run
from eed_search.runs.records import (
    Accuracy,
    FreshCheck,
    Interval,
    Latency,
    Measurement,
    RobustAccuracy,
    SweptPoint,
    ValidationRound,
    pack_bits,
    unpack_bits,
)
from eed_search.search.journal import Journal
from eed_search.search.listener import Silent
from eed_search.search.revalidation import Mark, RevalidationStep, next_step
from tests.tracking.factories import make_latency, make_measurement, make_trial, make_view

NUM_FRESH = 200


def _view(num_fresh: int = NUM_FRESH) -> RunView:
    """Two trials; the second has a swept threshold whose bound is on the frontier.

    The slow one is right on a few more images, but on others where looks are to follow: its lead may be luck.
    """
    best = make_measurement(0.80, 0.30)
    others = np.roll(unpack_bits(best.robust_hex, 300), 75 if num_fresh > NUM_FRESH else 0)
    slow = make_trial(0, measurement=replace(best, robust_hex=pack_bits(others)))
    swept = SweptPoint(0.2, make_measurement(0.79, 0.10))
    team = make_trial(1, measurement=make_measurement(0.78, 0.20))
    view = make_view(0, trials={0: slow, 1: replace(team, swept=(swept,))}, baselines=[], latencies={})
    view.spec["data"] |= {"num_fresh": num_fresh}
    return view


def _value(final: RevalidationStep, id_: str, robust: float) -> Latency | Measurement | FreshCheck:
    """What a measurement finds: at the swept threshold 78.5 %, and `robust` of the fresh images."""
    if final.what == "confirm":
        return make_measurement(min(robust, 0.785), 0.10)
    if final.what == "final_latencies":
        ms = {"1.1": 0.1, "1.0": 0.2, "2.0": 0.05}.get(id_, 0.3)
        return replace(make_latency(ms, method="cascade"), latency_ms=Interval(ms, 0.99 * ms, 1.01 * ms))
    num = final.images[1] - final.images[0]
    right = np.arange(num) < round(num * {"0.0": 0.80, "1.1": robust, "2.0": 0.83}.get(id_, 0.5))
    found = RobustAccuracy.of(right, attack="PGD-20", eps=0.15, badge="proxy")
    return FreshCheck(Accuracy.of(right), found, pack_bits(right))


def _do(journal: Journal, one: RevalidationStep | ValidationRound, robust: float) -> None:
    if isinstance(one, ValidationRound):
        journal.look(one)
        return
    for finalist in one.finalists:
        journal.final(finalist.id, _value(one, finalist.id, robust), one.chose_from)


def _journal(view: RunView, folder: Path) -> Journal:
    """Write a view's facts into a ledger, as a driver would have."""
    ledger = Ledger(folder / FILE_NAME, write=True)
    journal = Journal(ledger, Silent(), 2, 1)
    journal.append(RunDescribed(view.name, view.spec, view.facts, uid="u"))
    if view.base is not None:
        journal.base(view.base)
    for number, trial in view.trials.items():
        journal.append(TrialProposed(number, trial.params))
        journal.append(TrialEnded(trial))
    return journal


def _play(journal: Journal, robust: float, *, together: bool = True, steps: int = 100) -> list[tuple[str, list[str]]]:
    done: list[tuple[str, list[str]]] = []
    while len(done) < steps and (one := next_step(journal.view, together=together)) is not None:
        _do(journal, one, robust)
        if isinstance(one, ValidationRound):
            done.append((f"look {one.number}", list(one.left)))
        else:
            chooses = f" {one.images[0]}-{one.images[1]}" if one.chooses else ""
            done.append((one.what + chooses, [finalist.id for finalist in one.finalists]))
    return done


BASE = "dense base"


def test_a_bound_is_confirmed_first_then_all_are_timed_together_then_chosen_then_checked(tmp_path: Path) -> None:
    """Few fresh images: none of them chooses."""
    assert _play(_journal(_view(), tmp_path), 0.785) == [
        ("confirm", ["1.1"]),
        ("final_latencies", [BASE, "0.0", "1.1"]),
        ("look 0", ["0.0", "1.1"]),
        ("recheck", [BASE]),
        ("recheck", ["0.0"]),
        ("recheck", ["1.1"]),
    ]


def test_fresh_images_choose_where_there_are_enough(tmp_path: Path) -> None:
    """900 beside the 300 that ranked: two looks and a last slice; what is reported is timed once more."""
    journal = _journal(_view(900), tmp_path)
    done = _play(journal, 0.785)
    assert done[2:] == [
        ("look 0", ["0.0", "1.1"]),
        ("recheck 0-300", ["0.0"]),
        ("recheck 0-300", ["1.1"]),
        ("look 1", ["0.0", "1.1"]),
        ("recheck 300-600", ["0.0"]),
        ("recheck 300-600", ["1.1"]),
        ("look 2", ["0.0", "1.1"]),
        ("final_latencies", ["0.0", "1.1"]),
        ("recheck", [BASE]),
        ("recheck", ["0.0"]),
        ("recheck", ["1.1"]),
    ]
    assert {len(taken) for id_, taken in journal.view.timings.items() if id_ != BASE} == {2}
    assert journal.view.fresh.keys() == {BASE, "0.0", "1.1"}
    assert all(check.robust_accuracy.num_samples == 300 for check in journal.view.fresh.values())


def test_who_is_surely_beaten_leaves_after_a_look(tmp_path: Path) -> None:
    """On fresh images the fast one is the better one too: the slow one is not measured on."""
    journal = _journal(_view(5000), tmp_path)
    done = _play(journal, 0.95)
    assert ("look 1", ["1.1"]) in done
    assert not any(what.startswith("recheck 300") for what, _ in done)
    assert [p.id for p in estimate_frontier(journal.view).front] == ["1.1"]


def test_latencies_whose_order_is_open_are_measured_again(tmp_path: Path) -> None:
    """Two points within a per cent, by looks as many times as slices; the base and a far one no more."""
    view = _view(5100)
    right = make_measurement(0.80, 0.1)
    rolled = np.roll(np.arange(300) < 240, 60)
    near = {
        0: make_trial(0, measurement=right),
        1: make_trial(1, measurement=replace(make_measurement(0.80, 0.1005), robust_hex=pack_bits(rolled))),
    }
    journal = _journal(replace(view, trials=near), tmp_path)
    times = {"0.0": 0.100, "1.0": 0.1005}
    while (one := next_step(journal.view)) is not None:
        if isinstance(one, ValidationRound):
            journal.look(one)
            continue
        for finalist in one.finalists:
            ms = times.get(finalist.id, 0.8)
            found: Latency | FreshCheck = replace(
                make_latency(ms, method="cascade"), latency_ms=Interval(ms, 0.98 * ms, 1.02 * ms)
            )
            if one.what == "recheck":
                num, shift = one.images[1] - one.images[0], 0 if finalist.id == "0.0" else 50
                bits = np.roll(np.arange(num) < 0.8 * num, shift)
                robust = RobustAccuracy.of(bits, attack="PGD-20", eps=0.15, badge="proxy")
                found = FreshCheck(Accuracy.of(bits), robust, pack_bits(bits))
            journal.final(finalist.id, found, one.chose_from)
    assert len(journal.view.timings[BASE]) == 1
    assert len(journal.view.validation_rounds) == 6
    assert journal.view.validation_rounds[-1].timings == {"0.0": 16, "1.0": 16}
    reported = [point.id for point in estimate_frontier(journal.view).front]
    assert [len(journal.view.timings[id_]) for id_ in reported] == [17] * len(reported)  # the last one chose nothing


def test_one_by_one_where_they_cannot_be_timed_together(tmp_path: Path) -> None:
    done = _play(_journal(_view(), tmp_path), 0.785, together=False)
    assert [len(ids) for what, ids in done if what == "final_latencies"] == [1, 1, 1]


def test_a_bound_that_falls_gives_its_place_back(tmp_path: Path) -> None:
    journal = _journal(_view(), tmp_path)
    done = _play(journal, 0.30)
    assert ("recheck", ["1.0"]) in done
    assert [p.id for p in estimate_frontier(journal.view).front] == ["1.1", "1.0", "0.0"]


def test_what_cannot_be_confirmed_hides_nothing(tmp_path: Path) -> None:
    journal = _journal(_view(), tmp_path)
    tried: set[Mark] = {("confirm", "1.1", 0)}
    found = next_step(journal.view, tried)
    assert isinstance(found, RevalidationStep)
    assert found.what == "final_latencies"
    while (one := next_step(journal.view, tried)) is not None:
        _do(journal, one, 0.0)
    assert "1.0" in journal.view.latencies
    assert "1.1" not in journal.view.fresh


def test_what_fails_is_not_asked_for_for_ever(tmp_path: Path) -> None:
    """Checks and timings that find nothing: every look is taken all the same, and the finals end."""
    journal = _journal(_view(5000), tmp_path)
    tried: set[Mark] = set()
    steps = 0
    while (one := next_step(journal.view, tried, together=False)) is not None:
        steps += 1
        assert steps < 50
        if isinstance(one, ValidationRound):
            journal.look(one)
        else:
            tried |= one.marks()
    assert len(estimate_frontier(journal.view).front) > 0


def test_a_point_to_confirm_brings_its_threshold_and_its_bound() -> None:
    found = next_step(_view())
    assert isinstance(found, RevalidationStep)
    given = found.arguments()
    assert isinstance(given["params"], TrialParams)
    assert given["params"].gate_threshold == 0.2
    assert given["bound"].robust_accuracy.value == 0.79


def test_without_a_base_there_is_nothing_to_do() -> None:
    assert next_step(RunView()) is None


def test_a_base_alone_is_timed_and_checked(tmp_path: Path) -> None:
    """All trials failed: no look, no frontier, and no endless finals."""
    journal = _journal(replace(_view(), trials={}), tmp_path)
    assert _play(journal, 0.5) == [("final_latencies", [BASE]), ("recheck", [BASE])]


def test_cut_off_anywhere_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """After every single event of the finals a new reader of the ledger asks for what the undisturbed driver did next."""
    journal = _journal(_view(900), tmp_path)
    whole = _play(journal, 0.785)
    with Ledger(tmp_path / FILE_NAME) as ledger:
        events = list(ledger.events())
    first = next(event.seq for event in events if event.kind == "confirmed")
    for cut in range(first - 1, len(events)):
        view = RunView()
        for event in events[:cut]:
            fold(view, event)
        folder = tmp_path / str(cut)
        folder.mkdir()
        with Ledger(folder / FILE_NAME, write=True) as copied:
            for event in events[:cut]:
                copied.append(event.kind, event.data, event.trial)
            again = Journal(copied, Silent(), 2, 1)
            done = _play(again, 0.785)
            assert again.view.validation_rounds == journal.view.validation_rounds
            assert estimate_frontier(again.view) == estimate_frontier(journal.view)
            assert [step for step in done if step[0].startswith("look")] == [
                step
                for step in whole
                if step[0].startswith("look") and step[1:] and int(step[0][5:]) >= len(view.validation_rounds)
            ]


def test_the_view_is_what_a_later_reader_finds(tmp_path: Path) -> None:
    """Looks, slices and timings are folded from the ledger."""
    journal = _journal(_view(900), tmp_path)
    _play(journal, 0.785)
    assert len(journal.view.validation_rounds) == 3
    assert read_run(tmp_path) == journal.view


def test_another_trial_opens_the_choice_again(tmp_path: Path) -> None:
    """It may beat those who were chosen: the looks are void, what was measured is not."""
    journal = _journal(_view(900), tmp_path)
    _play(journal, 0.785)
    checked = journal.view.slices["1.1"]
    journal.result(make_trial(2, measurement=make_measurement(0.83, 0.05)))
    assert journal.view.validation_rounds == []
    done = _play(journal, 0.785)
    assert next(step for step in done if step[0] == "final_latencies") == ("final_latencies", ["2.0"])
    assert journal.view.slices["1.1"] == checked
    assert "2.0" in [p.id for p in estimate_frontier(journal.view).front]
    assert not any(what == "recheck 0-300" and ids == ["1.1"] for what, ids in done)


def test_a_lower_threshold_has_its_new_points_checked_and_nothing_chosen_again(tmp_path: Path) -> None:
    """As a resume with another `search.front_probability` does."""
    view = _view(900)
    view.spec["search"] |= {"front_probability": 1.0}
    journal = _journal(view, tmp_path)
    _play(journal, 0.785)
    before = [point.id for point in estimate_frontier(journal.view).front]
    assert len(before) == 1
    journal.view.spec["search"]["front_probability"] = 0.02
    (new,) = (point.id for point in estimate_frontier(journal.view).front if point.id not in before)
    assert _play(journal, 0.785) == [("final_latencies", [new]), ("recheck", [new])]
