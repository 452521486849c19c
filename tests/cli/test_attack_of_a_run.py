"""`eed-search attack` on points of a run: what it finds is written there, all points at once too, a claim once only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from typer.testing import Result

from eed_search.data.splits import Split
from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation import assess as assessing
from eed_search.evaluation.target import Target
from eed_search.pipeline import targets
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.ledger import read_run
from tests.cli.calling import call
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_attack, make_measurement, make_trial, make_view

ROBUST = {"0.0": 0.7, "1.0": 0.5, "2.0": 0.6, "dense base": 0.8}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with three points; networks and attacks are stood in for: only what is done with results is tried here."""
    trials = {i: make_trial(i, measurement=make_measurement(0.85 - 0.15 * i, 0.6 - 0.2 * i)) for i in range(3)}
    write_ledger(tmp_path / "first", make_view(0, trials=trials, name="first"))

    def from_run(name: str, view: Any, id_: str, home: Path, options: targets.AttackOptions, report: object) -> Target:
        num = options.num_samples or 200
        split: Literal["fresh", "test"] = "test" if options.tier == 2 else "fresh"
        team: GatedEnsemble[Any] = GatedEnsemble([torch.nn.Linear(1, 2)], Gate())
        images = Split(torch.zeros(num, 1, 1, 1), torch.zeros(num, dtype=torch.long))
        id_ = {"base": "dense base", "knee": "1.0"}.get(id_, id_)
        return Target(f"{name} {id_}", team, images, split, "digits", 2, options.eps or 0.15, id=id_)

    def assess(target: Target, tier: int, *, seed: int, **_: object) -> AttackResult:
        return make_attack(
            ROBUST[target.id], tier, len(target.split), eps=target.eps, seed=seed, split=target.split_name
        )

    monkeypatch.setattr(targets, "from_run", from_run)
    monkeypatch.setattr(assessing, "assess", assess)
    return tmp_path


def attack(home: Path, target: str, *options: object) -> Result:
    return call("attack", target, "--home", home, *options)


def test_a_points_result_is_written_into_its_run(home: Path) -> None:
    """Under the point's own id, whatever it was called by; the dense base under its name."""
    done = attack(home, "first:knee")
    assert done.exit_code == 0, done.stderr
    assert "first 1.0: written into run first: its ledger" in done.stderr
    assert attack(home, "first:base").exit_code == 0
    found = read_run(home / "first").attacks
    assert {id_: [one.robust.value for one in kept] for id_, kept in found.items()} == {
        "1.0": [0.5],
        "dense base": [0.8],
    }


def test_the_same_again_stands_there_once(home: Path) -> None:
    attack(home, "first:0.0")
    assert "first 0.0: stands in run first already" in attack(home, "first:0.0").stderr
    assert len(read_run(home / "first").attacks["0.0"]) == 1


def test_other_images_than_its_own_are_not_written_into_a_run(home: Path) -> None:
    done = attack(home, "first:0.0", "--data", home)
    assert "first 0.0: not written into the run, for --data replaces its images" in done.stderr
    assert read_run(home / "first").attacks == {}


def test_all_points_of_the_frontier_in_one_command(home: Path) -> None:
    """Then the frontier by that badge alone, which is another one than the search's."""
    done = attack(home, "first:frontier")
    assert done.exit_code == 0, done.stderr
    assert read_run(home / "first").attacks.keys() == {"0.0", "1.0", "2.0"}
    assert "2.0: robust 60.0 ±7.1 % of 200, badge `checked`, eps 0.15, seed 0" in done.stdout
    assert "Frontier by `checked` alone: 2.0, 0.0." in done.stdout
    told = json.loads(attack(home, "frontier", "--json").stdout)
    assert told["badges"]["checked"] == {"frontier": ["2.0", "0.0"], "missing": [], "invalid": []}
    assert told["results"]["1.0"]["robust_accuracy"]["value"] == 0.5


def test_a_second_claim_with_other_settings_is_refused(home: Path) -> None:
    """Nothing is attacked and nothing written; the same settings read the result."""
    assert attack(home, "first:0.0", "--tier", 2).exit_code == 0
    for options in (["--seed", 1], ["--eps", "0.1"], ["--num-samples", 100]):
        again = attack(home, "first:0.0", "--tier", 2, *options)
        assert again.exit_code == 7
        assert "0.0 has had its claim on the test images (eps 0.15, seed 0, 200 images)" in again.stderr
    assert attack(home, "first:0.0", "--tier", 2).exit_code == 0
    assert attack(home, "first:0.0", "--tier", 1, "--seed", 1).exit_code == 0
    assert [one.tier for one in read_run(home / "first").attacks["0.0"]] == [2, 1]


def test_a_table_goes_with_one_point(home: Path) -> None:
    refused = attack(home, "first:frontier", "--table", "paper")
    assert refused.exit_code == 3
    assert "--table paper: goes with one point" in refused.stderr
