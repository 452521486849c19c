"""The result on the screen and as JSON, from ledgers that were written without training anything."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from eed_search.cli.homes import find_run, run_folders
from eed_search.cli.result import base_lines, command, duration, frontier_table, next_steps
from eed_search.core.errors import RunError
from eed_search.frontier.estimate import estimate_frontier
from eed_search.frontier.points import frontier
from eed_search.runs.ledger import FILE_NAME, Ledger
from eed_search.runs.run_lock import driving
from eed_search.tracking.summary import summarise
from eed_search.tracking.table import COLUMNS, TableRow, table_rows
from tests.cli.calling import call
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_latency, make_measurement, make_trial, make_view
from tests.tracking.test_verdict import checked


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two searches; `second` is the latest."""
    for name in ("first", "second"):
        write_ledger(tmp_path / name, make_view(name=name, notes=["a note for the reader"]))
    return tmp_path


def test_the_latest_search_is_shown_by_default(home: Path) -> None:
    """Latest started, whatever its name or its folder's date."""
    os.utime(home / "first", (2e9, 2e9))
    assert call("report", "--home", home).stdout.startswith("second: finished after")


def test_a_search_is_named_or_given_as_folder(home: Path) -> None:
    """Both ways lead to the same search."""
    by_name = call("report", "first", "--home", home).stdout
    assert by_name.startswith("first: ")
    assert call("report", home / "first", "--home", home).stdout == by_name


def test_an_unknown_search_lists_those_there(home: Path) -> None:
    """The message names what could be meant."""
    result = call("report", "third", "--home", home)
    assert (result.exit_code, result.stderr) == (
        7,
        f"error: third: no such search in {home}; there: first, second. Give another name or --home\n",
    )


def test_the_result_shows_everything_in_80_columns(home: Path) -> None:
    """Table, verdict, difference to the base, reuse, failures, notes, next steps; commands may be longer."""
    result = call("report", "second", "--home", home)
    assert result.exit_code == 0
    text = result.stdout
    for point in frontier(make_view()):
        assert f"{point.id} " in text
    for part in (
        "dense base",
        "scratch 50 %",
        "hypervolume",
        "17 done, 1 infeasible, 1 pruned, 1",
        "12.0 uncertain ",
        "May belong to the frontier too",
        "badge `proxy`",
        "baselines",
        "On the images that chose, which prove nothing: ",
        "Stages of all trials, computed+reused: base 0+20, member",
        "trial 5 failed (diverged): loss is nan",
        "note: a note for the reader",
    ):
        assert part in text, part
    commands = ("MLflow ", "again ", "attack ", "export ", "plot ")
    assert max(len(line) for line in text.splitlines() if not line.startswith(commands)) <= 80


def test_differences_to_the_base_rest_on_fresh_images_in_80_columns() -> None:
    """What chose stands apart; what is not told apart says how many images would decide."""
    view = make_view()
    assert view.base is not None
    names = [view.base.name, *(point.id for point in estimate_frontier(view).front)]
    view.fresh.update({name: checked(0.8 - 0.01 * i, i) for i, name in enumerate(names)})
    text = "\n".join(lines := base_lines(summarise(view)))
    assert max(map(len, lines)) <= 80
    assert "300 fresh images, which chose nothing\n(points, 95 % together):" in text
    assert "would be decided by about" in text
    assert "On the images that chose, which prove nothing:" in text


def test_the_next_commands_find_the_search_again(home: Path) -> None:
    """What is printed can be pasted: the home is part of it unless it is the default."""
    text = call("report", "second", "--home", home).stdout
    assert f"eed-search ui second --home {home}" in text
    assert f"eed-search export second --select knee --out second-knee --home {home}" in text
    assert (
        "eed-search ui second" in next_steps(summarise(make_view(name="second")), Path("runs/second"), Path("runs"))[0]
    )
    assert "--home" not in " ".join(next_steps(summarise(make_view(name="second")), Path("runs/second"), Path("runs")))


