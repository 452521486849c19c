"""The summary of a run: worked out once for a command, and everything that shows it says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from eed_search.cli.result import headline, legend, show, verdict_lines
from eed_search.frontier.attacked import TIERS
from eed_search.runs.ledger import FILE_NAME, Ledger
from eed_search.tracking import summary as module
from eed_search.tracking.report import as_json, write_report
from eed_search.tracking.summary import RunSummary, summarise
from tests.cli.calling import call
from tests.runs.ledgers import events_of
from tests.tracking.factories import make_attack, make_view


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one finished search."""
    with Ledger(_folder(tmp_path / "home" / "digits") / FILE_NAME, write=True) as ledger:
        for event in events_of(make_view()):
            ledger.append(event.kind, event.data, event.trial)
    return tmp_path / "home"


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("words", [("report",), ("report", "--json"), ("report", "--out", "REPORT")])
def test_a_command_works_it_out_once(home: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Frontier, verdict and gains, bootstrap included, are computed by one call."""
    given = [str(tmp_path / "out") if word == "REPORT" else word for word in words]
    counted: dict[str, Any] = {
        name: mock.patch.object(module, name, side_effect=getattr(module, name))
        for name in ("estimate_frontier", "compare")
    }
    with counted["estimate_frontier"] as estimate_frontier, counted["compare"] as compare:
        done = call(given[0], "digits", *given[1:], "--home", home)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (estimate_frontier.call_count, compare.call_count) == (1, 1)


def test_terminal_page_and_json_say_the_same(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise(make_view(name="digits"))
    facts = as_json(found)
    assert [point["id"] for point in facts["frontier"]] == [point.id for point in found.frontier.front]
    assert facts["verdict"]["text"] == found.verdict.text
    assert " ".join(verdict_lines(found)).startswith(found.verdict.text)
    assert f"hypervolume {found.hypervolume:.3f}" in " ".join(headline(found))
    show(found, home / "digits", home)
    said = capsys.readouterr().out
    for line in (*legend(found), *verdict_lines(found)):
        assert line in said
    files = write_report(found, tmp_path / "report")
    assert json.loads(files["json"].read_text(encoding="utf-8")) == json.loads(json.dumps(facts))


def test_references_have_their_final_latencies() -> None:
    """The dense base first, then the baselines, by name."""
    view = make_view()
    assert view.base is not None
    found = summarise(view)
    assert list(found.references) == [view.base.name, *(baseline.name for baseline in view.baselines)]
    for name, latency in view.latencies.items():
        if name in found.references:
            assert found.references[name].latency == latency


def test_results_of_each_badge_stand_apart() -> None:
    view = make_view()
    first = summarise(view).frontier.front[0].id
    view.attacks = {first: [make_attack(0.7), make_attack(0.6, tier=2)]}
    found = summarise(view)
    assert set(found.badges) == set(TIERS)
    assert {badge: list(one.results) for badge, one in found.badges.items()} == {"checked": [first], "claim": [first]}
    assert isinstance(found, RunSummary)


def test_a_run_without_anything_has_a_summary() -> None:
    found = summarise(make_view(0, trials={}, base=None, baselines=[]))
    assert (found.frontier.front, found.points, found.references, found.gains) == ([], (), {}, {})
    assert found.verdict.beats_baselines is None
