"""ParetoRacing by itself: with any trainable, under the simulated clock and under Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray import tune
from ray.tune.error import TuneError
from ray.tune.search import Searcher

from benchmarks.simulator import Simulation, simulate
from eed_search.core.errors import SpecError
from eed_search.search.execution.ray_session import local_ray
from eed_search.tune import ParetoRacing, StudySearcher
from eed_search.tune.pareto_racing import objectives_of

METRICS = {"accuracy": "max", "cost": "min"}
LEVELS = (1, 3, 9)


class Listed(Searcher):
    """Proposes what it is given, in order, and writes down how trials ended."""

    def __init__(self, configs: list[dict[str, Any]]) -> None:
        super().__init__()
        self.configs, self.ends = list(configs), dict[str, Any]()

    def suggest(self, trial_id: str) -> Any:
        return self.configs.pop(0) if self.configs else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.ends[trial_id] = result

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps(self.configs))

    def restore(self, checkpoint_path: str) -> None:
        self.configs = json.loads(Path(checkpoint_path).read_text())


def learn(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    """A trial whose accuracy grows with its epochs, up to `best`."""
    for epoch in range(1, 10):
        yield 1.0, {"accuracy": config["best"] * (1 - 0.5 / epoch), "cost": config["cost"], "epoch": epoch}


def racing(**options: Any) -> ParetoRacing:
    return ParetoRacing(METRICS, resource="epoch", levels=LEVELS, **options)  # type: ignore[arg-type]


def play(scheduler: ParetoRacing, configs: list[dict[str, Any]], workers: int = 2) -> dict[str, int]:
    """Run to the end; give the epochs that each trial came to."""
    found = simulate(Listed(configs), scheduler, learn, workers=workers)
    assert found.end == "finished"
    return _epochs(found)


def _epochs(found: Simulation) -> dict[str, int]:
    return {str(r.config["name"]): int(r.result["epoch"]) for r in found.reports}  # the last report stays


GRID = [{"name": f"{i}", "best": 0.1 + 0.1 * (i % 9), "cost": 1.0} for i in range(27)]


def test_the_best_of_each_level_go_on_and_the_rest_is_stopped_early() -> None:
    epochs = play(racing(finish_undecided=False), GRID)
    assert epochs["8"] == 9  # the most accurate of the first nine
    assert sum(epoch == 9 for epoch in epochs.values()) <= 4
    assert sum(epoch == 1 for epoch in epochs.values()) >= 17


def test_what_may_still_belong_to_the_frontier_is_finished_when_nothing_else_is_left() -> None:
    ladder = [{"name": f"{i}", "best": 0.1 + 0.1 * i, "cost": 1.0 + i} for i in range(9)]  # none beats another
    stopped = play(racing(finish_undecided=False), ladder)
    finished = play(racing(finish_undecided=True), ladder)
    assert sum(e == 9 for e in stopped.values()) == 1
    assert sum(e == 9 for e in finished.values()) == 9


def test_what_is_surely_beaten_is_not_finished() -> None:
    epochs = play(racing(finish_undecided=True), GRID)
    assert min(epochs.values()) == 1


def test_both_ends_of_a_frontier_survive() -> None:
    configs = [{"name": f"{i}", "best": 0.5, "cost": 5.0} for i in range(25)]
    configs[3] = {"name": "cheap", "best": 0.45, "cost": 1.0}
    configs[7] = {"name": "strong", "best": 0.95, "cost": 9.0}
    epochs = play(racing(), configs)
    assert epochs["cheap"] == 9
    assert epochs["strong"] == 9


def test_a_trial_that_breaks_the_limit_of_a_fixed_metric_is_stopped_at_its_first_level() -> None:
    epochs = play(racing(limits={"cost": 3.0}, fixed=["cost"]), [{"name": "dear", "best": 1.0, "cost": 4.0}, *GRID])
    assert epochs["dear"] == 1


def test_a_limit_is_one_of_the_final_value() -> None:
    """All begin below it, at half of what they come to, and no epoch of any tells that it would end above."""
    ladder = [{"name": f"{i}", "best": 0.91 + 0.02 * i, "cost": 1.0 + i} for i in range(4)]
    epochs = play(racing(limits={"accuracy": 0.85}), ladder)
    assert set(epochs.values()) == {9}


def test_the_same_trials_race_the_same_each_time() -> None:
    assert play(racing(), GRID) == play(racing(), GRID)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "high"])
def test_a_metric_that_is_no_number_stops_the_trial_and_nothing_else(value: object) -> None:
    def broken(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        for wait, result in learn(config):
            yield wait, result | ({"accuracy": value} if config["name"] == "bad" else {})

    configs = [{"name": "bad", "best": 1.0, "cost": 0.1}, *GRID]
    scheduler = racing()
    found = simulate(Listed(configs), scheduler, broken, workers=2)
    ends = _epochs(found)
    assert ends["bad"] == 1
    assert ends["8"] == 9


def test_readings_turn_every_metric_round_with_its_interval() -> None:
    result = {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.85, "cost": 2.0}
    reading = objectives_of(result, {"accuracy": -1.0, "cost": 1.0})
    assert reading is not None
    assert reading.value == (-0.8, 2.0)
    assert reading.low == (-0.85, 2.0)
    assert reading.high == (-0.7, 2.0)


def test_everything_wrong_with_the_arguments_is_said_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        ParetoRacing({"a": "up"}, resource="a", levels=(3, 1), eta=1, limits={"b": 1.0})  # type: ignore[dict-item]
    text = str(caught.value)
    for told in ("two to four", "'up'", "resource: a is a metric", "each above the one before", "eta: 1", "limits.b"):
        assert told in text


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"limits": {"cost": float("nan")}}, "limits.cost: nan is no finite number"),
        ({"fixed": ["latency"]}, "fixed.latency: no such metric; allowed: accuracy, cost"),
        ({"min_complete": 0}, "min_complete: 0 is no whole number from 1 on"),
        ({"min_complete": 2.5}, "min_complete: 2.5 is no whole number from 1 on"),
    ],
)
def test_a_limit_or_a_count_that_says_nothing_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        racing(**wrong)


def test_five_metrics_are_refused() -> None:
    with pytest.raises(SpecError, match="two to four"):
        ParetoRacing(dict.fromkeys("abcde", "max"), resource="epoch", levels=(1,))


def trainable(config: dict[str, Any]) -> None:
    """What `learn` says, for Ray: it goes on from its checkpoint."""
    import tempfile

    start, checkpoint = 0, tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            start = json.loads((Path(folder) / "epoch.json").read_text())
    for epoch in range(start + 1, 10):
        accuracy = config["best"] * (1 - 0.5 / epoch)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "epoch.json").write_text(json.dumps(epoch))
            tune.report(
                {"accuracy": accuracy, "cost": config["cost"], "epoch": epoch},
                checkpoint=tune.Checkpoint.from_directory(folder) if epoch in LEVELS else None,
            )


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_ray_pauses_resumes_and_stops_as_the_race_says(tmp_path: Path) -> None:
    grid = GRID[:12]
    with local_ray():
        results = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=Listed(grid), scheduler=racing(finish_undecided=False), num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(name="race", storage_path=str(tmp_path), verbose=0),
        ).fit()
    assert not results.errors
    epochs = {r.config["name"]: r.metrics["epoch"] for r in results if r.config and r.metrics}
    assert len(epochs) == len(grid)
    assert set(epochs.values()) <= set(LEVELS)
    assert sum(e > 1 for e in epochs.values()) == 4  # twelve came, a third went on
    assert epochs["8"] == 9


class CutOff(tune.Callback):
    """Ends the search with an exception at the n-th report, once."""

    def __init__(self, at: int, marker: Path) -> None:
        self.left, self.marker = at, marker

    def on_trial_result(self, *args: Any, **options: Any) -> None:
        self.left -= 1
        if self.left == 0 and not self.marker.exists():
            self.marker.touch()
            raise RuntimeError("cut off")


def space(trial: Any) -> dict[str, Any]:
    """Twelve trials that all cost the same; accuracy is up to chance."""
    return {"best": trial.suggest_float("best", 0.1, 0.9), "cost": 1.0}


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_a_restored_search_goes_on_with_its_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve trials a third goes on, though the search was cut off in their midst; and Optuna knows how all ended."""
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="race", directions=["maximize", "minimize"])
    scheduler = racing(finish_undecided=False)
    searcher = StudySearcher(
        space,
        METRICS,  # type: ignore[arg-type]
        sampler="random",
        num_trials=12,
        resource="epoch",
        levels=LEVELS,
        scheduler=scheduler,
        study=study,
    )
    with local_ray():
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(search_alg=searcher, scheduler=scheduler, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name="race", storage_path=str(tmp_path), verbose=0, callbacks=[CutOff(12, tmp_path / "cut")]
            ),
        )
        with pytest.raises(TuneError, match="cut off"):
            tuner.fit()
        results = tune.Tuner.restore(str(tmp_path / "race"), trainable=trainable).fit()
    assert not results.errors
    reached = {r.config["best"]: r.metrics["epoch"] for r in results if r.config and r.metrics}
    assert len(reached) == 12
    assert set(reached.values()) <= set(LEVELS)
    assert sum(epoch > 1 for epoch in reached.values()) == 4
    assert max(reached) in [best for best, epoch in reached.items() if epoch > 1]
    states = [trial.state.name for trial in optuna.load_study(storage=storage, study_name="race").trials]
    assert "RUNNING" not in states
    assert states.count("COMPLETE") == sum(epoch == 9 for epoch in reached.values())
