"""The benchmark of reported frontiers: its counts, its simulated measurements, and that it runs."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.front import (
    RULES,
    Row,
    Seen,
    Tally,
    World,
    main,
    ours,
    raw,
    table,
    timed,
    touching,
)
from benchmarks.problems import BENCH_FOLDER


def _world(accuracy: list[float], latency_ms: list[float], *, images: int = 4000, noise: float = 0.0) -> World:
    return World(np.array(accuracy), np.array(latency_ms), images, noise, np.random.default_rng(0), (1, 1))


def _seen(world: World) -> Seen:
    everyone = np.arange(len(world.accuracy))
    return Seen(world.answers(everyone, world.num_images), world.timed(everyone, world.noise))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_far_apart_is_found_by_every_rule(rule: str) -> None:
    """Three points of the front and one that is dominated, hundreds of images apart."""
    world = _world([0.5, 0.7, 0.9, 0.6], [1.0, 2.0, 3.0, 2.5])
    found = RULES[rule](world, _seen(world))
    assert sorted(found.which) == [0, 1, 2]
    for i, share in zip(found.which, found.accuracy, strict=True):
        assert share.low < world.accuracy[i] < share.high


def test_a_lucky_point_is_taken_back() -> None:
    """The search saw a slow, poor network answer everything rightly: its figures report it, fresh images do not."""
    world = _world([0.8, 0.5], [1.0, 2.0], images=50)
    seen = Seen(np.stack([np.arange(50) < 40, np.ones(50, bool)]), world.latency_ms)
    assert sorted(raw(world, seen).which) == [0, 1]
    assert sorted(timed(world, seen).which) == [0, 1]
    world.validation_rounds = (1, 1, 2, 4, 8)
    assert sorted(ours(world, seen).which) == [0]


def test_a_lucky_latency_is_taken_back_by_a_final_one() -> None:
    """The less accurate of two seemed faster; timed again it is not."""
    world = _world([0.9, 0.5], [1.0, 1.2], images=50, noise=0.05)
    seen = Seen(world.answers(np.arange(2), 50), np.array([1.0, 0.9]))
    assert sorted(raw(world, seen).which) == [0, 1]
    assert sorted(timed(world, seen).which) == [0]


def test_a_final_latency_has_the_protocols_noise() -> None:
    """More rounds, doubled up to twice until the interval is within 1 %."""
    for noise, rounds in ((0.0, 80), (0.008, 80), (0.01, 160), (0.05, 320)):
        assert _world([0.5], [1.0], noise=noise).final_noise == pytest.approx(noise * math.sqrt(30 / rounds))


def test_what_is_surely_dominated_is_not_measured_again() -> None:
    """By the search's intervals."""
    world = _world([0.9, 0.5, 0.89], [1.0, 2.0, 1.0], images=500)
    assert touching(world, _seen(world)).tolist() == [True, False, True]


def test_with_few_fresh_images_none_of_them_chooses() -> None:
    """Half of the search's: all are the last slice, and nothing is timed twice."""
    world = _world([0.5, 0.7, 0.9, 0.6], [1.0, 2.0, 3.0, 2.5], images=200, noise=0.01)
    world.fresh = 0.5
    found = ours(world, _seen(world))
    assert sorted(found.which) == [0, 1, 2]
    assert found.images == 3 * 100
    assert found.timings <= 4


def test_targets_are_judged_by_their_numbers() -> None:
    """Precision only where the raw one is below 0.6; recall and coverage always."""
    good = Tally(reported=10, hits=8, true=16, accuracy_held=10, latency_held=9)
    poor = Tally(reported=10, hits=5, true=16, accuracy_held=9, latency_held=9)
    sure = Tally(reported=10, hits=6, true=16)
    assert (good.precision, good.recall, good.coverage) == (0.8, 0.5, 0.95)
    assert Row(100, 2, {"raw": poor, "ours": good}).missed() == []
    assert Row(100, 2, {"raw": sure, "ours": sure}).missed() == ["coverage"]
    assert Row(100, 2, {"raw": poor, "ours": poor}).missed() == ["precision", "coverage"]
    assert Row(100, 2, {"raw": good, "ours": poor}).missed() == ["recall", "coverage"]
    assert "1 of 1 settings reach all" in table([Row(100, 2, dict.fromkeys(RULES, good) | {"raw": poor})], 1, 10, "x")


def test_nothing_reported_is_no_division_by_zero() -> None:
    """Precision, recall and coverage are 0."""
    assert (Tally().precision, Tally().recall, Tally().coverage) == (0, 0, 0)


def _bench(folder: Path) -> Path:
    """A table of 40 architectures on a line with neighbours."""
    rng = np.random.default_rng(0)
    rows = ["arch,cifar10_test_acc,lat_ms_x"]
    rows += [f"a{i},{50 + i + rng.normal(0, 2):.2f},{1 + 0.1 * i + abs(rng.normal(0, 0.2)):.3f}" for i in range(40)]
    with gzip.open(folder / "nasbench201_acc_cost_latency.csv.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    return folder


def test_the_command_prints_one_table_and_writes_its_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each setting; the same seeds give the same table."""
    arguments = ["--images", "50", "--noise", "0", "2", "--seeds", "3", "--latency", "lat_ms_x", "--bench"]
    tables = []
    for _ in range(2):
        code = main([*arguments, str(_bench(tmp_path)), "--out", str(tmp_path / "out.json")])
        assert code in (0, 1)
        tables.append(capsys.readouterr().out.split("\n\n")[0])
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 4
    assert (tmp_path / "out.json").is_file()


def test_a_missing_table_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code of a data error, and what to do."""
    assert main(["--bench", str(tmp_path)]) == 4
    assert "give the folder that holds the benchmark's files (--bench FOLDER)" in capsys.readouterr().err


@pytest.mark.skipif(
    not (BENCH_FOLDER / "nasbench201_acc_cost_latency.csv.gz").is_file(), reason="no NAS-Bench-201 table"
)
def test_the_real_table_shows_what_re_validation_is_worth() -> None:
    """Where fewer than half of the apparent points are real, ours are right much more often."""
    from benchmarks.front import run_row
    from benchmarks.problems import Nas201

    row = run_row(Nas201("lat_ms_pixel2"), 500, 2.0, range(6), 200)
    assert row.tallies["raw"].precision < 0.6
    assert row.ratio > 1.3
    assert row.tallies["ours"].coverage > 0.9
