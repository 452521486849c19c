"""A forecast is arithmetic over unit costs: known sums, both ends, and what the store spares."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from eed_search.config.loader import parse
from eed_search.config.params import MemberChoice, TrialParams
from eed_search.config.spec import Recipe, Spec
from eed_search.forecast.cached_stages import CachedStages
from eed_search.forecast.calibration import Curve, UnitCosts
from eed_search.forecast.expected_cost import Forecast, forecast, makespan
from eed_search.forecast.foreseen import Draw, draws
from eed_search.forecast.space_size import plans_of

FLAT = Curve((0.5, 1.0), (1.0, 1.0))
UNITS = UnitCosts(
    num_train=100,
    num_validation=10,
    num_fresh=10,
    image_bytes=256,
    base_step_s=2.0,
    base_attack_s=0.0,
    finetune_step_s={"labels": FLAT, "distill": Curve((0.5, 1.0), (3.0, 3.0))},
    method_image_s={"prune": 0.0},
    baseline_step_s={"labels": FLAT},
    baseline_recipe=Recipe(epochs=9, batch_size=50),
    joint_step_s=FLAT,
    team_factor=1.5,
    scores_s={"nis": 7.0, "erm": 11.0},
    attack_s=Curve((0.5, 1.0), (0.01, 0.01)),
    call_ms=Curve((0.5, 1.0), (0.1, 0.1)),
    settled=True,
    num_bytes=Curve((0.5, 1.0), (100.0, 1000.0)),
    seconds=1.0,
)


def _spec(**search: object) -> Spec:
    return parse(
        {
            "name": "t",
            "threat": {"eps": 0.1},
            "base": {"epochs": 4, "batch_size": 50},
            "members": {"finetune": {"epochs": 3, "batch_size": 50}},
            "joint": {"epochs": 2, "batch_size": 50},
            "evaluation": {"steps": 9},
            "baselines": {"sizes": [0.5], "recoveries": ["labels"]},
            "search": {
                "trials": 3,
                "startup_trials": 1,
                "racing": False,
                "image_racing": False,
                "space": {"score": ["nis", "erm"], "size": [0.5]},
            }
            | search,
        },
        "t",
    )


def _draw(*scores: str, recovery: str = "labels", subsets: str = "all", certain: bool = True) -> Draw:
    members = tuple(MemberChoice(score, 0.5) for score in scores)  # type: ignore[arg-type]
    return Draw(TrialParams(members, subsets, recovery, "fast_first", 0, 0, 0, 1), certain)  # type: ignore[arg-type]


def _seconds(found: Forecast, stage: str) -> tuple[float, float]:
    (cost,) = (one for one in found.stages if one.stage == stage)
    return cost.seconds.low, cost.seconds.high


def test_a_trial_of_one_member_is_the_sum_of_its_stages() -> None:
    """Two steps an epoch: base 4 x 2 x 2 s, baseline 9 x 2, member 3 x 2, joint 2 x 2, its score once."""
    found = forecast(_spec(trials=1), UNITS, [_draw("nis")], CachedStages(), slots=1)
    assert _seconds(found, "base") == (16, 16)
    assert _seconds(found, "baselines") == (18, 18)
    assert _seconds(found, "scores") == (7, 7)
    assert _seconds(found, "members") == (6, 6)
    assert _seconds(found, "joint fine-tuning") == (4, 4)
    # 10 images, 10 forward passes of 0.01 s: baseline and team of one on validation beside the trials.
    assert found.trials_s.low == pytest.approx(18 + 1 + 7 + 6 + 4 + 1)


def test_a_member_is_paid_once() -> None:
    """The second trial that names it reads it; distillation costs its own step."""
    found = forecast(_spec(trials=2), UNITS, [_draw("nis"), _draw("nis")], CachedStages(), slots=1)
    assert _seconds(found, "members") == (6, 6)
    found = forecast(_spec(trials=2), UNITS, [_draw("nis"), _draw("nis", recovery="distill")], CachedStages(), slots=1)
    assert _seconds(found, "members") == (6 + 18, 6 + 18)


def test_a_member_on_shared_images_sees_half_of_them() -> None:
    """A quarter for everyone and a third of the rest."""
    found = forecast(_spec(trials=1), UNITS, [_draw("nis", subsets="shared")], CachedStages(), slots=1)
    assert _seconds(found, "members") == (3, 3)


def test_a_team_costs_its_members_and_every_surrogate() -> None:
    """Joint steps add up times the measured factor; executed path, both prefixes and the gate's cost are attacked."""
    spec = _spec(trials=1)
    one = forecast(spec, UNITS, [_draw("nis")], CachedStages(), slots=1)
    two = forecast(spec, UNITS, [_draw("nis", "erm")], CachedStages(), slots=1)
    assert _seconds(two, "joint fine-tuning") == (2 * 1.5 * 4, 2 * 1.5 * 4)
    # Beside the trials: three surrogates of two members, each alone, the base that all are compared on, and two
    # runs of the attack on the gate's cost, 11 passes of 10 images through two members each.
    beside = two.trials_s.low - one.trials_s.low - (2 * 1.5 * 4 - 4) - (6 + 11)
    assert beside == pytest.approx(3 * 2 * 1 + 2 + 1 - 1 + 2 * 11 * 10 * 0.02)


def test_what_the_store_holds_costs_nothing() -> None:
    """Base, baseline, score and member are read."""
    draw = _draw("nis")
    cached = CachedStages(
        True, frozenset({(0.5, "labels")}), frozenset({"nis"}), frozenset(plans_of(draw.params, _spec()))
    )
    found = forecast(_spec(trials=1), UNITS, [draw], cached, slots=1)
    assert [_seconds(found, stage)[1] for stage in ("base", "baselines", "scores", "members")] == [0, 0, 0, 0]
    assert {one.stage: one.reused for one in found.stages if one.reused} == {"base": 1, "baselines": 1, "members": 1}


