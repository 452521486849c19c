"""The table of teams: a tiny run prints every row, and reads what it made before."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from benchmarks import teams
from eed_search.config.params import MemberChoice, TrialParams
from eed_search.evaluation import timing

TINY = [
    "data.num_train=96", "data.num_validation=40", "data.num_fresh=20", "model.width=32", "members.block=4", "base.epochs=1", "base.attack.steps=1",
    "members.finetune.epochs=1", "members.finetune.attack.steps=1", "joint.epochs=1", "joint.attack.steps=1",
    "evaluation.steps=2", "evaluation.slow_down_steps=1", "latency.rounds=3", "latency.block_ms=1",
]  # fmt: skip


def test_each_row_leaves_one_thing_out() -> None:
    """Terms by name, then each member alone, without a diversity that one member has not."""
    half, quarter = MemberChoice("nis", 0.5), MemberChoice("nis", 0.25)
    rows = teams.variants(TrialParams((half, quarter), "all", "labels", "fast_first", 0.1, 1.0, 0.5, 0.3))
    assert {name: (one.beta, one.omega, one.gamma) for name, one in rows.items()} == {
        "all terms": (0.1, 1.0, 0.5),
        "omega = 0": (0.1, 0.0, 0.5),
        "gamma = 0": (0.1, 1.0, 0.0),
        "omega = gamma = 0": (0.1, 0.0, 0.0),
        "beta = 0": (0.0, 1.0, 0.5),
        "nis-50 alone": (0.0, 1.0, 0.5),
        "nis-25 alone": (0.0, 1.0, 0.5),
    }
    assert [one.members for one in rows.values()][-2:] == [(half,), (quarter,)]


@pytest.mark.whole
def test_a_tiny_table_has_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variant a team of its own; the first row differs from itself by nothing."""
    monkeypatch.setattr(timing, "WARM_UP_S", 0.02)
    sets = [word for one in TINY for word in ("--set", one)]
    assert teams.main(["--home", str(tmp_path), *sets]) == 0
    lines = capsys.readouterr().out.replace("\r", "").splitlines()
    rows = [line for line in lines[1:] if line.strip()]
    assert [re.split(r"  +", row)[0] for row in rows] == [
        "dense base", "all terms", "omega = 0", "gamma = 0", "omega = gamma = 0", "beta = 0", "nis-50 alone", "nis-25 alone",
    ]  # fmt: skip
    assert all(re.search(r"\d\.\d\d of [12]   \d+\.\d\d \(", row) for row in rows)
    assert " +0.0 (" in rows[1]
    assert len(list((tmp_path / "store" / "team.1").glob("*.lock"))) == 7
    assert teams.main(["--home", str(tmp_path), *sets]) == 0
    assert len(list((tmp_path / "store" / "team.1").glob("*.lock"))) == 7


@pytest.mark.parametrize("text", ["prune", "prune:half", "magic:0.5"])
def test_a_member_that_is_none_is_refused(text: str) -> None:
    """The form and the methods are named."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"METHOD:SIZE|the method is one of prune"):
        teams.choice(text)
