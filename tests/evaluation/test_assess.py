"""A tier from end to end: an honest team passes every check, defences broken on purpose do not."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eed_search.core.seeds import canonical_json
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import GatedClassifier, GateSettings
from eed_search.ensemble.gate import GatedEnsemble
from eed_search.evaluation.assess import assess
from eed_search.evaluation.attacks import suite
from eed_search.evaluation.certify import METHOD
from eed_search.evaluation.target import Target
from eed_search.runs.attack_records import AttackResult
from eed_search.runs.records import from_json, to_json, unpack_bits
from tests.cli.calling import ROOT, environment
from tests.evaluation import defences


def target(team: GatedEnsemble[Any], count: int = 60) -> Target:
    split = defences.images_and_labels()
    gate = defences.GATE

    def deploy() -> GatedClassifier:
        settings = GateSettings(gate.rule, gate.threshold, gate.sharpness, gate.tau)
        return GatedClassifier.from_onnx([to_onnx(member, defences.SHAPE) for member in team.members], settings)

    return Target(
        "a team",
        team,
        replace(split, images=split.images[:count], labels=split.labels[:count]),
        "fresh",
        "quarters",
        defences.NUM_CLASSES,
        defences.EPS,
        deploy=deploy,
        twin=defences.undefended,
    )


def small_budgets() -> None:
    """Few steps and queries: what is tested here is not how strong the attacks are."""
    suite._BUDGETS = {1: suite._Budget(8, 2, 60)}


@pytest.fixture(autouse=True, scope="module")
def _few_steps() -> Iterator[None]:
    before = suite._BUDGETS
    small_budgets()
    yield
    suite._BUDGETS = before


def without_seconds(result: AttackResult) -> str:
    plain = to_json(result)
    plain["seconds"] = 0
    for use in plain["attacks"]:
        use["seconds"] = 0
    return canonical_json(plain)


@pytest.fixture(scope="module")
def honest(_few_steps: None, tmp_path_factory: pytest.TempPathFactory) -> AttackResult:
    return assess(target(defences.honest()), 1, seed=0, home=tmp_path_factory.mktemp("home"))


def test_an_honest_team_passes_every_check(honest: AttackResult) -> None:
    assert [check.seen for check in honest.checks if not check.passed] == []
    assert [check.number for check in honest.checks] == list(range(1, 12))
    assert honest.badge == "checked"
    assert honest.reasons == ()


def test_the_accuracies_are_ordered_and_carry_what_they_rest_on(honest: AttackResult) -> None:
    """RA-any-prefix ≤ RA ≤ clean, each with n, interval, attacks and budget."""
    assert honest.any_prefix.value <= honest.robust.value < honest.clean.value
    for accuracy in (honest.robust, honest.any_prefix, honest.static):
        assert accuracy.low <= accuracy.value <= accuracy.high
        assert (accuracy.num_samples, accuracy.eps, accuracy.badge) == (60, defences.EPS, "checked")
        assert "APGD-CE on the executed path" in accuracy.attack
    assert sum(use.num_deployed_broken for use in honest.attacks) == round(
        60 * (honest.clean.value - honest.robust.value)
    )


def test_what_is_certified_stands_beside_what_no_attack_broke(honest: AttackResult) -> None:
    """A lower bound and an upper one, with the same samples and interval, sample by sample in order."""
    assert honest.certified is not None
    assert honest.certified.num_samples == honest.robust.num_samples == 60
    assert 0.1 < honest.certified.value <= honest.robust.value
    assert honest.certified_by == METHOD
    certified, robust = (unpack_bits(text, 60) for text in (honest.certified_hex, honest.robust_hex))
    assert certified.mean() == honest.certified.value
    assert not (certified & ~robust).any()


def test_a_broken_sample_is_not_attacked_again(honest: AttackResult) -> None:
    left = round(60 * honest.clean.value)
    for use in (use for use in honest.attacks if use.id.startswith("G")):
        assert use.num_attacked == left
        left -= use.num_broken
        assert (use.gradient_passes > 0) == (use.id != "G6" and use.num_attacked > 0)
    assert honest.forward_passes > honest.gradient_passes > 0


def test_costs_grow_from_clean_to_worst(honest: AttackResult) -> None:
    assert honest.slowed_cost is not None
    assert 1 <= honest.clean_cost.members_run <= honest.slowed_cost.members_run <= honest.worst_cost.members_run == 2
    assert honest.clean_cost.macs <= honest.slowed_cost.macs <= honest.worst_cost.macs


def test_a_result_survives_json(honest: AttackResult) -> None:
    assert from_json(AttackResult, to_json(honest)) == honest


@pytest.mark.parametrize("name", sorted(defences.BROKEN))
def test_a_defence_broken_on_purpose_is_caught(name: str, tmp_path: Path) -> None:
    """At least one check fails, the badge is `invalid`, and the reasons say why."""
    team = defences.BROKEN[name]()
    result = assess(replace(target(team, 50), deploy=None, twin=None), 1, seed=0, home=tmp_path)
    failed = [check.number for check in result.checks if not check.passed]
    expected = {
        "gradient killer": 9,
        "logits x 1e4": 9,
        "one-hot output": 9,
        "random member order": 3,
        "batch-dependent gate": 3,
        "wrong normalisation": 6,
        "detached gate": 9,
        "test-time dropout": 3,
    }
    assert expected[name] in failed
    assert result.badge == result.robust.badge == "invalid"
    assert len(result.reasons) == len(failed)


# ---------------------------------------------------------------- kill and go on

_RUN = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from eed_search.evaluation import tiers
tiers.CHUNK = 20
from eed_search.evaluation.assess import assess
from tests.evaluation import defences
from tests.evaluation.test_assess import small_budgets, target, without_seconds
small_budgets()
steps_left = int(sys.argv[3])

def report(text):
    global steps_left
    print(text, flush=True)
    steps_left -= 1
    if steps_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

result = assess(target(defences.honest()), 1, seed=0, home=Path(sys.argv[1]), report=report)
Path(sys.argv[2]).write_text(without_seconds(result))
"""