def test_a_script_off_the_path_is_called_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make launch` does not put .venv/bin on PATH."""
    monkeypatch.setattr("sys.argv", [".venv/bin/eed-search", "launch"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command("ui") == ".venv/bin/eed-search ui"


def test_the_plot_is_named_when_it_is_there(home: Path) -> None:
    """No path to a file that does not exist."""
    assert "plot " not in call("report", "second", "--home", home).stdout
    plot = home / "second" / "report" / "frontier.html"
    plot.parent.mkdir()
    plot.touch()
    assert f"plot    {plot}" in call("report", "second", "--home", home).stdout


def test_json_is_one_document_with_the_agreed_keys(home: Path) -> None:
    """Nothing but JSON on stdout."""
    facts = json.loads(call("report", "second", "--json", "--home", home).stdout)
    assert facts["schema_version"] == 1
    assert facts["run"] == "second"
    assert facts["num_trials"]["done"] == 17
    keys = "id trial params robust_accuracy clean_accuracy latency_ms speedup worst_case_speedup mean_members_run num_members macs size_bytes"
    for point in facts["frontier"]:
        assert set(keys.split()) <= point.keys()
        assert point["robust_accuracy"]["badge"] == "proxy"


def test_a_search_that_has_just_begun_can_be_shown(tmp_path: Path) -> None:
    """No base, no trial: the headline, and no table."""
    folder = tmp_path / "young"
    folder.mkdir()
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": "young", "spec": {}, "facts": {}})
    with driving(folder):
        result = call("report", "--home", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("young: running after 0 s; trials: none yet\n")
    killed = call("report", "--home", tmp_path).stdout
    assert killed.startswith("young: interrupted after 0 s")
    assert "resume  eed-search resume young" in killed
    assert "export" not in result.stdout


def test_a_noisy_latency_is_marked_and_explained(tmp_path: Path) -> None:
    """What the machine could not time well says so in the table and below it."""
    final = make_latency(0.1, method="cascade", noisy=True)
    view = make_view(0, trials={0: make_trial(0, measurement=make_measurement(0.8, 0.1))}, latencies={"0.0": final})
    write_ledger(tmp_path / "noisy", view)
    text = call("report", "--home", tmp_path).stdout
    assert " 0.100? " in text
    assert "?: the machine was too noisy" in text


def test_throughput_stands_below_the_table(tmp_path: Path) -> None:
    """Of the points whose deployed cascade was timed."""
    final = make_latency(0.1, method="cascade")
    view = make_view(0, trials={0: make_trial(0, measurement=make_measurement(0.8, 0.1))}, latencies={"0.0": final})
    write_ledger(tmp_path / "timed", view)
    lines = call("report", "--home", tmp_path).stdout.splitlines()
    assert "Images per second in batches of 64: 0.0 20000 ±400." in lines


def test_no_figure_is_cut_off_on_80_columns() -> None:
    """Of a team whose every figure is long."""
    cells = {
        "point": "12.0",
        "team": "bnsf-12 erm-25 nis-50",
        "robust accuracy": "79.3 ±5.0 %",
        "latency ms": "0.0185 ±0.0002 (noisy)",
        "speed-up": "14.11 ±0.05×",
        "attacked": "14.11×",
        "clean accuracy": "98.0 ±2.3 %",
        "members": "3",
        "members run": "1.00",
        "size": "25.5 kB",
        "MACs": "41.8 k",
    }
    rows = [replace(table_rows(summarise(make_view()))[0], cells=tuple(cells[name] for name in COLUMNS))]
    text = _drawn(rows, 80)
    for whole in ("79.3 ±5.0", "0.0185?", "14.11 ±0.05", "98.0 ±2.3", " 3 1.00 25.5k", "size", "bytes"):
        assert whole in text, text


def _drawn(rows: list[TableRow], width: int) -> str:
    from rich.console import Console

    with open(os.devnull, "w") as nowhere:
        console = Console(width=width, record=True, file=nowhere)
        console.print(frontier_table(rows, width))
        return console.export_text()


def test_a_wide_screen_shows_macs_and_the_team_beside_its_point() -> None:
    """From 118 columns on nothing is left out."""
    rows = table_rows(summarise(make_view()))
    text = _drawn(rows, 130)
    assert "MACs" in text
    assert f"{rows[0].cells[0]}  {rows[0].cells[1]}" in text


def test_many_failures_are_cut_short(tmp_path: Path) -> None:
    """A hundred failed trials do not hide the result."""
    trials = {i: make_trial(i, outcome="failed", reason="error", message="x", measurement=None) for i in range(100)}
    write_ledger(tmp_path / "bad", make_view(0, trials=trials))
    text = call("report", "--home", tmp_path).stdout
    assert text.count("failed (error)") == 11
    assert "… and more" in text


def test_an_unreadable_ledger_does_not_hide_the_others(home: Path) -> None:
    """The latest sound search is still found; the broken one is an error only when asked for."""
    (home / "broken").mkdir()
    (home / "broken" / FILE_NAME).write_bytes(b"no database")
    assert find_run(home, None).name == "second"
    assert [folder.name for folder in run_folders(home)] == ["broken", "first", "second"]
    result = call("report", "broken", "--home", home)
    assert result.exit_code == 7
    assert "is not a readable ledger" in result.stderr


def test_a_home_that_is_no_folder_holds_nothing(tmp_path: Path) -> None:
    """Asking is no reason to make it."""
    with pytest.raises(RunError, match="holds no search"):
        find_run(tmp_path / "none", None)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (212, "3 min 32 s"), (3600, "1 h 00 min"), (7325, "2 h 02 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(seconds) == text


# ---------------------------------------------------------------- export


def test_export_refuses_a_folder_that_exists(home: Path) -> None:
    """Nothing is overwritten, an empty folder neither."""
    out = home / "out"
    out.mkdir()
    result = call("export", "second", "--out", out, "--home", home)
    assert (result.exit_code, result.stderr) == (
        8,
        f"error: --out {out}: exists already and is left as it is; give a new folder\n",
    )
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("share", ["0.99", "99%", "99 %"])
def test_export_says_which_limits_can_be_kept(home: Path, share: str) -> None:
    """A share is a fraction or per cent; limits that nothing keeps name the best there is."""
    result = call("export", "second", "--min-robust-accuracy", share, "--out", home / "out", "--home", home)
    assert result.exit_code == 7
    assert "error: run second: no frontier point keeps both limits; the most robust has 87.0 %" in result.stderr


def test_export_of_an_unknown_point_lists_the_known(home: Path) -> None:
    """An id that is not there."""
    result = call("export", "second", "--select", "99.0", "--out", home / "out", "--home", home)
    assert result.exit_code == 7
    assert "--select 99.0: no such point; allowed: knee, fastest, most-robust, or one of 0.0," in result.stderr
