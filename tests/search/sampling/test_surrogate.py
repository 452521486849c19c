"""The model's proposals: it finds what is good, keeps limits, and copes with parameters that come and go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest

from eed_search.search.sampling.drawing import Encoder, RandomTrial
from eed_search.search.sampling.surrogate import Model, Observation, Violation, _fitted_on


def space(trial: Any) -> dict[str, Any]:
    """A number, a choice, and a number that only one of the choices has."""
    config = {"x": trial.suggest_float("x", 0.0, 1.0), "kind": trial.suggest_categorical("kind", ["a", "b", "c"])}
    if config["kind"] == "b":
        config["depth"] = trial.suggest_int("depth", 1, 8, log=True)
    config["width"] = trial.suggest_int("width", 8, 64, step=8)
    return config


def error(config: dict[str, Any]) -> float:
    return (config["x"] - 0.3) ** 2 + (0.0 if config["kind"] == "a" else 0.2) + 4 / config["width"]


def observe(num: int, seed: int = 0, level: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    seen = []
    for number in range(num):
        trial = RandomTrial(rng)
        config = space(trial)
        seen.append(Observation(number, trial.params, level, (error(config), float(config["width"]))))
    return seen


def model(**options: Any) -> Model:
    return Model(space, 2, 1, known=lambda config: {1: float(config["width"])}, **options)


def propose(one: Model, seen: list[Observation], seed: int, running: list[dict[str, Any]] | None = None) -> Any:
    return one.propose(seen, running or [], np.random.default_rng(seed))


def test_it_proposes_where_the_error_is_low() -> None:
    seen, one = observe(40), model()
    proposals = [propose(one, seen, seed) for seed in range(12)]
    by_chance = [o.params for o in observe(200, seed=9)]
    assert np.mean([error(p) - 4 / p["width"] for p in proposals]) < 0.3 * np.mean(
        [error(p) - 4 / p["width"] for p in by_chance]
    )


def test_the_same_reports_and_draws_give_the_same_proposal() -> None:
    assert propose(model(), observe(15), 3) == propose(model(), observe(15), 3)


def test_what_it_proposed_before_changes_nothing() -> None:
    """A search that goes on has a new model, and proposes what the old one would have."""
    seen, used = observe(24), model()
    for num in range(1, 24, 4):
        propose(used, seen[:num], num)
    for num in (7, 13, 24):
        assert propose(used, seen[:num], 3) == propose(model(), seen[:num], 3)


def test_its_settings_are_fitted_anew_when_there_are_a_fifth_more_reports() -> None:
    assert [_fitted_on(num) for num in (1, 4, 5, 6, 7, 8, 9, 10, 11)] == [1, 4, 5, 6, 6, 8, 8, 10, 10]
    one, seen = model(), observe(40)
    kernels = []
    for num in range(20, 41):
        propose(one, seen[:num], num)
        kernels.append(one._kernels[0][1])
    assert len({id(kernel) for kernel in kernels}) == len({_fitted_on(num) for num in range(20, 41)}) == 5


def test_limits_known_beforehand_are_kept() -> None:
    one = model(allowed=lambda config: config["width"] <= 16)
    assert {propose(one, observe(15), seed)["width"] for seed in range(6)} <= {8, 16}


def test_without_reports_or_candidates_there_is_no_proposal() -> None:
    assert propose(model(), [], 0) is None
    assert propose(model(allowed=lambda config: False), observe(5), 0) is None


def test_what_runs_already_is_not_proposed_again() -> None:
    seen, one = observe(30), model()
    first = propose(one, seen, 1)
    again = propose(one, seen, 1, running=[first] * 3)
    assert again != first


def test_what_is_as_good_as_tried_is_not_proposed() -> None:
    """Two widths of one kind count as one here: what is left of the nine kinds and depths is proposed, then nothing."""
    seen, tried = observe(30), [o.params for o in observe(5)]
    one = Model(space, 2, 1, same=lambda config: (config["kind"], config.get("depth")))
    for seed in range(40):
        params = one.propose(seen, [], np.random.default_rng(seed), tried)
        if params is None:
            break
        assert (params["kind"], params.get("depth")) not in {(p["kind"], p.get("depth")) for p in tried}
        tried.append(params)
    assert {(p["kind"], p.get("depth")) for p in tried} == {("a", None), ("c", None), *(("b", n) for n in range(1, 9))}


def ends_of(config: dict[str, Any]) -> dict[int, tuple[float, float]]:
    """Of kind b the latency is known, of the others it lies between the width and twice the width."""
    width = float(config["width"])
    return {1: (width, width if config["kind"] == "b" else 2 * width)}


def bounded(num: int, place: float) -> list[Observation]:
    """Reports whose latencies lie at one place between their ends."""
    found = []
    for one in observe(num):
        low, high = ends_of(space(RandomTrial(np.random.default_rng(0), near=one.params, change=0.0)))[1]
        found.append(replace(one, values=(one.values[0], low + place * (high - low))))
    return found


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_between_known_ends_the_place_is_learnt(place: float) -> None:
    """Where the ends are equal the value is known without a report."""
    one = Model(space, 2, 1, ends=ends_of)
    seen, rows = bounded(30, place), observe(40, seed=5)
    one._seen = {}
    candidates = [one._replay(o.params) for o in rows]
    encoder = Encoder(one._seen)
    ends = [ends_of(c.config)[1] for c in candidates]
    mean, deviation = one._between(1, seen, encoder, encoder.encode([c.params for c in candidates]), ends)
    low, high = np.array(ends).T
    assert mean == pytest.approx(low + place * (high - low), abs=0.02 * 64)
    exact = low == high
    assert exact.any()
    assert (mean[exact] == low[exact]).all()
    assert (deviation[exact] == 0).all()


def test_with_no_report_of_its_kind_the_place_is_anywhere() -> None:
    one = Model(space, 2, 1, ends=ends_of)
    known = [o for o in bounded(30, 0.5) if o.params["kind"] == "b"]
    one._seen = {}
    candidate = one._replay({"x": 0.5, "kind": "a", "width": 8})
    encoder = Encoder(one._seen)
    mean, deviation = one._between(1, known, encoder, encoder.encode([candidate.params]), [(8.0, 16.0)])
    assert (mean[0], deviation[0]) == (12.0, pytest.approx(8 / np.sqrt(12)))


def test_limits_that_only_trials_show_are_learnt() -> None:
    """Kind a is best and breaks the limit; while no trial has broken it, it is proposed."""
    one, seen = model(), observe(30)
    kept = [Violation(o.params, -1.0) for o in seen]
    broken = [Violation(o.params, 1.0 if o.params["kind"] == "a" else -1.0) for o in seen]

    def kinds(limit: list[Violation]) -> set[str]:
        return {one.propose(seen, [], np.random.default_rng(s), limits={"clean": limit})["kind"] for s in range(8)}  # type: ignore[index]

    assert kinds(kept) == {"a"}
    assert "a" not in kinds(broken)


def test_what_is_drawn_keeps_the_limits_and_is_new() -> None:
    one = model(allowed=lambda config: config["width"] <= 16, same=lambda config: config["kind"])
    before = [{"x": 0.5, "kind": kind, "width": 8, "depth": 1} for kind in "ab"]
    for seed in range(5):
        params = one.draw(np.random.default_rng(seed), before)
        assert params is not None
        assert (params["kind"], params["width"] <= 16) == ("c", True)
    assert one.draw(np.random.default_rng(0), [*before, before[0] | {"kind": "c"}]) is None


def test_cheap_proposals_are_preferred() -> None:
    seen = observe(30)
    dear = [propose(model(), seen, seed)["width"] for seed in range(8)]
    cheap = [propose(model(cost=lambda config: float(config["width"]) ** 4), seen, seed)["width"] for seed in range(8)]
    assert np.mean(cheap) < np.mean(dear)


def test_reports_at_lower_levels_teach_too() -> None:
    """The final value is predicted from early reports of 40 trials and final ones of ten."""
    one = Model(space, 2, 2, known=lambda config: {1: float(config["width"])})
    early = [Observation(o.trial, o.params, 0, (o.values[0] + 0.5, o.values[1])) for o in observe(40)]
    final = [Observation(o.trial, o.params, 1, o.values) for o in observe(40)[:10]]
    propose(one, early + final, 0)  # draws candidates: the space is known from here on
    encoder = Encoder(one._seen)
    others = observe(30, seed=7)
    mean, deviation = one._predict(0, early + final, encoder, encoder.encode([o.params for o in others]))
    misses = np.abs(mean - [o.values[0] for o in others])
    assert np.median(misses) < 0.06
    assert (misses < 4 * deviation + 0.02).mean() > 0.8


@pytest.mark.parametrize("near", [None, {"x": 0.5, "kind": "b", "depth": 3, "width": 24}])
def test_random_draws_stay_in_the_space(near: dict[str, Any] | None) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        trial = RandomTrial(rng, near=near)
        space(trial)
        for name, distribution in trial.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(trial.params[name])), (name, trial.params)


def test_optuna_takes_every_proposal() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    proposal = propose(model(), observe(10), 0)
    study.enqueue_trial(proposal)
    trial = study.ask()
    space(trial)
    assert trial.params == proposal
