"""Rows, flags, tables and pictures, from answers made by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from eed_search.runs.records import Interval
from eed_search.transfer import heatmap
from eed_search.transfer.grid import Choice, Clock
from eed_search.transfer.metrics import Answers
from eed_search.transfer.report import plain, write_report
from eed_search.transfer.results import CLEAN, Observation, Row, Timed, make_means, make_rows
from eed_search.transfer.run import Base, Results
from eed_search.transfer.runs import children, network_metrics
from eed_search.transfer.spec import BenchmarkSpec, Scheme
from eed_search.transfer.spec_file import parse
from eed_search.transfer.table import flat_row, headline_case, markdown, mean_cells, to_csv, verdict_lines

NUM = 400
PGD, DEEPFOOL = "pgd20 @ 0.1", "deepfool"


def _spec(**more: object) -> BenchmarkSpec:
    plain = {"name": "x", "seeds": [0], "models": [{"name": "small_cnn", "width": 8}], "attacks": ["pgd", "deepfool"]}
    return parse(plain | {"eps": [0.05, 0.1], "finetuned": [True]} | more, "x.yaml")


def _flags(share: float) -> np.ndarray:
    return np.arange(NUM) < round(share * NUM)


def _answers(base: float, static: float, adaptive: float) -> Answers:
    clean = np.ones(NUM, bool)
    return Answers(clean, clean, clean, _flags(base), _flags(static), _flags(adaptive))


def _observed(
    scheme: Scheme = "l1_filter",
    *,
    weak: tuple[float, float, float] = (0.5, 0.5, 0.5),
    strong: tuple[float, float, float] = (0.3, 0.3, 0.3),
    nearest: tuple[float, float, float] = (0.0, 0.9, 0.0),
    seed: int = 0,
) -> Observation:
    one = Interval(2.0, 1.9, 2.1)
    return Observation(
        "small_cnn-8", Choice(scheme, 0.5, True), seed, 100, 1000, 300, 4000, Timed(one, one, False), (),
        {
            CLEAN: _answers(1, 1, 1),
            "pgd20 @ 0.05": _answers(*weak),
            PGD: _answers(*strong),
            DEEPFOOL: _answers(*nearest),
        },
        {"pgd20 @ 0.05": "a" * 64, PGD: "b" * 64, DEEPFOOL: "c" * 64},
        {DEEPFOOL: (0.5, 0.7)},
    )  # fmt: skip


def _row(label: str, *observed: Observation) -> Row:
    attack, _, eps = label.partition(" @ ")
    rows = make_rows(_spec(), observed or (_observed(),))
    return next(row for row in rows if row.attack == attack and row.eps == (float(eps) if eps else None))


def _results(*observed: Observation) -> Results:
    spec = _spec()
    rows = make_rows(spec, observed)
    base = Base(
        "small_cnn-8", 0, 1.0, {PGD: 0.3, DEEPFOOL: 0.0}, {PGD: 1.0, DEEPFOOL: 0.5}, {PGD: "b" * 64, DEEPFOOL: "c" * 64}
    )
    return Results(spec, rows, make_means(spec, rows, observed), [base], list(observed), [("vgg", "too small")], NUM, 1.0)  # fmt: skip


# ---------------------------------------------------------------- flags


def test_static_above_adaptive_has_no_flag() -> None:
    """The network's own attack is at least as strong as the replay: as it must be."""
    assert _row(PGD, _observed(strong=(0.3, 0.5, 0.3))).flags == ()


def test_an_adaptive_attack_that_fails_is_flagged() -> None:
    """The replay breaks 20 points more than the network's own attack: far beyond noise."""
    assert _row(PGD, _observed(strong=(0.3, 0.3, 0.49))).flags == ("adaptive-failed",)


def test_one_image_more_is_within_noise() -> None:
    """Named as well, by another name."""
    assert _row(PGD, _observed(strong=(0.3, 0.3, 0.3025))).flags == ("adaptive-weaker",)


