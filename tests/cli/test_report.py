"""`eed-search report --out`: page, table and JSON where the user wants them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.calling import call
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_view


def test_it_writes_page_table_and_json(tmp_path: Path) -> None:
    write_ledger(tmp_path / "runs" / "digits", make_view(8))
    done = call("report", "digits", "--home", tmp_path / "runs", "--out", tmp_path / "page")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "frontier.csv",
        "frontier.html",
        "frontier.json",
    ]
    assert json.loads((tmp_path / "page" / "frontier.json").read_text())["run"] == "digits"
    assert "digits: " in done.output
    assert str(tmp_path / "page" / "frontier.html") in done.output.replace("\n", "")


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        ("taken", 6, "page: exists already and is left as it is; give a new folder"),
        ("early", 7, "run digits: its dense base is not measured yet; nothing can be drawn before"),
        ("json", 3, "--json: prints, and --out writes a folder that holds the JSON too; give one of the two"),
    ],
)
def test_what_it_refuses(tmp_path: Path, wrong: str, code: int, said: str) -> None:
    view = make_view(8)
    write_ledger(tmp_path / "runs" / "digits", replace(view, base=None) if wrong == "early" else view)
    if wrong == "taken":
        (tmp_path / "page").mkdir()
    more = ["--json"] if wrong == "json" else []
    done = call("report", "digits", "--home", tmp_path / "runs", "--out", tmp_path / "page", *more)
    assert (done.exit_code, said in done.stderr.replace("\n", " ")) == (code, True), done.output
