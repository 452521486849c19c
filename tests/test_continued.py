"""Trainings that are cut off go on where they were, and end with the bits of one that never was; on real digits."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from eed_search.config.params import MemberChoice, TrialParams
from eed_search.config.plans import plan_members
from eed_search.config.spec import Spec
from eed_search.core import failpoints
from eed_search.core.errors import Diverged
from eed_search.pipeline import training
from eed_search.pipeline.context import StageContext, open_context
from eed_search.pipeline.team import assemble
from eed_search.pipeline.training import baseline_stage, dense_base, member, team_stage, undefended
from eed_search.storage.store import sha256_of
from eed_search.training import checkpoints
from tests.cli.calling import ROOT, environment
from tests.test_trial import TINY, spec_with

BASE = {**TINY["base"], "epochs": 3, "attack": {"steps": 2}}
NUM_STEPS = 15  # 160 images in batches of 32, three times

Make = Callable[[StageContext], object]


@pytest.fixture(autouse=True)
def _after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a state after every step."""
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "MOST_SHARE", 1e9)


class Home:
    """A home in which trainings are cut off."""

    def __init__(self, root: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.spec, self.lines = root, spec, list[str]()
        self._set = monkeypatch

    def shop(self) -> StageContext:
        return open_context(self.spec, self.root / "store", self.lines.append)

    def cut_at(self, step: int, make: Make) -> bool:
        """Whether the training was cut off after its so-manieth step of this attempt; else it came to its end."""
        failpoints._calls.clear()
        self._set.setenv(failpoints.VARIABLE, f"training.step:raise:{step}")
        try:
            make(self.shop())
        except RuntimeError as error:
            if str(error) != "fail point training.step":
                raise
            return True
        finally:
            self._set.delenv(failpoints.VARIABLE)
        return False

    def artifacts(self) -> dict[str, str]:
        """Hash what finished stages hold."""
        store = self.root / "store"
        return {
            f"{file.parent.parent.name}/{file.parent.name}/{file.name}": sha256_of(file)
            for pattern in ("tensors.safetensors", "meta.json")
            for file in sorted(store.glob(f"*/*/{pattern}"))
        }

    def unfinished(self, where: str = "store") -> list[Path]:
        return sorted((self.root / where / "unfinished").rglob("*.safetensors"))

    def went_on_at(self) -> list[str]:
        return [line.partition(" at epoch ")[2].partition(" of ")[0] for line in self.lines if ": goes on at" in line]


def augmented(spec: Spec, how: str) -> Spec:
    """Digits are not augmented, since a mirrored one is another; here they are."""
    return spec.model_copy(update={"data": spec.data.model_copy(update={"augment": how})})


def base(shop: StageContext) -> object:
    return dense_base(shop)


@pytest.mark.parametrize(
    ("recipe", "augment"),
    [
        ({"attack": {"method": "none"}}, "none"),
        ({"attack": {"method": "n_fgsm"}, "schedule": "cosine"}, "crop"),
        ({"attack": {"method": "fgsm_rs"}, "momentum": 0.0}, "none"),
        ({"attack": {"method": "pgd", "steps": 3}, "ema": 0.9}, "crop_flip"),
        ({"attack": {"method": "n_fgsm"}, "precision": "bfloat16", "ema": 0.9, "clip_norm": 1.0}, "crop"),
    ],
    ids=["clean", "n_fgsm", "fgsm_rs", "pgd", "bfloat16"],
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_base_cut_off_at_random_steps_is_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], augment: str, seed: int
) -> None:
    """Byte by byte, losses too: in the middle of an epoch and at its end, again and again."""
    spec = augmented(spec_with(base={**BASE, **recipe}), augment)
    whole, cut = (Home(tmp_path / name, spec, monkeypatch) for name in ("whole", "cut"))
    with monkeypatch.context() as without:  # as if there were no checkpoints at all
        without.setattr(checkpoints, "EVERY_S", 1e9)
        dense_base(whole.shop())
    assert whole.went_on_at() == []

    steps, cuts = random.Random(seed), 0
    while cut.cut_at(steps.randint(2, 6), base):
        cuts += 1
        assert len(cut.unfinished()) <= 2
    assert cuts >= 2
    assert len(cut.went_on_at()) == cuts
    assert cut.artifacts() == whole.artifacts()
    assert cut.unfinished() == []