def test_nothing_left_is_a_floor() -> None:
    """Base and network both at 1 %: the gap is near 0 and says nothing."""
    row = _row(PGD, _observed(strong=(0.01, 0.5, 0.01)))
    assert row.flags == ("floor",)
    assert row.adaptive == "comparable"


def test_accuracy_that_rises_with_the_budget_is_flagged() -> None:
    """More accurate at 0.1 than at 0.05: the stronger attack has failed."""
    assert "rises-with-eps" in _row(PGD, _observed(weak=(0.5, 0.5, 0.1), strong=(0.3, 0.9, 0.3))).flags


def test_minimum_norm_inputs_carry_their_warning() -> None:
    """With the distances beside them."""
    row = _row(DEEPFOOL)
    assert "minimum-norm" in row.flags
    assert (row.l2_base, row.l2_adaptive) == (0.5, 0.7)


# ---------------------------------------------------------------- means and verdict


def test_controls_are_left_out_of_the_mean() -> None:
    """The claim is about filters chosen by a score; random ones and masks stand in the table alone."""
    found = _results(_observed(), _observed("random_filter", strong=(0.3, 0.9, 0.9)))
    mean = next(one for one in found.means if one.attack == "all")
    assert mean.num_rows == 2  # PGD at two budgets; neither DeepFool nor clean
    assert mean.gap_static.value == 0


def test_static_and_adaptive_have_verdicts_of_their_own() -> None:
    """The same networks: comparable statically, 20 points below adaptively."""
    static, adaptive, seeds = verdict_lines(_results(_observed(weak=(0.5, 0.5, 0.3), strong=(0.3, 0.3, 0.1))))
    assert static.startswith("static, fine-tuned: COMPARABLE. ")
    assert "+0.0 points on average" in static
    assert adaptive.startswith("adaptive, fine-tuned: NOT COMPARABLE. ")
    assert "−20.0 points on average" in adaptive
    assert seeds.startswith("One seed: ")


def test_a_mean_that_says_nothing_has_no_verdict() -> None:
    """DeepFool: made for the base's boundary, and nothing left of either under their own."""
    found = _results(_observed())
    cells = {mean_cells(mean)[0]: mean_cells(mean) for mean in found.means}
    assert (cells["deepfool"][5], cells["deepfool"][7]) == ("minimum-norm", "floor")
    assert (cells["clean"][5], cells["clean"][7]) == ("comparable", "comparable")
    assert cells["clean"][4] == "+0.0 (+0.0..+0.0)"


def test_seeds_are_put_together() -> None:
    """Two seeds, one row; samples add up."""
    row = _row(PGD, _observed(), _observed(seed=1))
    assert row.seeds == (0, 1)
    assert row.compared.static.num == 2 * NUM
    assert row.inputs == ("b" * 64, "b" * 64)


# ---------------------------------------------------------------- files


def test_csv_holds_every_number_and_hash() -> None:
    """One line for each row, the hash of the inputs in full."""
    rows = make_rows(_spec(), [_observed()])
    read = list(csv.DictReader(io.StringIO(to_csv([flat_row(row) for row in rows]))))
    assert [row["attack"] for row in read] == ["clean", "pgd20", "pgd20", "deepfool"]
    assert read[2]["inputs_sha256"] == "b" * 64
    assert (read[2]["transfer"], read[2]["transfer_n"]) == ("1", "280")
    assert float(read[2]["transfer_low"]) == pytest.approx(0.9865, abs=1e-3)
    assert read[0]["transfer"] == ""