def test_the_ends_part_where_a_model_may_choose() -> None:
    """A proposal that is not certain brings a new member at the high end only."""
    found = forecast(_spec(trials=2), UNITS, [_draw("nis"), _draw("erm", certain=False)], CachedStages(), slots=1)
    assert _seconds(found, "members") == (6, 12)
    assert found.wall_s.low < found.wall_s.high


def test_trials_beyond_those_drawn_cost_what_the_last_ones_do() -> None:
    """Ten trials from one that was drawn: nine more like it."""
    one = forecast(_spec(trials=1), UNITS, [_draw("nis")], CachedStages(), slots=1)
    ten = forecast(_spec(trials=10), UNITS, [_draw("nis")], CachedStages(), slots=1)
    assert ten.trials_s.low - one.trials_s.low == pytest.approx(9 * (7 + 6 + 4 + 1))


def test_racing_gives_up_all_it_may_at_the_low_end() -> None:
    """Of nine, one comes to its end, two more to their joint fine-tune; all are attacked at a rung, at a quarter's cost."""
    nine = [_draw("nis")] * 9
    plain = forecast(_spec(trials=9), UNITS, nine, CachedStages(), slots=1)
    raced = forecast(_spec(trials=9, racing=True, eta=3), UNITS, nine, CachedStages(), slots=1)
    assert _seconds(raced, "members") == _seconds(plain, "members")
    assert _seconds(raced, "joint fine-tuning") == (3 * 4, 9 * 4)
    low, high = (a - b for a, b in zip(_seconds(raced, "attacks"), _seconds(plain, "attacks"), strict=True))
    assert low == pytest.approx((9 + 3) / 4 - 8)
    assert high == pytest.approx(18 / 4)


def test_image_racing_gives_up_all_but_the_first_at_their_first_image_at_the_low_end() -> None:
    """Ten images: the first look is at one of them, a tenth of the attack's second."""
    nine = [_draw("nis")] * 9
    plain = forecast(_spec(trials=9), UNITS, nine, CachedStages(), slots=1)
    raced = forecast(_spec(trials=9, image_racing=True), UNITS, nine, CachedStages(), slots=1)
    low, high = (a - b for a, b in zip(_seconds(raced, "attacks"), _seconds(plain, "attacks"), strict=True))
    assert low == pytest.approx(8 * (0.1 - 1))
    assert high == 0


def test_a_time_budget_ends_the_trials() -> None:
    """None is begun after it: base, budget's rest, and the trial that then runs."""
    found = forecast(_spec(trials=1000, time_budget_s=100), UNITS, [_draw("nis")], CachedStages(), slots=1)
    assert found.base_s.high + found.trials_s.high <= 100 + 18 + 1e-9


def test_latencies_that_do_not_settle_are_doubled_twice() -> None:
    """On a restless machine the high end counts four times the rounds."""
    spec = _spec(trials=1)
    restless = forecast(spec, replace(UNITS, settled=False), [_draw("nis")], CachedStages(), slots=1)
    calm = forecast(spec, UNITS, [_draw("nis")], CachedStages(), slots=1)
    assert restless.base_s.low == calm.base_s.low
    assert restless.base_s.high - calm.base_s.high == pytest.approx(3 * 30 * 3 * 0.01)


@pytest.mark.parametrize(
    ("jobs", "slots", "seconds"), [([3, 3, 3], 1, 9), ([3, 1, 1, 1], 2, 3), ([], 2, 0), ([5], 8, 5)]
)
def test_jobs_start_in_order_on_the_slot_that_is_free_first(jobs: list[float], slots: int, seconds: float) -> None:
    """Known answers."""
    assert makespan(jobs, slots) == seconds


def test_the_first_proposals_and_those_of_chance_are_the_searchs_own() -> None:
    """With `search.first`, then a random sampler: what the study itself proposes."""
    import optuna

    from eed_search.search.sampling.proposals import first_proposals, suggest
    from eed_search.search.sampling.study import sampler_for

    spec = _spec(trials=6, sampler="random", first=[{"num_members": 1, "member1.score": "erm"}])
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.enqueue_trial(first_proposals(spec)[0])
    proposed = []
    for number in range(6):
        study.sampler = sampler_for(spec, number)
        trial = study.ask()
        proposed.append(TrialParams.from_flat(suggest(trial, spec)))
        study.tell(trial, [0.5 + 0.01 * number, 1.0])  # results teach chance nothing
    found = draws(spec)
    assert [draw.params for draw in found] == proposed
    assert all(draw.certain for draw in found)


def test_what_a_model_proposes_is_not_certain() -> None:
    """Of the portfolio only the first `startup_trials` are."""
    assert [draw.certain for draw in draws(_spec(trials=4, startup_trials=2))] == [True, True, False, False]


def test_a_curve_is_linear_between_and_flat_beyond() -> None:
    """Known answers."""
    curve = Curve.of({0.5: 3.0, 0.25: 1.0})
    assert [curve.at(size) for size in (0.1, 0.25, 0.375, 0.5, 1.0)] == [1, 1, 2, 3, 3]


def test_disk_counts_every_network_once() -> None:
    """Base and one score weigh the dense network, a baseline, a member and a team of one the small one."""
    found = forecast(_spec(trials=1), UNITS, [_draw("nis")], CachedStages(), slots=1)
    networks = 2 * 1000 + 3 * 100
    assert networks < found.store_bytes.low < networks + 10 * 256 + 20 * 10 * 20
    assert math.isclose(found.store_bytes.low, found.store_bytes.high, rel_tol=0.5)