@pytest.mark.parametrize("step", [5, 6, 14])
def test_around_an_epoch_s_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Cut off at step n, it goes on from n - 1: at most one interval is lost, and the line says where."""
    spec = augmented(spec_with(base=BASE), "crop_flip")
    whole, cut = (Home(tmp_path / name, spec, monkeypatch) for name in ("whole", "cut"))
    dense_base(whole.shop())
    assert cut.cut_at(step, base)
    assert not cut.cut_at(100, base)
    assert cut.went_on_at() == [f"{(step - 1) / 5:g}"]
    assert cut.artifacts() == whole.artifacts()


_TRAIN = """
import json, sys
from eed_search.config.loader import parse
from eed_search.pipeline.context import open_context
from eed_search.pipeline.training import dense_base
from eed_search.training import checkpoints
checkpoints.EVERY_S, checkpoints.MOST_SHARE = 0.0, 1e9
dense_base(open_context(parse(json.loads(sys.argv[2]), "tiny"), sys.argv[1], lambda text: None))
"""


@pytest.mark.whole
@pytest.mark.parametrize(
    ("point", "epoch"),
    [("training.step:kill:8", "1.4"), pytest.param("checkpoint.write:kill:9", "1.6", marks=pytest.mark.slow)],
)
def test_a_process_killed_in_the_middle_loses_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, epoch: str
) -> None:
    """SIGKILL after a step, or at the writing of a checkpoint; another process ends it."""
    spec = spec_with(base=BASE)
    whole, cut = (Home(tmp_path / name, spec, monkeypatch) for name in ("whole", "cut"))
    dense_base(whole.shop())
    killed = subprocess.run(
        [sys.executable, "-c", _TRAIN, str(cut.root / "store"), json.dumps({**TINY, "base": BASE})],
        cwd=ROOT,
        env=environment() | {failpoints.VARIABLE: point},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    dense_base(cut.shop())
    assert cut.went_on_at() == [epoch]
    assert cut.artifacts() == whole.artifacts()


def test_another_machine_goes_on_from_shared_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the search's file and the storage, and nothing of the first machine's."""
    shared = {"storage": {"url": f"file://{tmp_path}/shared"}}
    whole = Home(tmp_path / "whole", spec_with(base=BASE), monkeypatch)
    dense_base(whole.shop())
    one, two = (Home(tmp_path / name, spec_with(base=BASE, **shared), monkeypatch) for name in ("one", "two"))
    assert one.cut_at(9, base)
    assert two.cut_at(4, base)
    assert not one.cut_at(100, base)  # the first comes back: the second was further
    assert two.went_on_at() == ["1.6"]
    assert one.went_on_at() == ["2.2"]
    assert one.artifacts() == whole.artifacts()
    assert one.unfinished() == one.unfinished("../shared") == []


def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the notes of what was made again."""
    spec = spec_with(base=BASE)
    whole, cut = (Home(tmp_path / name, spec, monkeypatch) for name in ("whole", "cut"))
    dense_base(whole.shop())
    assert cut.cut_at(9, base)
    newest = cut.unfinished()[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    shop = cut.shop()
    dense_base(shop)
    assert cut.went_on_at() == ["1.4"]
    (line,) = shop.store.remade
    assert "has another hash than its name says: not taken; goes on from main-" in line
    assert [use.altered for use in shop.store.uses if use.stage == "base.1"] == [line]
    assert cut.artifacts() == whole.artifacts()


def test_a_checkpoint_of_another_recipe_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies under another key; it stays for the search that wrote it."""
    spec = spec_with(base=BASE)
    home = Home(tmp_path, spec, monkeypatch)
    assert home.cut_at(9, base)
    home.spec = spec_with(base={**BASE, "lr": 0.05})
    assert not home.cut_at(100, base)
    assert home.went_on_at() == []
    home.spec = spec
    assert not home.cut_at(100, base)
    assert home.went_on_at() == ["1.6"]


def test_a_full_disk_costs_the_checkpoints_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so."""
    home = Home(tmp_path, spec_with(base=BASE), monkeypatch)
    failpoints._calls.clear()
    monkeypatch.setenv(failpoints.VARIABLE, ",".join(f"checkpoint.write:enospc:{n}" for n in range(1, NUM_STEPS)))
    shop = home.shop()
    dense_base(shop)
    (line,) = shop.store.remade
    assert "No space left on device" in line
    assert home.unfinished() == []


def test_a_training_that_diverged_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt would diverge alike."""
    home = Home(tmp_path, spec_with(base=BASE), monkeypatch)
    monkeypatch.setattr(
        training, "recovery_loss", lambda *given: lambda model, images, *rest: model(images).sum() * nan
    )
    assert home.cut_at(4, base)
    assert home.unfinished()
    with pytest.raises(Diverged):  # at the end of its first epoch
        dense_base(home.shop())
    assert home.went_on_at() == ["0.6"]
    assert home.unfinished() == []


