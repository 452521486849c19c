"""The benchmark of search methods: its score, its table, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.problems import BENCH_FOLDER, DEVELOPMENT_TASKS, Lcbench, Scale
from benchmarks.search import (
    METHODS,
    SHARES,
    Cell,
    Outcome,
    main,
    mean_curves,
    refused,
    regret_steps,
    run,
    run_cell,
    table,
    verdict,
)

needs_bench = pytest.mark.skipif(not BENCH_FOLDER.is_dir(), reason=f"the benchmark's files are not in {BENCH_FOLDER}")
UNIT = Scale(best=(-1.0, 0.0), worst=(0.0, 1.0), reference=1.0)


def outcome(method: str, steps: list[tuple[float, float]], task: str = "a", seed: int = 0) -> Outcome:
    return Outcome(
        task=task,
        seed=seed,
        method=method,
        steps=((0.0, 1.0), *steps),
        num_trials=9,
        num_complete=3,
        decision_ms=0.0,
        suggest_ms=0.0,
        end="time",
    )


def test_regret_falls_with_each_network_that_adds_to_the_front() -> None:
    points = [(0.5, 0.5), (0.4, 0.6), (0.75, 0.5), (0.5, 0.25)]
    steps = regret_steps([0.1, 0.2, 0.3, 0.4], points, UNIT)
    # 0.5·0.5, then nothing, then 0.75·0.5, then 0.5·0.25 more.
    assert steps == ((0.0, 1.0), (0.1, 0.75), (0.3, 0.625), (0.4, 0.5))


def test_regret_counts_from_the_moment_of_the_report() -> None:
    curve = outcome("tpe", [(0.1, 0.7), (0.5, 0.2)]).regret_at(np.array([0.0, 0.09, 0.1, 0.49, 0.5, 1.0]))
    assert curve.tolist() == [1.0, 1.0, 0.7, 0.7, 0.2, 0.2]


def test_the_mean_is_over_seeds_and_then_over_tasks() -> None:
    curves = mean_curves(
        [
            outcome("tpe", [(0.1, 0.2)], "a", 0),
            outcome("tpe", [(0.1, 0.4)], "a", 1),
            outcome("tpe", [(0.1, 0.9)], "b", 0),
        ]
    )
    assert curves["tpe"]["a"][-1] == pytest.approx(0.3)
    assert curves["tpe"]["mean"][-1] == pytest.approx(0.6)


def test_the_verdict_compares_with_the_best_peer() -> None:
    curves = mean_curves(
        [
            outcome("random", [(0.9, 0.5)]),
            outcome("tpe", [(0.9, 0.4)]),
            outcome("ours", [(0.25, 0.35), (0.9, 0.2)]),
        ]
    )
    assert verdict(curves) == [
        "ours / best peer (tpe): 0.50 of its final regret.",
        "ours reached tpe's final regret after 25.0% of the budget.",
        "ours against tpe, worst task: a, -0.200.",
    ]


def test_the_verdict_says_so_if_the_best_peer_was_not_reached() -> None:
    curves = mean_curves([outcome("tpe", [(0.9, 0.4)]), outcome("ours", [(0.9, 0.5)])])
    assert verdict(curves)[1] == "ours did not reach tpe's final regret."


def test_the_table_puts_the_best_first_and_says_what_counts() -> None:
    lines = table([outcome("random", [(0.05, 0.5)]), outcome("tpe", [(0.05, 0.6), (0.9, 0.4)])]).splitlines()
    assert lines[0] == "| method | regret | at 10 % | a | trials | complete |"
    assert lines[2] == "| tpe | 0.400 | 0.600 | 0.400 | 9 | 3 |"
    assert lines[3].startswith("| random | 0.500")
    assert "a network that was" in lines[-2]


def test_tasks_of_the_proof_are_refused() -> None:
    message = refused(["126026", "3945"], proof=False)
    assert message is not None
    assert message.startswith("--tasks: 3945 belong to the proof and must stay unseen")
    assert refused(["3945"], proof=True) is None
    assert refused(DEVELOPMENT_TASKS, proof=False) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks", "3945"], "belong to the proof"),
        (["--seeds", "0"], "--seeds: 0; give 1 or more"),
        (["--budget", "0"], "--budget: 0; give more than 0 full trainings"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_wrong_options_are_named(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert said in capsys.readouterr().err


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bench", str(tmp_path)]) == 4
    assert "give the folder that holds the benchmark's files (--bench FOLDER)" in capsys.readouterr().err


def test_shares_are_tenths_of_a_per_cent() -> None:
    assert SHARES[100] == pytest.approx(0.1)


def small(method: str, seed: int, scale: Scale) -> Cell:
    return Cell("168868", seed, method, workers=4, budget=3, bench=str(BENCH_FOLDER), scale=scale)


@needs_bench
def test_the_order_of_cells_changes_no_result() -> None:
    scale = Lcbench("168868").scale
    cells = [small(method, seed, scale) for method in ("tpe_moasha", "moasha_promoting") for seed in range(2)]

    def facts(outcomes: list[Outcome]) -> set[tuple[object, ...]]:
        return {(o.method, o.seed, o.steps, o.num_trials, o.num_complete) for o in outcomes}

    assert facts(run(cells, 1)) == facts(run(cells[::-1], 1))


@pytest.mark.whole
@needs_bench
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_to_the_end_of_its_budget(method: str) -> None:
    found = run_cell(small(method, 0, Lcbench("168868").scale))
    assert found.end == "time"
    assert found.steps[-1][1] < 1
    assert found.steps[-1][0] <= 1


@pytest.mark.whole
@needs_bench
def test_the_command_prints_a_table_and_writes_every_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    options = ["--tasks", "168868", "--seeds", "2", "--methods", "random", "--budget", "2", "--processes", "2"]
    assert main([*options, "--out", str(out)]) == 0
    assert "| random |" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert [(s["method"], s["seed"]) for s in record["searches"]] == [("random", 0), ("random", 1)]
    assert record["versions"]["optuna"]
