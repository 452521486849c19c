"""The benchmark of image racing: what it draws, whom it lets be given up, and how it lives a search again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.image_racing import Images, exits, main, race, relive, run_report, ways
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.records import (
    Accuracy,
    Interval,
    Measurement,
    RobustAccuracy,
    SweptPoint,
    TrialRecord,
    pack_bits,
    to_json,
)
from tests.tracking.factories import make_measurement, make_trial

NUM = 320


def test_equal_networks_differ_on_as_many_images_as_said() -> None:
    draw = Images(20_000, 0.94, np.random.default_rng(0))
    first, second = draw.right(0.7), draw.right(0.7)
    assert first.mean() == pytest.approx(0.7, abs=0.02)
    assert (first != second).mean() == pytest.approx(0.1, abs=0.02)


def test_only_who_is_slower_and_clearly_worse_than_a_finished_trial_is_given_up() -> None:
    rng = np.random.default_rng(1)
    good = rng.random(NUM) < 0.9
    bad = good & (rng.random(NUM) < 0.5)
    fast, slow = Interval(1, 0.99, 1.01), Interval(2, 1.98, 2.02)
    right = np.stack([good, bad, bad, good])
    seen = race(right, [fast, slow, Interval(0.5, 0.5, 0.5), slow], workers=1)
    assert seen[0] == seen[2] == seen[3] == NUM
    assert seen[1] < NUM // 2
    assert race(right, [fast, slow, slow, slow], workers=2)[:3] == [NUM, NUM, seen[1]]  # two start at once


def _measured(right: np.ndarray, latency_ms: float, **changes: Any) -> Measurement:
    accuracy = RobustAccuracy.of(right, attack="PGD-20", eps=0.15, badge="proxy")
    made = make_measurement(float(right.mean()), latency_ms)
    return replace(
        made, robust_accuracy=accuracy, robust_hex=pack_bits(right), clean_accuracy=Accuracy.of(right), **changes
    )


def _view(*trials: TrialRecord) -> RunView:
    history = [(what, t.number) for t in trials for what in ("proposal", "result")]
    return RunView(
        name="s",
        trials={t.number: t for t in trials},
        proposals={t.number: t.params for t in trials},
        history=history,  # type: ignore[arg-type]
        facts={"num_classes": 10},
    )


def test_a_search_lived_again_gives_up_who_was_beaten_by_what_was_finished(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    good = rng.random(NUM) < 0.9
    bad = good & (rng.random(NUM) < 0.5)
    trials = [
        make_trial(n, measurement=_measured(right, ms)) for n, (right, ms) in enumerate(((good, 0.2), (bad, 0.6)))
    ]
    lived = relive(_view(*trials), tmp_path)
    assert [(one.trial, one.seen < NUM, one.beaten_by) for one in lived] == [(0, False, ()), (1, True, ("0.0",))]
    both_at_once = _view(*trials)
    both_at_once.history = [("proposal", 0), ("proposal", 1), ("result", 0), ("result", 1)]
    assert all(one.seen == NUM for one in relive(both_at_once, tmp_path))
    text, totals = run_report(_view(*trials), lived)
    assert "1 of 2 finished trials given up" in text
    assert totals["saved_images"] == pytest.approx((NUM - lived[1].seen) / (2 * NUM))
    assert totals["lost"] == 0


def test_how_long_each_exit_takes_follows_from_what_the_ledger_holds() -> None:
    """Two members of 1 and 2 ms: an image that stops at the second takes 3."""
    right = np.ones(NUM, bool)
    own = _measured(right, 2.0, num_members=2, exit_shares=(0.5, 0.5))
    own = replace(own, latency=replace(own.latency, worst_case_ms=3.0, exit_ms=()))
    assert exits([own]) == pytest.approx([1.0, 3.0])
    always = replace(own, exit_shares=(0.0, 1.0), latency=replace(own.latency, latency_ms=Interval(3, 3, 3)))
    assert exits([always]) is None  # nothing says how long the first takes
    trial = replace(make_trial(0, measurement=own), swept=(SweptPoint(0.9, always),))
    latencies, rows = ways(trial, {})
    assert [one.value for one in latencies] == [2.0, 3.0]
    assert len(rows) == 2


def test_the_command_prints_a_table_and_writes_every_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.problems import BENCH_FOLDER

    if not BENCH_FOLDER.is_dir():
        pytest.skip("the table of NAS-Bench-201 is not here")
    out = tmp_path / "out.json"
    few = [
        "--images",
        "64",
        "--proposals",
        "near",
        "--seeds",
        "1",
        "--trials",
        "12",
        "--workers",
        "1",
        "--out",
        str(out),
    ]
    assert main(few) in (0, 1)
    assert "| 64 | near |" in capsys.readouterr().out
    assert json.loads(out.read_text())["rows"][0]["images"] == 64


def test_the_command_lives_a_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    trial = make_trial(0, measurement=_measured(np.ones(NUM, bool), 0.2))
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("run", {"name": "s", "spec": {}, "facts": {"num_classes": 10}})
        ledger.append("proposal", {"params": trial.params}, 0)
        ledger.append("result", to_json(trial), 0)
    assert main(["--run", str(folder)]) == 0
    assert "0 of 1 finished trials given up" in capsys.readouterr().out
    assert read_run(folder).name == "s"
