"""What `test_other_device` runs, each in a process of its own: see there.

python -m tests.devices.checks NAME FOLDER

On a machine with a GPU the same checks run on it, but for the seeded faults: EED_SEARCH_TEST_DEVICE=cuda
(`benchmarks/gpu_check.sh` does). There sums come in another order, so networks are near the CPU's and not equal to them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from eed_search import trial
from eed_search.cli import attack as attack_command
from eed_search.config.spec import Recipe
from eed_search.core.errors import ModelError, TrialFailure
from eed_search.data.splits import load_splits
from eed_search.evaluation.attacks import suite
from eed_search.forecast.calibration import calibrate
from eed_search.models import build_for, small_cnn
from eed_search.pipeline import context
from eed_search.runs.ledger import read_run
from eed_search.runs.records import TrialRecord
from eed_search.training import LabelRecovery, batches, loop, recovery
from eed_search.training.loop import Training
from tests.cli.calling import call
from tests.devices.other_device import NAME, DeviceGenerator, other_device
from tests.pins.home import RUN, unpack
from tests.test_trial import Session, params, silent, spec_with

PAIR = params(("nis", 0.5), ("bnsf", 1.0))
STEPS = {"epochs": 2, "batch_size": 32, "attack": {"steps": 1}}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "channels": ("prune", {}),
    "weights": ("prune", {"granularity": "unstructured"}),
    "radmm_filter": ("radmm", {"radmm": {"set": "filter", **STEPS}}),
    "radmm_irregular": ("radmm", {"radmm": {"set": "irregular", **STEPS}}),
    "cstar": ("cstar", {"cstar": STEPS}),
    "learned_channels": ("learned", {"learned": STEPS}),
    "learned_weights": ("learned", {"granularity": "unstructured", "learned": STEPS}),
}


REAL = os.environ.get("EED_SEARCH_TEST_DEVICE", "")


@contextmanager
def the_device() -> Iterator[torch.device]:
    """Give the test device, or a real one that the environment names."""
    if REAL:
        yield torch.device(REAL)
    else:
        with other_device() as device:
            yield device


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether weights are equal; on a real device, whether they are as near as sums in another order leave them."""
    return torch.allclose(one.float(), other.float(), rtol=0.05, atol=0.05) if REAL else torch.equal(one, other)


@contextmanager
def taken() -> Iterator[torch.device]:
    """Let trials take the device."""
    with the_device() as device, mock.patch.object(context, "choose_device", return_value=device):
        yield device


def tensors(session: Session, artifact: str) -> dict[str, Any]:
    """Read an artifact of the store."""
    opened = context.open_context(session.setting.spec, session.setting.store_root, silent)
    return dict(opened.store.load(artifact).artifact.tensors)


def found(folder: Path) -> tuple[Session, TrialRecord, list[float]]:
    """Make all that a search makes: base, trial, baseline, a check on fresh images."""
    session = Session(folder, spec_with())
    record = session.run(PAIR)
    assert record.measurement is not None, record.message
    baseline = trial.baseline(0.5, session.setting, session.probe, silent)
    check = trial.recheck(record.measurement.artifact, PAIR, (0, 20), session.setting, silent)
    m, one = record.measurement, baseline.measurement
    said = [m.clean_accuracy, m.robust_accuracy, one.robust_accuracy, check.clean_accuracy, check.robust_accuracy]
    return session, record, [found.value for found in said]


def trial_equals_the_cpus(folder: Path) -> None:
    """The networks but for the order of sums, and what was found of them."""
    here, record, said = found(folder / "cpu")
    with taken():
        there, other, told = found(folder / "other")
        opened = context.open_context(there.setting.spec, there.setting.store_root, silent)
        assert opened.device.type == NAME
    assert record.measurement is not None
    assert other.measurement is not None
    for one, same in (
        (here.setting.base.measurement.artifact, there.setting.base.measurement.artifact),
        (record.measurement.artifact, other.measurement.artifact),
    ):
        mine, theirs = tensors(here, one), tensors(there, same)
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-3, atol=1e-5, err_msg=key)
    np.testing.assert_allclose(said, told, atol=0.051)  # sums in another order may turn two answers of forty


def member(name: str) -> Callable[[Path], None]:
    """Make a member by a method, and a team of it alone."""
    method, members = METHODS[name]

    def check(folder: Path) -> None:
        space = {"space": {"method": [method], "size": [0.5], "score": ["ase"]}}
        with taken():
            session = Session(folder, spec_with(members=members, search=space))
            chosen = params(("ase", 0.5))
            record = session.run(replace(chosen, members=(replace(chosen.members[0], method=method),)))
        assert record.outcome == "done", record.message

    return check


def pool(folder: Path) -> None:
    """A pool of members by each score, joined with distillation, in bfloat16."""
    with taken():
        spec = spec_with(
            team={"mode": "pool"},
            members={"finetune": {"precision": "bfloat16"}},
            joint={"precision": "bfloat16"},
            search={"space": {"recovery": ["distill"], "size": [0.5]}},
        )
        session = Session(folder, spec)
        chosen = params(*((score, 0.5) for score in spec.team.pool.scores), recovery="distill")
        record = session.run(chosen)
    assert record.outcome == "done", record.message


