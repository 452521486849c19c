"""A whole tiny benchmark: its laws, what is left out, and going on after an interruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eed_search.core.errors import ModelError, RunError
from eed_search.core.failpoints import VARIABLE
from eed_search.transfer.report import CSV_NAME, JSON_NAME, MARKDOWN_NAME, write_report
from eed_search.transfer.results import CLEAN, Row
from eed_search.transfer.run import Results, run
from eed_search.transfer.spec import BenchmarkSpec
from eed_search.transfer.spec_file import parse

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 1],
    "data": {"num_train": 300, "num_test": 30},
    "models": [{"name": "small_cnn", "width": 8}],
    "schemes": ["l1_filter", "unstructured_magnitude"],
    "ratios": [0, 0.5],
    "finetuned": [False],
    "attacks": ["pgd5", {"name": "deepfool", "steps": 5}],
    "eps": [0, 0.1],
    "base": {"epochs": 6, "batch_size": 50},
    "latency": {"rounds": 3, "block_ms": 1},
    "threads": 1,
    "device": "cpu",
}


def _spec(**more: Any) -> BenchmarkSpec:
    return parse(TINY | more, "tiny.yaml")


def _run(home: Path, **more: Any) -> tuple[Results, list[str]]:
    lines: list[str] = []
    spec = _spec(**more)
    return run(spec, home=home, name=spec.name, progress=lines.append), lines


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that the base is trained once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def done(home: Path) -> Iterator[tuple[Results, list[str]]]:
    """The tiny benchmark, undisturbed."""
    threads = torch.get_num_threads()
    yield _run(home)
    torch.set_num_threads(threads)


def _rows(results: Results, ratio: float) -> list[Row]:
    return [row for row in results.rows if row.choice.ratio == ratio]


def test_ratio_0_transfers_everything(done: tuple[Results, list[str]]) -> None:
    """A copy of the base: T is 1, both gaps are exactly 0, every clean answer the same."""
    broken = 0
    for row in _rows(done[0], 0):
        assert row.compared.gap_static.value == row.compared.gap_adaptive.value == 0
        assert row.compared.agreement.value == 1
        assert row.l2_adaptive == row.l2_base
        if row.compared.transfer.num:
            broken += row.compared.transfer.num
            assert row.compared.transfer.value == 1
    assert broken > 20


def test_no_budget_equals_clean(done: tuple[Results, list[str]]) -> None:
    """Accuracies at ε 0 are the clean ones; nothing was broken, so there is no T."""
    clean = {row.choice: row for row in done[0].rows if row.attack == CLEAN}
    at_0 = [row for row in done[0].rows if row.eps == 0]
    assert len(at_0) == 4
    for row in at_0:
        found, without = row.compared, clean[row.choice].compared
        assert found.static == found.adaptive == without.clean
        assert found.base == without.base_clean
        assert found.transfer.num == 0


def test_pruning_at_half_is_another_network(done: tuple[Results, list[str]]) -> None:
    """Fewer parameters and MACs for filters; fewer parameters alone for masks; and not everything transfers."""
    filters, masks = (
        next(row for row in _rows(done[0], 0.5) if row.choice.scheme == scheme and row.attack == "deepfool-5")
        for scheme in ("l1_filter", "unstructured_magnitude")
    )
    assert filters.num_parameters < 0.4 * filters.base_parameters
    assert filters.macs < 0.5 * filters.base_macs
    assert masks.num_parameters < 0.6 * masks.base_parameters
    assert masks.macs == masks.base_macs
    assert masks.timed is not None
    assert "minimum-norm" in masks.flags


def test_the_same_inputs_are_replayed_on_every_network(done: tuple[Results, list[str]]) -> None:
    """Crafted once for each base, attack, budget and seed: two hashes a case, the same in every row."""
    cases = {(row.attack, row.eps) for row in done[0].rows if row.attack != CLEAN}
    for case in cases:
        assert len({row.inputs for row in done[0].rows if (row.attack, row.eps) == case}) == 1
    hashes = {sha for row in done[0].rows for sha in row.inputs}
    assert len(hashes) == len(cases) * 2
    stored = {sha for base in done[0].bases for sha in base.inputs.values()}
    assert stored == hashes


def test_progress_says_how_far_it_is(done: tuple[Results, list[str]]) -> None:
    """A line for each network, with the time left until the last."""
    lines = [line for line in done[1] if " of 8: " in line]
    assert [line.split()[0] for line in lines] == [str(i) for i in range(1, 9)]
    assert all("about" in line and line.endswith("left") for line in lines[:-1])
    assert "left" not in lines[-1]


def test_run_again_reads_everything(done: tuple[Results, list[str]], home: Path, tmp_path: Path) -> None:
    """The same table to the last byte, latencies too, and nothing computed."""
    before = _artifacts(home)
    again, _ = _run(home)
    assert _artifacts(home) == before
    write_report(done[0], tmp_path / "first")
    write_report(again, tmp_path / "again")
    assert (tmp_path / "first" / CSV_NAME).read_bytes() == (tmp_path / "again" / CSV_NAME).read_bytes()


def _artifacts(home: Path) -> dict[Path, int]:
    """Every artifact of the store with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in (home / "store").glob("benchmark_*/*/manifest.json")}


