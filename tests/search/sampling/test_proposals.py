"""Proposals obey the search space and are canonical."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eed_search.config.params import TrialParams
from eed_search.config.registry import BUILT_IN
from eed_search.config.spec import Choice, GateSpec, Joint, Pool, Range, Search, Space, Spec, Team, Threat
from eed_search.search.sampling.proposals import first_proposals, suggest

NUMBERS = ("beta", "omega", "gamma", "gate_threshold")


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Keep Optuna's log off the screen."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def spec_of(space: Space | None = None, first: tuple[dict[str, Any], ...] = (), **sections: Any) -> Spec:
    """Make a small search-space file."""
    search = Search(space=space or Space(), first=first)
    return Spec(name="s", threat=Threat(eps=0.1), search=search, **sections)


def study_of(seed: int = 0) -> optuna.Study:
    """Make a study in memory."""
    sampler = optuna.samplers.RandomSampler(seed=seed)
    return optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])


def proposal(spec: Spec, fixed: dict[str, Any] | None = None, seed: int = 0) -> tuple[dict[str, Any], optuna.Trial]:
    """Ask for one proposal."""
    study = study_of(seed)
    if fixed is not None:
        study.enqueue_trial(fixed)
    trial = study.ask()
    return suggest(trial, spec), trial


def allowed(dimension: Choice | Range, value: Any) -> bool:
    """Tell whether a dimension holds a value."""
    if isinstance(dimension, Choice):
        return value in dimension.values
    return dimension.low <= value <= dimension.high


sizes = st.lists(st.sampled_from([0.125, 0.2, 0.25, 0.3, 0.375, 0.5, 0.7, 1.0]), min_size=1, max_size=5, unique=True)
ranges = st.tuples(st.floats(0.01, 1), st.floats(0, 2)).map(lambda p: Range(low=p[0], high=p[0] + p[1]))
stepped = st.tuples(st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 7)).map(
    lambda p: Range(low=p[0], high=p[0] + 0.1 * p[1], step=0.1)
)
spaces = st.builds(
    Space,
    num_members=st.lists(st.integers(1, 4), min_size=1, max_size=4, unique=True).map(lambda v: Choice(values=tuple(v))),
    score=st.lists(st.sampled_from(list(BUILT_IN["score"])), min_size=1, unique=True).map(
        lambda v: Choice(values=tuple(v))
    ),
    size=sizes.map(lambda v: Choice(values=tuple(v))),
    beta=ranges,
    omega=stepped,
    gate_threshold=ranges.filter(lambda r: r.high <= 2),
)


@settings(deadline=None, max_examples=60)
@given(space=spaces, seed=st.integers(0, 100))
def test_every_value_lies_in_its_dimension(space: Space, seed: int) -> None:
    """Every value lies in its dimension."""
    flat, _ = proposal(spec_of(space), seed=seed)
    params = TrialParams.from_flat(flat)
    assert len(params.members) in space.num_members.values  # type: ignore[union-attr]
    for member in params.members:
        assert allowed(space.score, member.score)
        assert allowed(space.size, member.size)
    for name in ("subsets", "recovery", "order", *NUMBERS):
        assert allowed(getattr(space, name), flat[name]), name


@settings(deadline=None, max_examples=30)
@given(space=spaces, seed=st.integers(0, 100))
def test_flat_parameters_survive_the_round_trip(space: Space, seed: int) -> None:
    """Flat parameters survive the round trip."""
    flat, _ = proposal(spec_of(space), seed=seed)
    assert TrialParams.from_flat(flat).to_flat() == flat


def test_only_members_that_exist_are_drawn() -> None:
    """Only members that exist are drawn."""
    _, trial = proposal(spec_of(), {"num_members": 2})
    assert {name for name in trial.params if name.startswith("member")} == {
        "member1.score",
        "member1.size",
        "member2.score",
        "member2.size",
    }


def test_num_members_is_drawn_first() -> None:
    """Num members is drawn first."""
    _, trial = proposal(spec_of(), seed=3)
    assert next(iter(trial.params)) == "num_members"


def test_fixed_dimensions_are_not_drawn_but_stand_in_the_table() -> None:
    """Fixed dimensions are not drawn but stand in the table."""
    space = Space(recovery=Choice(values=("distill",)), gamma=Range(low=2, high=2))
    flat, trial = proposal(spec_of(space), {"num_members": 2})
    assert flat["recovery"] == "distill"
    assert flat["gamma"] == 2.0
    assert not {"recovery", "gamma", "order"} & trial.params.keys()


def test_one_member_draws_neither_threshold_nor_order_nor_beta() -> None:
    """One member draws neither threshold nor order nor beta."""
    space = Space(order=Choice(values=("robust_first", "fast_first")))
    flat, trial = proposal(spec_of(space), {"num_members": 1})
    assert not {"gate_threshold", "order", "beta"} & trial.params.keys()
    assert {"omega", "gamma"} <= trial.params.keys()
    assert (flat["gate_threshold"], flat["order"], flat["beta"]) == (0.2, "robust_first", 1e-3)


def test_without_joint_epochs_no_loss_weight_is_drawn() -> None:
    """Without joint epochs no loss weight is drawn."""
    _, trial = proposal(spec_of(joint=Joint(epochs=0)), {"num_members": 3})
    assert not {"beta", "omega", "gamma"} & trial.params.keys()
    assert "gate_threshold" in trial.params


def test_the_map_rule_draws_no_threshold() -> None:
    """The map rule draws no threshold."""
    _, trial = proposal(spec_of(gate=GateSpec(rule="map")), {"num_members": 3})
    assert "gate_threshold" not in trial.params


@pytest.mark.parametrize(("subsets", "sorted_"), [("all", True), ("shared", False)])
def test_members_are_sorted_only_where_their_place_means_nothing(subsets: str, sorted_: bool) -> None:
    """Members are sorted only where their place means nothing."""
    given_ = {
        "num_members": 2,
        "member1.score": "nis",
        "member1.size": 0.5,
        "member2.score": "ase",
        "member2.size": 0.25,
        "subsets": subsets,
    }
    flat, _ = proposal(spec_of(), given_)
    assert (flat["member1.score"] == "ase") is sorted_
    assert (flat["member2.size"] == 0.5) is sorted_


def test_an_even_grid_of_numbers_keeps_its_order_for_the_sampler() -> None:
    """An even grid of numbers keeps its order for the sampler."""
    _, trial = proposal(spec_of(Space(size=Choice(values=(0.75, 0.25, 0.5)))), {"num_members": 1})
    assert isinstance(trial.distributions["num_members"], optuna.distributions.IntDistribution)
    assert trial.distributions["member1.size"] == optuna.distributions.FloatDistribution(0.25, 0.75, step=0.25)


def test_a_pool_has_one_size_and_all_its_scores() -> None:
    """A pool has one size and all its scores."""
    spec = spec_of(team=Team(mode="pool", pool=Pool(scores=("nis", "bnsf", "erm"))))
    flat, trial = proposal(spec)
    assert flat["num_members"] == 3
    assert [flat[f"member{i}.score"] for i in (1, 2, 3)] == ["nis", "bnsf", "erm"]
    assert {flat[f"member{i}.size"] for i in (1, 2, 3)} == {trial.params["size"]}
    assert "num_members" not in trial.params


def test_a_first_proposal_is_taken_and_completed() -> None:
    """A first proposal is taken and completed."""
    spec = spec_of(first=({"num_members": 2, "member1.size": 0.25, "member2.size": 0.5, "subsets": "shared"},))
    flat, _ = proposal(spec, first_proposals(spec)[0])
    assert (flat["num_members"], flat["member1.size"], flat["member2.size"]) == (2, 0.25, 0.5)
    assert set(flat) == set(TrialParams.from_flat(flat).to_flat())


def test_a_first_proposal_goes_to_the_nearest_step() -> None:
    """A first proposal goes to the nearest step."""
    space = Space(omega=Range(low=0, high=10, step=2.5))
    assert first_proposals(spec_of(space, ({"omega": 9.9},))) == [{"omega": 10.0}]


def test_a_first_size_of_a_pool_is_its_first_members() -> None:
    """A first size of a pool is its first members."""
    spec = spec_of(first=({"member1.size": 0.25, "member2.size": 0.5},), team=Team(mode="pool"))
    flat, _ = proposal(spec, first_proposals(spec)[0])
    assert {flat[f"member{i}.size"] for i in (1, 2, 3, 4)} == {0.25}