def training_goes_on(folder: Path) -> None:
    """What was kept half-way leads there to the very network of a training that was never cut off; so on the CPU."""
    spec = spec_with()
    data = load_splits(spec.data, spec.seed)

    def trained(device: torch.device, cut: int | None) -> dict[str, torch.Tensor]:
        recipe = Recipe(epochs=2, batch_size=32, ema=0.9)
        makes = LabelRecovery(eps=0.1, attack=recipe.attack)
        made = [build_for(spec.model, data, 0) for _ in range(2)]
        runs = [Training(model, data.train, recipe, makes, seed=3, augment="none", device=device) for model in made]
        if cut is None:
            runs[0].advance()
            runs[0].finish()
            return {name: tensor.cpu() for name, tensor in made[0].state_dict().items()}
        runs[0].advance(cut)
        kept = runs[0].state()
        assert all(type(tensor) is torch.Tensor for tensor in kept.values()), "a checkpoint lies on no device"
        runs[1].restore(kept)
        runs[1].advance()
        runs[1].finish()
        return {name: tensor.cpu() for name, tensor in made[1].state_dict().items()}

    del folder
    with the_device() as device:
        whole, gone_on = trained(device, None), trained(device, 4)
    here = trained(torch.device("cpu"), None)
    assert all(equal(whole[name], gone_on[name]) for name in whole)
    assert all(equal(whole[name], here[name]) for name in whole)


def attack(*more: str) -> Callable[[Path], None]:
    """`eed-search attack` on a run's team, few steps."""

    def check(folder: Path) -> None:
        home = unpack(folder)
        teams = [
            one for one in read_run(home / RUN).trials.values() if one.measurement and one.measurement.num_members > 1
        ]
        few = {0: suite._Budget(5, 0, 0), 1: suite._Budget(8, 2, 60), 2: suite._Budget(8, 2, 60)}
        with (
            the_device() as device,
            mock.patch.object(attack_command, "_device", return_value=device),
            mock.patch.object(suite, "_BUDGETS", few),
        ):
            done = call("attack", f"{RUN}:{teams[0].number}.0", *more, "--num-samples", 50, "--home", home)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output

    return check


def dry_run(folder: Path) -> None:
    """The forecast's measurements of a few batches of everything."""
    with taken():
        opened = context.open_context(spec_with(), folder / "store", silent, whole_machine=True)
        units = calibrate(opened, cores=1)
    assert (units.num_train, units.num_validation) == (160, 40)
    assert units.num_bytes.at(0.5) < units.num_bytes.at(1.0)


def _stays(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    return module  # a forgotten .to(device)


def _mask_of_the_cpu(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask.cpu())


class _Unregistered(nn.Module):
    """A normalisation whose constants are attributes, no buffers: they stay where they were made."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


class _OfTheCpu(DeviceGenerator):
    """Draws for the CPU, whatever it is asked for."""

    def __new__(cls, device: Any = "cpu") -> DeviceGenerator:
        return super().__new__(cls)


def _weighted_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    weights = torch.ones(logits.shape[1])  # a constant made on the CPU
    return nn.functional.cross_entropy(logits, labels, weight=weights, reduction="sum")


FAULTS: dict[str, Callable[[], Any]] = {
    "a forgotten .to": lambda: mock.patch.object(loop, "place", _stays),
    "a mask of the CPU": lambda: mock.patch.object(loop, "apply_masks", _mask_of_the_cpu),
    "a generator of the CPU": lambda: mock.patch.object(torch, "Generator", _OfTheCpu),
    "a buffer of the CPU": lambda: mock.patch.object(small_cnn, "Normalise", _Unregistered),
    ".numpy() of a device tensor": lambda: mock.patch.object(torch.Tensor, "cpu", lambda tensor: tensor),
    "a constant made on the CPU inside a loss": lambda: mock.patch.object(recovery, "label_loss", _weighted_loss),
    "images that stay on the CPU": lambda: mock.patch.object(
        batches.Batches, "take", _of_the_cpu(batches.Batches.take)
    ),
}


def _of_the_cpu(take: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: tuple(one.cpu() for one in take(self))


def fault(name: str) -> Callable[[Path], None]:
    """What is wrong with one seeded fault does not pass unseen."""

    def check(folder: Path) -> None:
        spec = spec_with(members={"granularity": "unstructured"})
        with taken(), FAULTS[name]():
            try:
                record = Session(folder, spec).run(params(("erm", 0.5)))
            except (RuntimeError, TypeError, ModelError, TrialFailure) as error:
                said = str(error)
            else:
                said = record.message
                assert record.outcome == "failed", f"{name}: nobody noticed"
        words = ("one device", "a generator of the one device", ".numpy()", "numpy", "Expected")
        assert any(word in said for word in words), said

    return check


CHECKS: dict[str, Callable[[Path], None]] = {
    "trial_equals_the_cpus": trial_equals_the_cpus,
    **{f"member_{name}": member(name) for name in METHODS},
    "pool": pool,
    "attack_tier_1": attack("--tier", "1"),
    "attack_paper_table": attack("--table", "paper"),
    "training_goes_on": training_goes_on,
    "dry_run": dry_run,
    **{f"fault: {name}": fault(name) for name in FAULTS},
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](Path(sys.argv[2]))
