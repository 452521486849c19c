"""The report: what the JSON and the files say."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from eed_search.core.errors import StoreError
from eed_search.frontier.estimate import estimate_frontier
from eed_search.frontier.points import points
from eed_search.runs.ledger import RunView
from eed_search.tracking.report import as_json, write_report
from eed_search.tracking.summary import summarise
from tests.tracking.factories import make_latency, make_measurement, make_trial, make_view

POINT_KEYS = {
    "id", "trial", "params", "robust_accuracy", "clean_accuracy", "latency_ms", "speedup", "worst_case_speedup",
    "mean_members_run", "num_members", "macs", "size_bytes", "latency", "difference_to_base", "exit_shares",
}  # fmt: skip


@pytest.fixture(scope="module")
def view() -> RunView:
    """A finished search."""
    return make_view()


@pytest.fixture(scope="module")
def files(view: RunView, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its report's files."""
    return write_report(summarise(view), tmp_path_factory.mktemp("home") / "digits" / "report")


def test_json_names_run_and_schema(view: RunView) -> None:
    """JSON names run and schema."""
    facts = as_json(summarise(view))
    assert (facts["schema_version"], facts["run"], facts["state"]) == (1, "digits", "finished")


def test_json_counts_trials_by_state(view: RunView) -> None:
    """JSON counts trials by state."""
    assert as_json(summarise(view))["num_trials"] == {
        "done": 17,
        "infeasible": 1,
        "pruned": 1,
        "failed": 1,
        "running": 0,
    }


def test_json_is_plain_and_without_nan(view: RunView) -> None:
    """JSON is plain and without nan."""
    facts = as_json(summarise(view))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_every_point_carries_every_field(view: RunView) -> None:
    """Every point carries every field."""
    front = as_json(summarise(view))["frontier"]
    assert front
    assert all(set(point) >= POINT_KEYS for point in front)


def test_base_and_controls_carry_the_fields_of_a_point(view: RunView) -> None:
    """Base and baselines carry the fields of a point."""
    facts = as_json(summarise(view))
    for reference in (facts["base"], *facts["baselines"]):
        assert set(reference) >= (POINT_KEYS - {"id", "trial", "params"}) | {"name", "size", "recipe", "seconds"}


def test_robust_accuracy_says_what_attacked_it(view: RunView) -> None:
    """Robust accuracy says what attacked it."""
    robust = as_json(summarise(view))["frontier"][0]["robust_accuracy"]
    assert set(robust) == {"value", "low", "high", "num_samples", "attack", "eps", "badge"}
    assert (robust["attack"], robust["eps"], robust["badge"]) == ("gated-pgd-20", 0.15, "proxy")
    assert robust["low"] <= robust["value"] <= robust["high"]


def test_latency_is_a_plain_number_with_its_interval_beside(view: RunView) -> None:
    """Latency is a plain number with its interval beside."""
    point = as_json(summarise(view))["frontier"][0]
    assert isinstance(point["latency_ms"], float)
    assert point["latency"]["low_ms"] <= point["latency_ms"] <= point["latency"]["high_ms"]
    assert set(point["latency"]) >= {"p50_ms", "p95_ms", "num_calls", "worst_case_ms", "method"}


def test_no_frontier_point_dominates_another(view: RunView) -> None:
    """No frontier point dominates another."""
    front = as_json(summarise(view))["frontier"]
    robust = [point["robust_accuracy"]["value"] for point in front]
    latency = [point["latency_ms"] for point in front]
    assert latency == sorted(latency)
    assert robust == sorted(robust)


def test_final_latency_replaces_the_one_of_the_search(view: RunView) -> None:
    """Final latency replaces the one of the search."""
    first = estimate_frontier(view).front[0].id
    timed = {first: make_latency(0.05, method="cascade"), "dense base": make_latency(0.7, method="cascade")}
    facts = as_json(summarise(replace(view, latencies=timed)))
    assert facts["frontier"][0]["latency_ms"] == 0.05
    assert facts["frontier"][0]["latency"]["method"] == "cascade"
    assert facts["base"]["latency_ms"] == 0.7
    assert facts["base"]["latency"]["images_per_second"] == {"value": 2000 / 0.7, "low": 1960 / 0.7, "high": 2040 / 0.7}


def test_members_trained_and_used_come_from_the_stages(view: RunView) -> None:
    """Members trained and used come from the stages."""
    facts = as_json(summarise(view))
    uses = [use for trial in view.trials.values() for use in trial.stages if use.stage == "member.1"]
    assert facts["members_used"] == len(uses)
    assert facts["member_trainings"] == sum(not use.hit for use in uses)
    assert facts["stages"]["base"] == {"computed": 0, "reused": len(view.trials)}


def test_a_run_that_has_just_begun_has_a_report() -> None:
    """A run that has just begun has a report."""
    facts = as_json(summarise(RunView(name="new", proposals={0: {}})))
    assert facts["base"] is None
    assert facts["frontier"] == []
    assert facts["hypervolume"] == 0
    assert facts["num_trials"]["running"] == 1


def test_files_lie_where_they_are_said_to(files: dict[str, Path]) -> None:
    """Files lie where they are said to."""
    assert {kind: path.name for kind, path in files.items()} == {
        "html": "frontier.html",
        "csv": "frontier.csv",
        "json": "frontier.json",
    }
    assert all(path.is_file() for path in files.values())
    assert len(list(files["html"].parent.iterdir())) == 3  # no half-written file is left


