"""Make tests/pins/home.tar.xz, a small home as this version writes it, and tests/pins/home.json, what is expected of it.

    python -m tests.pins.make_home          (from the checkout's root; minutes on two cores)

The archive stands for the homes that users have: later versions must go on reading it. So it is made again
only where homes of before are given up, in a commit that says so; it has other points then, for racing depends on
which trial is done first. It holds `home`, with the search `old` of the packaged digits (a narrow network, few
epochs, racing) and an attack on one of its teams, and `bundle`, that team as it was exported. Left out is what only
people look at, and what is made again: plots, artifacts and logs of Ray and MLflow, the finished parts of the attack.

The home is made in /tmp/home, which must not exist, so that the paths in its files are nobody's.
"""

from __future__ import annotations

import io
import json
import lzma
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from eed_search.runs.ledger import RunView, read_run
from tests.pins.home import ARCHIVE, EXPECTED, HOME_THEN, NUM_SAMPLES, RUN, attack_figures, command, report_figures

SETTINGS = (
    *("model.width=16", "members.block=2", "search.space.score=[nis, erm, ase]"),
    *("base.epochs=8", "members.finetune.epochs=4", "joint.epochs=1"),
    *("base.attack.steps=2", "members.finetune.attack.steps=2", "joint.attack.steps=2"),
    *("evaluation.steps=5", "evaluation.slow_down_steps=3"),
    *("latency.rounds=3", "latency.final_rounds=3", "latency.final_calls=100", "latency.final_processes=1"),
    *(
        "latency.block_ms=1",
        "search.racing=true",
        "search.eta=2",
        "search.startup_trials=4",
        "search.front_probability=0.5",
    ),
)
NUM_TRIALS = 8
MOST_BYTES = 2**20
KEPT = (
    *("home/mlflow.db", "home/store/**/*.json", "home/store/**/*.safetensors", "home/attacks/*/result.json"),
    *(f"home/{RUN}/{name}" for name in ("ledger.sqlite", "study.sqlite", "search_space.yaml")),
    *(f"home/{RUN}/report/frontier.{form}" for form in ("json", "csv")),
    "bundle/*",
)


def make(work: Path) -> dict[str, Any]:
    """Search, export, attack; gives what later versions must read."""
    home = work / "home"
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    command("launch", "digits", "--name", RUN, "--home", home, "--trials", NUM_TRIALS, "--local", *sets)
    team = most_robust_team(read_run(home / RUN))
    command("export", RUN, "--select", team, "--out", work / "bundle", "--home", home)
    attacked = command("attack", f"{RUN}:{team}", "--num-samples", NUM_SAMPLES, "--home", home, "--json")
    report = json.loads(command("report", RUN, "--home", home, "--json").stdout)
    figures = report_figures(report)
    others = [id_ for id_ in figures["frontier"] if id_ != team]
    attack = attack_figures(json.loads(attacked.stdout))
    return {"team": team, "other": others[0], "attack": attack, "torch": torch.__version__, "report": figures}


def most_robust_team(view: RunView) -> str:
    """The point whose bundle and attack are kept: two members or more, so that there is a gate."""
    teams = {n: m for n, trial in view.trials.items() if (m := trial.measurement) is not None and m.num_members > 1}
    if not teams:
        raise SystemExit("all teams gave way; make the home again")
    return f"{max(teams, key=lambda n: teams[n].robust_accuracy.value)}.0"


def kept(work: Path) -> Iterator[Path]:
    """List what goes into the archive, in order."""
    for database in work.glob("home/**/*.sqlite"):
        with closing(sqlite3.connect(database)) as opened:  # everything into the one file
            opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    yield from sorted({path for pattern in KEPT for path in work.glob(pattern) if path.is_file()})


def pack(work: Path) -> bytes:
    """Pack a folder so that equal files give equal bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in kept(work):
            entry = tarfile.TarInfo(str(path.relative_to(work)))
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main() -> None:
    """Make both files."""
    work = HOME_THEN.parent
    work.mkdir()
    try:
        expected = make(work)
        packed = pack(work)
    finally:
        shutil.rmtree(work)
    if len(packed) > MOST_BYTES:
        raise SystemExit(f"{len(packed):,} bytes are too many; allowed: {MOST_BYTES:,}")
    ARCHIVE.write_bytes(packed)
    EXPECTED.write_text(json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{ARCHIVE.name}: {len(packed):,} bytes")


if __name__ == "__main__":
    main()
