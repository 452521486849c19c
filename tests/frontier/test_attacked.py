"""What an attack found, from the ledger to the frontier of one badge: nothing mixes, nothing is chosen twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eed_search.core.errors import RunError
from eed_search.frontier.attacked import Settings, badge_frontier, others, refuse_second_claim, result_facts, results
from eed_search.frontier.points import frontier, points
from eed_search.runs.ledger import Event, Ledger, RunView, fold, read_run
from eed_search.runs.records import to_json
from tests.runs.ledgers import events_of, write_ledger
from tests.tracking.factories import make_attack, make_measurement, make_trial, make_view

OTHER_EPS = 0.1


def view(**attacks: list[object]) -> RunView:
    """Three single networks on the frontier by the search's figures: 0.0 slow and robust, 2.0 fast and weak."""
    trials = {i: make_trial(i, measurement=make_measurement(0.8 - 0.05 * i, 0.4 - 0.1 * i)) for i in range(3)}
    found = {name.removeprefix("p").replace("_", "."): kept for name, kept in attacks.items()}
    return make_view(0, trials=trials, attacks=found)


def test_an_attack_is_replayed_from_the_ledger(tmp_path: Path) -> None:
    """With every field, in order."""
    there = view(p0_0=[make_attack(0.7), make_attack(0.6, seed=1)], p2_0=[make_attack(0.5, tier=2)])
    assert read_run(write_ledger(tmp_path, there)).attacks == there.attacks


def test_an_attack_of_another_version_is_passed_over() -> None:
    """It would say other things under the same names."""
    event = {"id": "0.0", "result": to_json(make_attack(0.7)) | {"schema_version": 0}}
    made = RunView()
    fold(made, Event(1, "attack", None, event, 1e9))
    assert made.attacks == {}


def test_an_old_ledger_has_no_attacks(tmp_path: Path) -> None:
    """Nor costs under attack, exits' times or an objective: it is read all the same, and ranks by clean latency."""
    there = view()
    with Ledger(tmp_path / "ledger.sqlite", write=True) as ledger:
        for event in events_of(there):
            data = dict(event.data)
            if event.kind == "run":
                data["spec"] = {**data["spec"], "search": {"trials": 20}}
            if event.kind == "result":
                measured = dict(data["measurement"])
                measured["latency"] = {k: v for k, v in measured["latency"].items() if k != "exit_ms"}
                data["measurement"] = {k: v for k, v in measured.items() if k != "under_attack"}
            ledger.append(event.kind, data, event.trial)
    old = read_run(tmp_path)
    assert old.attacks == {}
    assert [p.id for p in frontier(old)] == ["2.0", "1.0", "0.0"]


def test_time_after_the_end_is_nobodys_work() -> None:
    """An attack written a day later does not make the search longer."""
    there = view()
    made = RunView()
    for event in events_of(there):
        fold(made, event)
    before = made.seconds
    late = {"id": "0.0", "result": to_json(make_attack(0.7)), "offline": True}
    fold(made, Event(made.num_events + 1, "attack", None, late, 1e9 + 86400))
    fold(made, Event(made.num_events + 1, "tracker", None, {"cursor": 1}, 1e9 + 86410))
    assert made.seconds == before
    assert len(made.attacks["0.0"]) == 1


def test_the_last_check_and_the_first_claim_count() -> None:
    """Attacks get better; test images are used once."""
    there = view(
        p0_0=[make_attack(0.7), make_attack(0.65, seed=1), make_attack(0.6, tier=2), make_attack(0.5, tier=2, seed=1)]
    )
    assert results(there, "checked")["0.0"].robust.value == 0.65
    assert results(there, "claim")["0.0"].robust.value == 0.6
    assert [one.robust.value for _, one in others(there)] == [0.7, 0.5]


def test_another_eps_or_fewer_images_stand_in_no_column() -> None:
    there = view(p0_0=[make_attack(0.9, eps=OTHER_EPS)], p1_0=[make_attack(0.7)], p2_0=[make_attack(0.9, num=50)])
    assert set(results(there, "checked")) == {"1.0"}
    assert [id_ for id_, _ in others(there)] == ["0.0", "2.0"]


def test_there_is_no_frontier_of_a_badge_until_all_its_points_have_it() -> None:
    """Two checked points beside one that is only `proxy` would be a mixture."""
    there = view(p0_0=[make_attack(0.7)], p1_0=[make_attack(0.6)])
    found = badge_frontier(there, points(there), "checked")
    assert (found.points, found.missing) == ((), ("2.0",))


def test_the_frontier_of_a_badge_ranks_by_its_own_figures() -> None:
    """The middle point falls behind the fast one once both are checked, whatever the search's figures say."""
    there = view(p0_0=[make_attack(0.7)], p1_0=[make_attack(0.5)], p2_0=[make_attack(0.6)])
    assert [p.id for p in frontier(there)] == ["2.0", "1.0", "0.0"]
    found = badge_frontier(there, points(there), "checked")
    assert (found.points, found.missing, found.invalid) == (("2.0", "0.0"), (), ())


def test_an_invalid_result_is_on_no_frontier() -> None:
    bad = make_attack(0.9, badge="invalid", reasons=("check 9, gradients: 40 % without one",))
    there = view(p0_0=[bad], p1_0=[make_attack(0.5)], p2_0=[make_attack(0.4)])
    found = badge_frontier(there, points(there), "checked")
    assert (found.points, found.invalid) == (("2.0", "1.0"), ("0.0",))


def test_a_second_claim_with_other_settings_is_refused() -> None:
    """The same settings read the finished result; a check at tier 1 stands in nobody's way."""
    there = view(p0_0=[make_attack(0.7), make_attack(0.6, tier=2)])
    same = Settings(0.15, 0, 200)
    refuse_second_claim(there, "0.0", same)
    refuse_second_claim(there, "1.0", replace(same, seed=1))
    for wanted in (replace(same, seed=1), replace(same, eps=0.1), replace(same, num_samples=100)):
        with pytest.raises(RunError) as caught:
            refuse_second_claim(there, "0.0", wanted)
        assert str(caught.value) == (
            "run digits: 0.0 has had its claim on the test images (eps 0.15, seed 0, 200 images); they are used once, so"
            " a second one with other settings is refused. The same settings read the result again; other ones are for"
            " --tier 1"
        )


def test_a_summary_carries_everything_a_figure_rests_on() -> None:
    """n, interval, attacks, budget, eps, seed, badge, and the cost under the slower attack."""
    told = result_facts(make_attack(0.7))
    assert {"value", "low", "high", "num_samples", "attack", "eps", "badge"} <= told["robust_accuracy"].keys()
    assert (told["badge"], told["seed"], told["eps"], told["tier"]) == ("checked", 0, 0.15, 1)
    assert told["attacks"] == [{"id": "G0", "name": "APGD-CE on the executed path", "steps": 50, "restarts": 1}]
    assert told["attacked_speedup"] == pytest.approx(0.8 / 0.4)
