"""The peers do what their sources say, by hand on small cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from benchmarks.peers import PEERS, HubPruner, Moasha, Peer, PromotingMoasha, repaired_ranks, shipped_ranks
from benchmarks.simulator import Simulation, simulate

METRICS = {"accuracy": "max", "cost": "min"}
LEVELS = (1, 3, 9)
CHAIN = np.array([[2.0, 2.0], [3.0, 3.0], [1.0, 1.0], [0.0, 0.0]])


class Toy:
    """Accuracy rises with the epochs to `quality`; the cost is `cost`."""

    metrics: ClassVar[Mapping[str, Any]] = METRICS
    resource = "epoch"

    def space(self, trial: Any) -> dict[str, Any]:
        return {"quality": trial.suggest_float("quality", 0, 1), "cost": trial.suggest_float("cost", 0, 1)}

    def known(self, config: Mapping[str, Any]) -> dict[str, float]:
        return {"cost": config["cost"]}


def train(config: Mapping[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    before = 0
    for epoch in LEVELS:
        yield epoch - before, {"accuracy": config["quality"] * epoch / 9, "cost": config["cost"], "epoch": epoch}
        before = epoch


def run(name: str, workers: int = 2, max_time: float = 60.0) -> tuple[Any, Any, Simulation]:
    searcher, scheduler = PEERS[name](Toy(), LEVELS, 0, workers)
    return searcher, scheduler, simulate(searcher, scheduler, train, workers=workers, max_time=max_time)


# ---------------------------------------------------------------- ranks


def test_a_chain_ranks_by_dominance_when_repaired() -> None:
    assert repaired_ranks(CHAIN).tolist() == [2, 3, 1, 0]


def test_a_chain_ranks_by_sorted_positions_as_shipped() -> None:
    assert shipped_ranks(CHAIN).tolist() == [3, 2, 0, 1]


def test_ranks_never_put_a_trial_before_one_that_dominates_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.integers(0, 6, size=(12, 2)).astype(float)
        ranks = repaired_ranks(values)
        assert sorted(ranks) == list(range(12))
        for i, value in enumerate(values):
            for j, other in enumerate(values):
                if (value <= other).all() and (value < other).any():
                    assert ranks[i] < ranks[j]


def test_inside_a_front_the_far_end_comes_second() -> None:
    front = np.array([[0.0, 4.0], [1.0, 3.0], [3.5, 0.5], [4.0, 0.0]])
    assert repaired_ranks(front).tolist()[0] == 0
    assert repaired_ranks(front).tolist()[3] == 1


def test_what_is_shipped_decides_little_better_than_chance() -> None:
    rng = np.random.default_rng(1)
    agree = []
    for _ in range(300):
        values = rng.normal(size=(rng.integers(2, 30), 2))
        n = len(values)
        agree.append((shipped_ranks(values)[-1] / n > 1 / 3) == (repaired_ranks(values)[-1] / n > 1 / 3))
    assert 0.5 < np.mean(agree) < 0.65


# ---------------------------------------------------------------- schedulers, report by report


class FakeTrial:
    def __init__(self, trial_id: str, status: str = "RUNNING") -> None:
        self.trial_id, self.status = trial_id, status


class FakeController:
    def __init__(self, trials: list[FakeTrial]) -> None:
        self.trials = trials

    def get_trials(self) -> list[FakeTrial]:
        return self.trials


def report(scheduler: Any, trial_id: str, level: float, accuracy: float, cost: float) -> str:
    result = {"accuracy": accuracy, "cost": cost, "epoch": level}
    decision: str = scheduler.on_trial_result(None, FakeTrial(trial_id), result)
    return decision


def test_moasha_lets_the_first_go_on_and_stops_the_dominated() -> None:
    scheduler = Moasha(METRICS, resource="epoch", levels=LEVELS)
    assert report(scheduler, "a", 1, 0.5, 0.5) == "CONTINUE"
    assert report(scheduler, "b", 1, 0.4, 0.6) == "STOP"  # rank 1 of 2
    assert report(scheduler, "c", 1, 0.6, 0.4) == "CONTINUE"  # rank 0 of 3
    assert report(scheduler, "d", 1, 0.55, 0.45) == "CONTINUE"  # rank 1 of 4


def test_moasha_compares_only_at_levels_and_ends_at_the_last() -> None:
    scheduler = Moasha(METRICS, resource="epoch", levels=LEVELS)
    report(scheduler, "a", 1, 0.5, 0.5)
    assert report(scheduler, "b", 2, 0.0, 1.0) == "CONTINUE"
    assert report(scheduler, "b", 9, 0.0, 1.0) == "STOP"


def test_promotion_takes_the_best_third_of_the_highest_level_that_has_one() -> None:
    scheduler = PromotingMoasha(METRICS, resource="epoch", levels=LEVELS)
    for name, accuracy in zip("abc", (0.3, 0.9, 0.5), strict=True):
        assert report(scheduler, name, 1, accuracy, 1 - accuracy) == "PAUSE"
    trials = [FakeTrial(name, "PAUSED") for name in "abc"]
    chosen = scheduler.choose_trial_to_run(FakeController(trials))
    assert chosen is trials[1]
    trials[1].status = "PENDING"
    assert scheduler.choose_trial_to_run(FakeController(trials)) is trials[1]
    trials[1].status = "RUNNING"
    assert scheduler.choose_trial_to_run(FakeController(trials)) is None


def test_the_hub_pruner_prunes_above_the_median_front_once_five_have_ended() -> None:
    scheduler = HubPruner(METRICS, resource="epoch", levels=LEVELS)
    for place, name in enumerate("abcde"):
        assert report(scheduler, name, 1, 0.9 - place / 10, 0.1 + place / 10) == "CONTINUE"
        scheduler.on_trial_complete(None, FakeTrial(name), {})
    assert report(scheduler, "f", 1, 0.75, 0.25) == "CONTINUE"  # the third front of six
    assert report(scheduler, "g", 1, 0.45, 0.55) == "STOP"  # behind the last


# ---------------------------------------------------------------- what Optuna is told


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_uses_its_whole_budget(name: str) -> None:
    _, _, simulation = run(name)
    assert simulation.end == "time"
    assert sum(trial.busy for trial in simulation.trials) == pytest.approx(120.0)


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_methods_without_early_stopping_train_to_the_end(name: str) -> None:
    searcher, _, simulation = run(name)
    assert {report.decision for report in simulation.reports} == {"CONTINUE"}
    assert [t.state for t in searcher.study.trials if t.state != TrialState.RUNNING] == [TrialState.COMPLETE] * 12


def test_stopped_trials_are_pruned_and_complete_ones_have_their_values() -> None:
    searcher, _, simulation = run("moasha")
    complete = {r.number for r in simulation.reports if r.result["epoch"] == 9}
    for trial in searcher.study.trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.number in complete
            assert trial.values == pytest.approx([trial.params["quality"], trial.params["cost"]])
    assert sum(t.state == TrialState.PRUNED for t in searcher.study.trials) > 5


def test_no_proposal_is_made_before_it_can_run() -> None:
    searcher, _, simulation = run("tpe")
    assert len(simulation.trials) <= sum(t.state == TrialState.COMPLETE for t in searcher.study.trials) + 2


def test_a_promoting_peer_pauses_and_resumes() -> None:
    _, _, simulation = run("moasha_promoting")
    decisions = [r.decision for r in simulation.reports]
    assert "PAUSE" in decisions
    assert any(r.result["epoch"] == 9 for r in simulation.reports)


def peer() -> Peer:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return Peer(Toy().space, METRICS, sampler, resource="epoch", last=9, max_running=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [
        ({"accuracy": 0.5, "cost": 0.5, "epoch": 9}, False, TrialState.COMPLETE),
        ({"accuracy": 0.5, "cost": 0.5, "epoch": 3}, False, TrialState.PRUNED),
        ({"accuracy": float("nan"), "cost": 0.5, "epoch": 9}, False, TrialState.FAIL),
        (None, False, TrialState.PRUNED),
        (None, True, TrialState.FAIL),
    ],
)
def test_optuna_is_told_the_truth(result: dict[str, Any] | None, error: bool, state: TrialState) -> None:
    searcher = peer()
    searcher.suggest("00000")
    searcher.on_trial_complete("00000", result, error)
    assert searcher.study.trials[0].state == state


@pytest.mark.parametrize("name", PEERS)
def test_the_same_seed_gives_the_same_search(name: str) -> None:
    assert run(name)[2].reports == run(name)[2].reports