def test_mlflow_s_metrics_have_one_name_for_each_number() -> None:
    """Size and time of the network, then each quantity under each attack at each budget; none where there is none."""
    found = network_metrics(make_rows(_spec(), [_observed(strong=(0.3, 0.5, 0.2))]))
    assert (found["parameters"], found["macs"], found["latency_ms"], found["speedup"]) == (100, 1000, 2.0, 2.0)
    assert (found["static/pgd20 0.1"], found["gap_adaptive/pgd20 0.1"]) == (0.5, pytest.approx(-0.1))
    assert (found["l2_base/deepfool"], found["clean_agreement"]) == (0.5, 1)
    assert "l2_base/pgd20 0.1" not in found
    (child,) = children(make_rows(_spec(), [_observed()]))
    assert child.title == "small_cnn-8 l1_filter 50 % tuned"
    assert child.params == {
        "model": "small_cnn-8",
        "scheme": "l1_filter",
        "ratio": "0.5",
        "finetuned": "yes",
        "seeds": "0",
    }
    assert "deepfool : minimum-norm" in child.tags["flags"]


def test_the_headline_is_chosen_by_the_file_alone() -> None:
    """AutoAttack, else PGD; the middle budget."""
    assert headline_case(_spec(eps=[0.1, 0.05, 0.2])) == ("pgd20", 0.1)
    assert headline_case(_spec(attacks=["pgd", "autoattack"])) == ("autoattack", 0.1)
    assert headline_case(_spec(attacks=["deepfool"])) == ("deepfool", None)


def test_the_report_is_whole(tmp_path: Path) -> None:
    """Table, rows, means, JSON, one page and one picture for each base; nothing is left to guess."""
    results = _results(_observed(), _observed("bn_gamma", strong=(0.3, 0.3, 0.49)))
    names = {file.name for file in write_report(results, tmp_path)}
    assert names == {
        "results.md", "results.csv", "means.csv", "results.json", "heatmap.html", "heatmap-small_cnn-8.png",
    }  # fmt: skip
    text = (tmp_path / "results.md").read_text()
    for part in (
        "## Verdict",
        "## By attack, fine-tuned",
        "## Bases",
        "bbbbbbbbbbbbbbbb",
        "`adaptive-failed` (1 rows)",
        "vgg: too small",
    ):
        assert part in text
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(plain(results)))
    assert (tmp_path / "heatmap-small_cnn-8.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "heatmap.html").read_text()
    assert page.count("Plotly.newPlot(") == 1
    assert "<script src" not in page  # it needs no network


def test_every_table_of_the_markdown_is_even() -> None:
    """Equal cells in head, rule and rows."""
    widths = [line.count("|") for line in markdown(_results(_observed())).splitlines() if line.startswith("|")]
    tables = [line for line in markdown(_results(_observed())).split("\n\n") if line.startswith("|")]
    assert len(widths) > 10
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_heat_maps_hold_rate_and_gaps_in_per_cent() -> None:
    """Rows are networks, columns attacks; what was not counted is empty."""
    rate, static, adaptive = heatmap.panels(make_rows(_spec(), [_observed(strong=(0.3, 0.5, 0.2))]), "small_cnn-8")
    assert rate.networks == ("l1_filter 50 % tuned",)
    assert rate.attacks == ("pgd20 0.05", "pgd20 0.1", "deepfool")
    assert rate.values[0, 1] == pytest.approx(100 * 0.5 / 0.7)
    assert static.values[0, 1] == pytest.approx(20)
    assert adaptive.values[0, 1] == pytest.approx(-10)
    assert (static.low, static.high) == (-90, 90)


# ---------------------------------------------------------------- time left


def test_time_left_counts_each_model_by_its_own() -> None:
    """Two of 10 s are left of one, and three of a model not yet met, which counts as the mean."""
    clock = Clock({"a": 4, "b": 3})
    assert clock.left_s() is None
    clock.done("a", 10, computed=True)
    clock.done("a", 0.1, computed=False)
    assert clock.left_s() == 2 * 10 + 3 * 10
    clock.dropped("b", 2)
    clock.done("b", 40, computed=True)
    assert clock.left_s() == 20
