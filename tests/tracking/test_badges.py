"""The results of attacks in a run's report: JSON, page and tables, each badge in columns of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eed_search.frontier.estimate import estimate_frontier
from eed_search.runs.ledger import RunView
from eed_search.tracking.badges import COLUMNS, badge_tables, other_lines
from eed_search.tracking.mlflow_facts import attack_facts
from eed_search.tracking.report import as_json, write_report
from eed_search.tracking.summary import summarise
from tests.cli.calling import call
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_attack, make_measurement, make_trial, make_view


@pytest.fixture
def view() -> RunView:
    """Three points surely on the frontier; two are checked, one of them claimed too, one invalid at tier 2."""
    trials = {i: make_trial(i, measurement=make_measurement(0.85 - 0.15 * i, 0.6 - 0.2 * i)) for i in range(3)}
    bad = make_attack(0.8, tier=2, badge="invalid", reasons=("check 9, gradients: 40 % without one",))
    attacks = {
        "0.0": [make_attack(0.7), bad],
        "2.0": [make_attack(0.4), make_attack(0.35, tier=2), make_attack(0.3, eps=0.2)],
    }
    made = make_view(0, trials=trials, attacks=attacks)
    assert [point.id for point in estimate_frontier(made).front] == ["2.0", "1.0", "0.0"]
    return made


def test_json_keeps_each_badge_apart(view: RunView) -> None:
    """The frontier's own figure stays `proxy`; what is missing is null; no frontier is named before it is whole."""
    facts = json.loads(json.dumps(as_json(summarise(view))))
    by_id = {point["id"]: point for point in facts["frontier"]}
    assert {point["robust_accuracy"]["badge"] for point in facts["frontier"]} == {"proxy"}
    assert by_id["0.0"]["checked"]["robust_accuracy"]["badge"] == "checked"
    assert by_id["0.0"]["claim"]["badge"] == "invalid"
    assert by_id["0.0"]["claim"]["reasons"] == ["check 9, gradients: 40 % without one"]
    assert (by_id["1.0"]["checked"], by_id["1.0"]["claim"]) == (None, None)
    assert by_id["2.0"]["claim"]["robust_accuracy"]["value"] == 0.35
    assert facts["badges"] == {
        "checked": {"frontier": None, "missing": ["1.0"], "invalid": []},
        "claim": {"frontier": None, "missing": ["1.0"], "invalid": ["0.0"]},
    }
    assert [(one["id"], one["eps"]) for one in facts["other_attacks"]] == [("2.0", 0.2)]


def test_the_frontier_by_checked_appears_once_all_are_checked(view: RunView) -> None:
    view.attacks["1.0"] = [make_attack(0.3)]
    assert as_json(summarise(view))["badges"]["checked"]["frontier"] == ["2.0", "0.0"]
    (checked, _) = badge_tables(summarise(view))
    assert "Frontier by `checked` alone: 2.0, 0.0." in checked.notes
    assert [(row[0], row[-1]) for row in checked.rows] == [("2.0", "yes"), ("1.0", ""), ("0.0", "yes")]


def test_a_table_holds_one_badge_and_says_what_its_figures_rest_on(view: RunView) -> None:
    """n, interval, attacks, eps, seed; an invalid result has no figure."""
    checked, claim = badge_tables(summarise(view))
    assert {len(row) for row in (*checked.rows, *claim.rows)} == {len(COLUMNS)}
    assert checked.title == "Robust accuracy at tier 1, badge `checked`"
    row = dict(zip(COLUMNS, checked.rows[-1], strict=True))
    assert (row["point"], row["n"], row["attacked"]) == ("0.0", "200", "2.00×")
    assert re.fullmatch(r"70\.0 ±\d\.\d", row["robust %"])
    assert checked.notes[0].startswith("robust: 200 fresh images, L-inf eps 0.15, seed 0; ±: 95 % interval.")
    assert checked.notes[1] == "Attacks: union of APGD-CE, Square."
    assert (
        "No frontier by `checked` yet: 1.0 not attacked; `eed-search attack digits:frontier --tier 1`"
        in checked.notes[2]
    )
    invalid = dict(zip(COLUMNS, claim.rows[-1], strict=True))
    assert (invalid["point"], invalid["robust %"], invalid["any prefix %"]) == ("0.0", "invalid", "–")
    assert "0.0: invalid, no figure is shown (check 9, gradients: 40 % without one)." in claim.notes
    assert "2 points were claimed on the same test images: the best of several looks better than it is." in claim.notes


def test_what_fits_in_no_column_is_listed(view: RunView) -> None:
    (line,) = other_lines(summarise(view))
    assert line.startswith("2.0: 30.0 ±")
    assert line.endswith("at tier 1 (badge `checked`), eps 0.2, seed 0, 200 fresh images: not in the columns")


def test_page_and_terminal_show_the_same_tables(view: RunView, tmp_path: Path) -> None:
    """Each badge a section and a table of its own, beside the search's."""
    html = write_report(summarise(view), tmp_path / "report")["html"].read_text()
    write_ledger(tmp_path / "home" / "digits", view)
    text = call("report", "--home", tmp_path / "home").stdout
    for badge, tier in (("checked", 1), ("claim", 2)):
        title = f"Robust accuracy at tier {tier}, badge `{badge}`"
        assert html.count(f"<h2>{title}</h2>") == 1
        assert text.count(title) == 1
    for row in (row for one in badge_tables(summarise(view)) for row in one.rows):
        assert f"<td>{row[0]}</td><td>{row[1]}</td>" in html
        assert re.search(rf"^ ?{row[0]} +{re.escape(row[1])} ", text, re.MULTILINE)
    tables = text.partition("Robust accuracy at tier 1")[2].partition("\nMLflow ")[0]
    assert max(map(len, tables.splitlines())) <= 80


def test_mlflows_names_carry_the_badge() -> None:
    """A `checked` figure and a `claim` never share a column, and an invalid one is in neither."""
    for badge, tier in (("checked", 1), ("claim", 2), ("invalid", 1)):
        metrics, tags = attack_facts(make_attack(0.7, tier=tier, badge=badge, reasons=("a reason",)))
        assert all(name.startswith(f"{badge}_") for name in metrics)
        assert metrics[f"{badge}_robust_accuracy"] == 0.7
        assert metrics[f"{badge}_num_samples"] == 200
        assert metrics[f"{badge}_attacked_speedup"] == pytest.approx(2.0)
        assert {f"{badge}_robust_accuracy_low", f"{badge}_robust_accuracy_high"} <= metrics.keys()
        assert (tags[f"{badge}.eps"], tags[f"{badge}.seed"], tags[f"tier{tier}.badge"]) == (0.15, 0, badge)
        assert tags[f"{badge}.attack"] == "union of APGD-CE, Square"
        assert tags[f"{badge}.notes"] == "a reason"
