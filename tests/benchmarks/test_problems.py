"""The problems give what their files say, at the right cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks.problems import BENCH_FOLDER, LEVELS, Lcbench, Nas201, Scale
from eed_search.core.errors import DataError
from eed_search.frontier.pareto import non_dominated

needs_bench = pytest.mark.skipif(not BENCH_FOLDER.is_dir(), reason=f"the benchmark's files are not in {BENCH_FOLDER}")
CONFIG = {
    "batch_size": 64,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "num_layers": 3,
    "max_units": 210,
    "max_dropout": 0.2,
}


@pytest.fixture(scope="module")
def lcbench() -> Lcbench:
    return Lcbench("168868")


@pytest.fixture(scope="module")
def nas201() -> Nas201:
    return Nas201("lat_ms_pixel2")


class Captor:
    """Draws the lowest of everything, and writes down what was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[Any, Any, bool]] = {}

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        self.asked[name] = (low, high, log)
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        self.asked[name] = (low, high, log)
        return low


def test_the_scale_puts_best_at_0_and_worst_at_1() -> None:
    scale = Scale(best=(-0.9, 3.0), worst=(-0.5, 6.0), reference=1.0)
    assert scale([0.9, 0.5], [3.0, 6.0]) == pytest.approx(np.array([[0.0, 0.0], [1.0, 1.0]]))


def test_regret_is_the_share_of_the_reference_that_is_missed() -> None:
    scale = Scale(best=(-1.0, 0.0), worst=(0.0, 1.0), reference=0.5)
    # Half of the way in both: a quarter of the square, half of the reference.
    assert scale.regret([0.5], [0.5]) == pytest.approx(0.5)
    assert scale.regret([0.0], [0.5]) == pytest.approx(1.0)


def test_a_missing_folder_says_which_option_gives_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"encoding\.json: not there; .*--bench FOLDER"):
        Lcbench("168868", tmp_path)
    with pytest.raises(DataError, match=r"nasbench201_acc_cost_latency\.csv\.gz: not there"):
        Nas201("lat_ms_pixel2", folder=tmp_path)


@needs_bench
def test_an_unknown_task_is_named_with_those_that_exist() -> None:
    with pytest.raises(DataError, match="no task 12; there are 3945, 7593"):
        Lcbench(12)


@needs_bench
def test_the_space_is_the_files_without_task_and_epoch(lcbench: Lcbench) -> None:
    captor = Captor()
    lcbench.space(captor)
    assert captor.asked["max_units"] == (64, 1024, True)
    assert captor.asked["weight_decay"] == (1e-05, 0.1, False)
    assert set(captor.asked) == set(CONFIG)


@needs_bench
def test_optuna_can_draw_from_the_space(lcbench: Lcbench) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = lcbench.space(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask())
    assert lcbench.curve(config).shape == (52,)


@needs_bench
@pytest.mark.parametrize(
    ("num_layers", "max_units", "flops"),
    [
        (1, 64, 50 * 64 + 64 * 10),
        (2, 100, 50 * 100 + 100 * 10 + 10 * 10),
        (3, 210, 50 * 210 + 210 * 110 + 110 * 10 + 10 * 10),
    ],
)
def test_multiplications_are_the_products_of_neighbouring_layers(
    lcbench: Lcbench, num_layers: int, max_units: int, flops: int
) -> None:
    config = {**CONFIG, "num_layers": num_layers, "max_units": max_units}
    assert lcbench.log_flops(config) == pytest.approx(np.log10(flops))


@needs_bench
def test_accuracies_are_fractions_and_rise_with_training(lcbench: Lcbench) -> None:
    curve = lcbench.curve(CONFIG)
    assert curve.min() >= 0
    assert curve.max() <= 1
    assert curve[-1] > 0.9
    assert curve[-1] > curve[0]


@needs_bench
def test_a_curve_is_computed_once(lcbench: Lcbench) -> None:
    assert lcbench.curve(CONFIG) is lcbench.curve(dict(CONFIG))


@needs_bench
def test_a_trial_reports_at_the_levels_and_costs_52_epochs_in_all(lcbench: Lcbench) -> None:
    reports = list(lcbench.evaluate(CONFIG))
    assert [result["epoch"] for _, result in reports] == list(LEVELS)
    assert [cost for cost, _ in reports] == [3.0, 6.0, 18.0, 25.0]
    assert reports[1][1]["accuracy"] == lcbench.curve(CONFIG)[8]


@needs_bench
def test_the_sample_is_the_same_each_time_and_keeps_to_the_space(lcbench: Lcbench) -> None:
    first, second = lcbench.sample(200, seed=1), lcbench.sample(200, seed=1)
    assert first == second
    assert {config["num_layers"] for config in first} == {1, 2, 3, 4, 5}
    assert all(64 <= config["max_units"] <= 1024 for config in first)
    # Log-uniform: half of them are below the geometric mean, 256.
    assert 0.35 < np.mean([config["max_units"] < 256 for config in first]) < 0.65


@needs_bench
def test_the_reference_is_more_than_any_single_network_covers(lcbench: Lcbench) -> None:
    assert 0 < lcbench.scale.regret([lcbench.curve(CONFIG)[-1]], [lcbench.log_flops(CONFIG)]) < 1


@needs_bench
def test_the_exact_front_has_no_regret(nas201: Nas201) -> None:
    assert nas201.scale.regret(nas201.accuracy[nas201.front], nas201.latency_ms[nas201.front]) == pytest.approx(0.0)


@needs_bench
def test_the_front_is_what_enumeration_gives(nas201: Nas201) -> None:
    assert len(nas201.arch) == 15_625
    some = slice(0, 500)
    values = np.stack([-nas201.accuracy[some], nas201.latency_ms[some]], axis=1)
    dominated = [any((other <= value).all() and (other < value).any() for other in values) for value in values]
    assert (non_dominated(values) == ~np.array(dominated)).all()
    assert 3 < nas201.front.sum() < 200


@needs_bench
def test_latencies_of_networks_that_are_cut_off_are_left_out() -> None:
    assert len(Nas201("lat_ms_pixel3").arch) == 15_625 - 202


@needs_bench
def test_a_configuration_is_found_as_its_architecture(nas201: Nas201) -> None:
    config = dict(zip((f"edge_{i}" for i in range(6)), ["nor_conv_3x3"] * 5 + ["skip_connect"], strict=True))
    row = nas201.row(config)
    assert row is not None
    assert (
        nas201.arch[row]
        == "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|skip_connect~2|"
    )


@needs_bench
def test_an_unknown_column_is_named() -> None:
    with pytest.raises(DataError, match="no column lat_ms_abacus; there are index"):
        Nas201("lat_ms_abacus")