def _evaluate(home: Path, out: Path, steps: int = 0) -> tuple[int, list[str]]:
    """Evaluate in another process, which kills itself in a step, if any; give its exit code and what it said."""
    command = [sys.executable, "-c", _RUN, str(home), str(out), str(steps)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_a_killed_evaluation_goes_on_and_gives_the_identical_result(tmp_path: Path) -> None:
    """SIGKILL in the middle, twice; the third start reads what is finished and ends as an undisturbed one does."""
    assert _evaluate(tmp_path / "whole", tmp_path / "whole.json")[0] == 0
    counts = []
    for _ in range(2):
        assert _evaluate(tmp_path / "killed", tmp_path / "killed.json", steps=9)[0] == -signal.SIGKILL
        counts.append(len(list((tmp_path / "killed").rglob("*.npz"))))
    assert 0 < counts[0] < counts[1]
    assert not (tmp_path / "killed.json").exists()
    code, said = _evaluate(tmp_path / "killed", tmp_path / "killed.json")
    assert code == 0
    steps = len(list((tmp_path / "whole").rglob("*.npz")))
    assert len(said) < steps - counts[1] + 10  # what was finished did not run again
    assert (tmp_path / "killed.json").read_text() == (tmp_path / "whole.json").read_text()


def test_a_damaged_step_is_computed_again(tmp_path: Path, honest: AttackResult) -> None:
    some = target(defences.honest())
    first = assess(some, 1, seed=0, home=tmp_path)
    (finished,) = tmp_path.rglob("result.json")
    finished.unlink()
    damaged = sorted(tmp_path.rglob("*G1*.npz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert without_seconds(assess(some, 1, seed=0, home=tmp_path)) == without_seconds(first) == without_seconds(honest)


def test_another_budget_has_a_key_of_its_own(tmp_path: Path, honest: AttackResult) -> None:
    weaker = assess(replace(target(defences.honest()), eps=defences.EPS / 4), 1, seed=0, home=tmp_path)
    assert weaker.key != honest.key
    assert weaker.robust.value > honest.robust.value


def test_labels_do_not_move_the_global_generator(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assess(replace(target(defences.honest(), 50), deploy=None, twin=None), 1, seed=0, home=tmp_path)
    assert np.array_equal(torch.rand(3).numpy(), expected.numpy())