@pytest.mark.whole
def test_what_was_interrupted_goes_on_to_the_same_table(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off after two networks of a fresh home, then run again: every number but the latencies is equal."""
    short = {"name": "short", "seeds": [0], "latency": None}  # measured times differ between homes
    undisturbed, _ = _run(home, **short)
    monkeypatch.setattr("eed_search.core.failpoints._calls", Counter())
    monkeypatch.setenv(VARIABLE, "benchmark.network:raise:2")
    with pytest.raises(RuntimeError, match=r"benchmark\.network"):
        _run(tmp_path, **short)
    monkeypatch.delenv(VARIABLE)
    again, _ = _run(tmp_path, **short)
    write_report(undisturbed, tmp_path / "first")
    write_report(again, tmp_path / "again")
    for name in (CSV_NAME, JSON_NAME, MARKDOWN_NAME):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_models_that_do_not_suit_are_left_out_and_named(home: Path) -> None:
    """VGG halves the image five times: 8×8 is too small; the other model goes on."""
    models = [{"name": "vgg16_bn", "width": 8}, *TINY["models"]]
    results, _ = _run(home, name="vgg", models=models, ratios=[0], seeds=[0], latency=None)
    (what, why), *_ = results.left_out
    assert what == "vgg16_bn-8"
    assert why.startswith("model.name: vgg16_bn shrinks images 32-fold ")
    assert {row.model for row in results.rows} == {"small_cnn-8"}


def test_no_model_left_is_an_error_before_training(tmp_path: Path) -> None:
    """Nothing was trained, nothing kept."""
    with pytest.raises(
        ModelError, match=r"none of them can be benchmarked on these images: vgg16_bn-8: .* shrinks images 32-fold"
    ):
        _run(tmp_path, name="none", models=[{"name": "vgg16_bn", "width": 8}])
    assert not list((tmp_path / "store").glob("benchmark_*"))


def test_a_name_belongs_to_one_benchmark(home: Path, done: tuple[Results, list[str]], tmp_path: Path) -> None:
    """Other settings under the same name are refused, with the difference; so is a search's name."""
    with pytest.raises(RunError, match=r"holds a benchmark of other settings \(margin: 0.02 is now margin: 0.05\)"):
        _run(home, margin=0.05)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "ledger.sqlite").touch()
    with pytest.raises(RunError, match="holds a search; give the benchmark another --name"):
        _run(tmp_path)


def test_fine_tuning_brings_accuracy_back(home: Path) -> None:
    """Three quarters of the filters gone: far below the base without, near it with fine-tuning."""
    results, _ = _run(
        home, name="tuned", seeds=[0], latency=None, schemes=["l1_filter"], ratios=[0.75], finetuned=[False, True], attacks=["fgsm"],
        eps=[0.1], finetune={"epochs": 4, "lr": 0.05, "batch_size": 50},
    )  # fmt: skip
    plain, tuned = (row.compared.clean.value or 0.0 for row in results.rows if row.attack == CLEAN)
    assert tuned > plain + 0.1
    assert np.isfinite(tuned)
