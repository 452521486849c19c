"""What comes after a frontier: attack, then export; train longer where nothing is robust."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eed_search.cli.onward import onward
from eed_search.cli.result import next_steps
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Accuracy
from eed_search.tracking.summary import summarise
from tests.cli.calling import call
from tests.runs.ledgers import write_ledger
from tests.tracking.factories import make_attack, make_measurement, make_trial, make_view

EXPORT = ("export", "export", "one --select knee --out one-knee")
ATTACK = ("attack", "attack", "one:knee --tier 1")
CLAIM = ("claim", "attack", "one:knee --tier 2")


def _view(robust: float = 0.8, *attacks: AttackResult, **changes: Any) -> RunView:
    """One point, with what attacks found on it."""
    view = make_view(0, name="one", trials={0: make_trial(0, measurement=make_measurement(robust, 0.1))}, **changes)
    view.attacks = {"0.0": list(attacks)}
    return view


def test_a_point_is_attacked_before_it_is_exported() -> None:
    """The search's robust accuracy ranks; it is no claim."""
    assert onward(summarise(_view()), "one", sent=False) == [ATTACK, EXPORT]


def test_what_was_attacked_is_exported_and_may_be_claimed() -> None:
    """Tier 1 is done: the export first, then the test images."""
    assert onward(summarise(_view(0.8, make_attack(0.7))), "one", sent=False) == [EXPORT, CLAIM]


def test_after_the_claim_there_is_only_the_export() -> None:
    """Test images are used once."""
    assert onward(summarise(_view(0.8, make_attack(0.7), make_attack(0.65, tier=2))), "one", sent=False) == [EXPORT]


def test_an_invalid_result_counts_as_none() -> None:
    """No figure was found, so the point has to be attacked again."""
    failed = make_attack(0.7, badge="invalid", reasons=("check 9",))
    assert onward(summarise(_view(0.8, failed)), "one", sent=False) == [ATTACK, EXPORT]


def test_a_search_without_robust_images_is_not_sent_to_the_export() -> None:
    """0 of 300 stay right: longer training first, and an attack for whoever doubts it."""
    steps = onward(summarise(_view(0.0)), "one", sent=False)
    assert [what for what, _, _ in steps] == ["robust", "train", "attack"]
    assert steps[0][2] == "0.0 % in the search (0 of 300 images): not worth an export"
    assert steps[2] == ATTACK


@pytest.mark.parametrize(("clean", "export"), [(0.10, False), (0.17, False), (0.35, True)])
def test_a_point_that_guesses_is_not_sent_to_the_export(clean: float, export: bool) -> None:
    """It answers one class always: as robust as a guess, and worth as much."""
    measured = make_measurement(0.1, 0.1)
    right = np.arange(300) < round(300 * clean)
    view = _view()
    view.trials = {0: make_trial(0, measurement=replace(measured, clean_accuracy=Accuracy.of(right)))}
    steps = onward(summarise(view), "one", sent=False)
    assert (EXPORT in steps) is export
    if not export:
        assert steps[0][2] == f"clean accuracy {100 * clean:.1f} %, a guess has 10.0 %: not worth an export"


def test_nothing_robust_at_tier_1_is_said_plainly() -> None:
    """Whatever the search's own attack found."""
    steps = onward(summarise(_view(0.5, make_attack(0.0))), "one", sent=False)
    assert [what for what, _, _ in steps] == ["robust", "train"]
    assert steps[0][2] == "0.0 % at tier 1 (0 of 200 images): not worth an export"


def test_the_epochs_to_raise_are_named_with_their_value() -> None:
    """As the run's file has them."""
    view = _view(0.0)
    view.spec = {**view.spec, "base": {"epochs": 2.0}}
    train = onward(summarise(view), "one", sent=False)[1]
    assert train == ("train", "", "launch again with more base.epochs (now 2), then attack")


def test_from_a_cluster_the_bundle_is_attacked() -> None:
    """The run lies there, the bundle comes here."""
    assert onward(summarise(_view()), "one", sent=True) == [EXPORT, ("attack", "attack", "one-knee --tier 1")]


def test_without_a_frontier_there_is_nothing_to_attack() -> None:
    """No trial has ended yet."""
    assert onward(summarise(make_view(0)), "one", sent=False) == []


def test_a_name_is_quoted_for_the_shell() -> None:
    """Names of folders are the user's."""
    assert onward(summarise(_view()), "my run", sent=False)[0][2] == "'my run:knee' --tier 1"


def test_the_printed_commands_hold_the_home() -> None:
    """They can be pasted."""
    lines = next_steps(summarise(_view()), Path("elsewhere/one"), Path("elsewhere"))
    assert lines[-2] == "attack  eed-search attack one:knee --tier 1 --home elsewhere"
    assert lines[-1] == "export  eed-search export one --select knee --out one-knee --home elsewhere"


@pytest.mark.parametrize("robust", [0.0, 0.8])
def test_a_report_without_robust_images_does_not_speak_of_the_export_command(tmp_path: Path, robust: float) -> None:
    """The whole report on the screen."""
    write_ledger(tmp_path / "one", _view(robust))
    text = call("report", "one", "--home", tmp_path).stdout
    assert ("eed-search export" in text) is (robust > 0)
    assert "eed-search attack one:knee --tier 1" in text