def test_json_file_is_the_json(view: RunView, files: dict[str, Path]) -> None:
    """JSON file is the JSON."""
    assert json.loads(files["json"].read_text()) == as_json(summarise(view))


def test_json_lists_what_may_belong_apart(view: RunView) -> None:
    """With its probability, and by what the two were told apart."""
    facts, found = as_json(summarise(view)), estimate_frontier(view)
    assert [point["id"] for point in facts["frontier"]] == [p.id for p in found.front]
    assert [point["id"] for point in facts["may_belong"]] == [p.id for p in found.uncertain]
    assert all(point["front_probability"] >= 0.75 for point in facts["frontier"])
    assert all(point["front_probability"] < 0.75 for point in facts["may_belong"])
    assert facts["choice"] == {
        "threshold": 0.75,
        "reached": True,
        "decided": False,
        "fresh_images_that_chose": 0,
        "fresh_images_that_chose_nothing": 200,
        "validation_rounds": [],
        "looks": [],  # the old name
    }


def test_csv_has_a_row_for_each_row_of_the_table(view: RunView, files: dict[str, Path]) -> None:
    """The CSV has a row for each row of the table."""
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [row["kind"] for row in rows] == [
        *["frontier"] * len(estimate_frontier(view).front),
        *["uncertain"] * len(estimate_frontier(view).uncertain),
        *("base", "baseline", "baseline"),
    ]
    first = as_json(summarise(view))["frontier"][0]
    assert float(rows[0]["robust_accuracy.value"]) == first["robust_accuracy"]["value"]
    assert rows[0]["params.member1.score"] == first["params"]["member1.score"]
    assert math.isclose(float(rows[0]["latency_ms"]), first["latency_ms"])


def test_page_needs_no_network(files: dict[str, Path]) -> None:
    """Page needs no network."""
    text = files["html"].read_text()
    assert "src=" not in text.split("<script>")[0]
    assert 'src="http' not in text
    assert "<link" not in text.split("<script>")[0]
    assert "Plotly.newPlot" in text


def test_page_shows_frontier_base_controls_and_failures(view: RunView, files: dict[str, Path]) -> None:
    """Page shows frontier base baselines and failures."""
    text = files["html"].read_text()
    body = text[text.rindex("<h2>Frontier, uncertain points, dense base and baselines") :]
    for name in (
        *(point.id for point in points(view) if point.id in estimate_frontier(view).probability),
        "dense base",
        "scratch 50 % (labels)",
        "loss is nan",
    ):
        assert name in body


def test_page_shows_text_of_others_as_text(tmp_path: Path) -> None:
    """Page shows text of others as text."""
    trial = make_trial(0, outcome="failed", reason="error", message="<script>alert(1)</script>", measurement=None)
    paths = write_report(summarise(make_view(0, trials={0: trial}, notes=["<b>bold</b>"])), tmp_path)
    text = paths["html"].read_text()
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>bold" not in text


def test_page_of_a_run_without_a_finished_trial(tmp_path: Path) -> None:
    """Page of a run without a finished trial."""
    assert write_report(summarise(make_view(0, baselines=[])), tmp_path)["html"].stat().st_size > 1_000_000


def test_a_noisy_point_is_drawn_and_not_ranked() -> None:
    """A noisy point is drawn and not ranked."""
    from eed_search.tracking.plots import frontier_figure

    noisy = make_trial(0, measurement=make_measurement(0.99, 0.01, latency=make_latency(0.01, noisy=True)))
    view = make_view(0, trials={0: noisy, 1: make_trial(1)})
    drawn = {trace.name: len(trace.x) for trace in frontier_figure(summarise(view)).data if trace.name}
    assert (drawn["not ranked"], drawn["frontier"]) == (1, 1)


def test_every_measured_trial_is_drawn_once(view: RunView) -> None:
    """Every measured trial is drawn once."""
    from eed_search.tracking.plots import frontier_figure

    drawn = {trace.name: len(trace.x) for trace in frontier_figure(summarise(view)).data if trace.name}
    assert drawn["frontier"] + drawn["uncertain"] + drawn["dominated"] == len(points(view))
    assert (drawn["not ranked"], drawn["dense base"], drawn["baseline, from scratch"]) == (1, 1, 2)


@pytest.mark.parametrize(("most", "named"), [(0, False), (50, True)])
def test_names_of_many_uncertain_points_are_left_to_hovering(
    view: RunView, monkeypatch: pytest.MonkeyPatch, most: int, named: bool
) -> None:
    """Beside each other they could not be read; the frontier's always stand there."""
    from eed_search.tracking import plots

    monkeypatch.setattr(plots, "_MOST_NAMED", most)
    drawn = {trace.name: trace for trace in plots.frontier_figure(summarise(view)).data if trace.name}
    assert len(drawn["uncertain"].x) > 0
    assert ("text" in drawn["uncertain"].mode) is named
    assert "text" in drawn["frontier"].mode


def test_hypervolume_over_trials_rises_to_that_of_the_run(view: RunView) -> None:
    """Hypervolume over trials rises to that of the run."""
    from eed_search.tracking.plots import hypervolume_over_trials

    values = hypervolume_over_trials(summarise(view))
    assert len(values) == len(view.trials)
    assert values == sorted(values)
    assert values[-1] == pytest.approx(as_json(summarise(view))["hypervolume"], abs=1e-12)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """A folder that cannot be made is one clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(summarise(make_view(1)), tmp_path / "file" / "report")
