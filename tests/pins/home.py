"""The home of an earlier version: where it is kept, and how it is unpacked. `make_home` made it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

from eed_search.storage.store import sha256_of
from tests.cli.calling import ROOT, environment

ARCHIVE = Path(__file__).with_name("home.tar.xz")
EXPECTED = Path(__file__).with_name("home.json")
HOME_THEN = Path("/tmp/home/home")  # where it was made
RUN = "old"
NUM_SAMPLES = 50  # of each attack: the fewest that are allowed

_MAIN = "import sys; from eed_search.cli import main; sys.argv[0] = 'eed-search'; main()"
_MOVED = ("UPDATE experiments SET artifact_location", "UPDATE runs SET artifact_uri")


def expected() -> dict[str, Any]:
    """Read what the version that made the home said of it."""
    found: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return found


def unpack(folder: Path) -> Path:
    """Unpack the archive, and let MLflow's absolute paths follow; gives the home, with `bundle` beside it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    home = folder / "home"
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        for change in _MOVED:
            column = change.rpartition(" ")[2]
            database.execute(f"{change} = replace({column}, ?, ?)", (HOME_THEN.as_uri(), home.as_uri()))
    return home


def report_figures(report: dict[str, Any]) -> dict[str, Any]:
    """Take what must not change from `report --json`: which points there are, and what they measured."""
    points = [*report["frontier"], *report["may_belong"]]
    references = [report["base"], *report["controls"]]
    return {
        **{kind: [point["id"] for point in report[kind]] for kind in ("frontier", "may_belong")},
        **{name: report[name] for name in ("num_trials", "hypervolume")},
        "measured": {one.get("id", one.get("name")): _measured(one) for one in [*points, *references]},
    }


def _measured(one: dict[str, Any]) -> dict[str, Any]:
    figures = {name: one[name]["value"] for name in ("robust_accuracy", "clean_accuracy", "speedup")}
    figures |= {name: one[name] for name in ("latency_ms", "attacked_speedup", "macs", "size_bytes", "exit_shares")}
    fresh, checked = one["fresh"], one["checked"]
    return figures | {
        "fresh": fresh and fresh["robust_accuracy"]["value"],
        "checked": checked and checked["robust_accuracy"]["value"],
    }


def attack_figures(result: dict[str, Any]) -> dict[str, Any]:
    """Take what must not change from `attack --json`: what was attacked, and what held."""
    kept = ("key", "tier", "badge", "split", "eps", "seed", "num_members", "robust_hex", "certified_hex")
    accuracies = {name: result[name]["value"] for name in ("clean", "robust", "any_prefix", "static", "certified")}
    return {name: result[name] for name in kept} | accuracies


def stored(home: Path) -> dict[str, tuple[str, int]]:
    """Hash every file of finished stages, with the time when it was written; locks are no part of a stage."""
    files = [path for path in sorted((home / "store").rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(home)): (sha256_of(path), path.stat().st_mtime_ns) for path in files}


def stages(home: Path) -> set[str]:
    """Name all finished stages, as records do: `base.1/KEY`."""
    return {str(file.parent.relative_to(home / "store")) for file in (home / "store").glob("*/*/manifest.json")}


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, for as long as it takes.

    Raises:
        AssertionError: If it fails.
    """
    line = [sys.executable, "-c", _MAIN, *(str(argument) for argument in arguments)]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done