def test_the_time_of_all_attempts_is_the_stage_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done before the cut is part of what the base cost."""
    home = Home(tmp_path, spec_with(base=BASE), monkeypatch)
    given = checkpoints.StageCheckpoint.before_s
    assert home.cut_at(12, base)
    before: list[float] = []

    def seen(self: checkpoints.StageCheckpoint) -> float:
        before.append(given.fget(self))  # type: ignore[misc]
        return before[-1]

    monkeypatch.setattr(checkpoints.StageCheckpoint, "before_s", property(seen))
    shop = home.shop()
    _, key = dense_base(shop)
    assert before[-1] > 0
    assert shop.store.load(f"base.1/{key}").seconds > before[-1]


PARAMS = TrialParams(
    (MemberChoice("nis", 0.5), MemberChoice("nis", 1.0)), "all", "labels", "fast_first", 0.1, 1.0, 0.1, 0.3
)
RADMM = {"set": "filter", "epochs": 2, "batch_size": 32, "updates": 3, "rho": 0.5, "attack": {"steps": 1}}
SPACE = {"space": {"size": [0.5, 1.0], "method": ["prune", "radmm", "cstar", "learned"]}}


def the_control(shop: StageContext) -> object:
    return baseline_stage(shop, 0.5, "distill", dense_base(shop)[0]).made_in(shop.store)


def the_twin(shop: StageContext) -> object:
    return undefended(shop)


def a_member(shop: StageContext, method: Any = "prune") -> object:
    (plan,) = plan_members([MemberChoice("nis", 0.5, method)], "all", "labels")
    return member(shop, plan, dense_base(shop)[0])


def a_radmm_member(shop: StageContext) -> object:
    return a_member(shop, "radmm")


def a_cstar_member(shop: StageContext) -> object:
    return a_member(shop, "cstar")


def a_learned_member(shop: StageContext) -> object:
    return a_member(shop, "learned")


def the_team(shop: StageContext) -> object:
    return team_stage(shop, assemble(shop, PARAMS, dense_base(shop)[0]).members, PARAMS).made_in(shop.store)


@pytest.mark.parametrize(
    "make", [the_control, the_twin, a_member, a_radmm_member, a_cstar_member, a_learned_member, the_team]
)
def test_every_other_training_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    """Baselines, members in each of their parts, teams: cut off again and again, the same bytes."""
    finetune = {"epochs": 2, "batch_size": 32, "attack": {"steps": 1}}
    members = {**TINY["members"], "finetune": finetune, "radmm": RADMM, "learned": {**finetune}}
    members["cstar"] = {k: v for k, v in RADMM.items() if k != "set"} | {"block": 1}
    spec = spec_with(members=members, joint={**finetune}, search=SPACE)
    whole, cut = (Home(tmp_path / name, spec, monkeypatch) for name in ("whole", "cut"))
    for home in (whole, cut):
        dense_base(home.shop())
    make(whole.shop())
    cuts = 0
    while cut.cut_at(4, make):
        cuts += 1
    assert cuts >= 2
    assert cut.artifacts() == whole.artifacts()
    assert cut.unfinished() == []


def test_a_member_cut_off_while_it_is_retrained_repeats_no_admm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the last step of ADMM is taken from its own state."""
    members = {**TINY["members"], "radmm": RADMM}
    home = Home(tmp_path, spec_with(members=members, search=SPACE), monkeypatch)
    dense_base(home.shop())
    assert home.cut_at(13, a_radmm_member)  # 10 steps of ADMM, then the third of retraining
    home.lines.clear()
    assert not home.cut_at(100, a_radmm_member)
    assert home.went_on_at() == ["1.8", "0.4"]


def test_networks_read_from_a_finished_stage_touch_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another search's half-done base lies where it was."""
    home = Home(tmp_path, spec_with(base=BASE), monkeypatch)
    dense_base(home.shop())
    other = Home(tmp_path, spec_with(base={**BASE, "lr": 0.05}), monkeypatch)
    assert other.cut_at(5, base)
    model = dense_base(home.shop())[0]
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert len(other.unfinished()) == 2
