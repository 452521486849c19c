"""Crafted inputs: within budget, repeatable, strong with the budget, and free of torchattacks' traps."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torchattacks
from torch import nn

from eed_search.config.spec import Data, Recipe, TrainingAttack
from eed_search.data.splits import Split, Splits, load_splits
from eed_search.models import build, place
from eed_search.training import LabelRecovery, train
from eed_search.transfer.craft import BatchedDeepFool, craft, inputs_hash, lengths, predict
from eed_search.transfer.spec import AttackChoice, AttackName, Case

CPU = torch.device("cpu")
BOUNDED: tuple[AttackName, ...] = ("fgsm", "bim", "pgd", "mifgsm", "square", "autoattack")
NEAREST: tuple[AttackName, ...] = ("deepfool", "cw")
FEW = {
    "square": {"queries": 20},
    "autoattack": {"steps": 3, "queries": 10},
    "cw": {"steps": 20},
    "deepfool": {"steps": 10},
}


@cache
def _data() -> Splits:
    return load_splits(Data(num_train=500, num_validation=10, num_fresh=10, num_test=40), 0)


@cache
def _trained() -> nn.Module:
    data = _data()
    model = build("small_cnn", width=8, num_classes=10, in_channels=1, mean=data.mean, std=data.std, seed=0)
    none = TrainingAttack(method="none")
    train(model, data.train, Recipe(epochs=8, batch_size=50, attack=none), LabelRecovery(0, none), seed=0)
    model.zero_grad(set_to_none=True)
    return place(model).eval()


def _case(name: AttackName, eps: float | None) -> Case:
    return Case(AttackChoice.model_validate({"name": name} | FEW.get(name, {})), eps)


def _craft(name: AttackName, eps: float | None, *, seed: int = 0, split: Split | None = None) -> torch.Tensor:
    return craft(
        _trained(), split or _data().test, _case(name, eps), num_classes=10, seed=seed, batch_size=40, device=CPU
    )


def _accuracy(images: torch.Tensor) -> float:
    return float((predict(_trained(), images, batch_size=40, device=CPU) == _data().test.labels).float().mean())


@pytest.mark.parametrize("name", BOUNDED)
def test_budget_0_is_clean(name: AttackName) -> None:
    """No budget, no change."""
    assert torch.equal(_craft(name, 0.0), _data().test.images)


@pytest.mark.parametrize("name", BOUNDED)
def test_inputs_keep_to_budget_and_range(name: AttackName) -> None:
    """float32, within ε to 1e-6 and within [0, 1], and something was broken."""
    moved = _craft(name, 0.2)
    assert moved.dtype == torch.float32
    assert float((moved.double() - _data().test.images.double()).abs().max()) <= 0.2 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert _accuracy(moved) < _accuracy(_data().test.images) - 0.1


def test_accuracy_falls_with_the_budget() -> None:
    """PGD at 0, 0.05, 0.1, 0.2."""
    found = [_accuracy(_craft("pgd", eps)) for eps in (0.0, 0.05, 0.1, 0.2)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.9
    assert found[-1] < 0.2


@pytest.mark.parametrize("name", [*BOUNDED, *NEAREST])
def test_the_same_seed_gives_the_same_bits_and_no_trace(name: AttackName) -> None:
    """Whatever an attack seeds inside, the global generator goes on as if nothing had been."""
    eps = None if name in NEAREST else 0.1
    torch.manual_seed(7)
    first = _craft(name, eps)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
    assert inputs_hash(_craft(name, eps).numpy()) == inputs_hash(first.numpy())
    assert all(p.grad is None and p.requires_grad for p in _trained().parameters())


def test_another_seed_gives_other_inputs() -> None:
    """PGD starts elsewhere."""
    assert not torch.equal(_craft("pgd", 0.1, seed=1), _craft("pgd", 0.1))


def test_what_is_wrong_already_is_left_alone() -> None:
    """With every label changed nothing is right, so nothing is attacked."""
    test = _data().test
    wrong = Split(test.images, (predict(_trained(), test.images, batch_size=40, device=CPU) + 1) % 10)
    assert torch.equal(_craft("pgd", 0.1, split=wrong), test.images)


@pytest.mark.parametrize("name", NEAREST)
def test_minimum_norm_attacks_break_almost_all(name: AttackName) -> None:
    """Both find wrong images near by, saturated pixels or not."""
    moved = _craft(name, None)
    assert _accuracy(moved) < 0.3
    assert float(lengths(moved, _data().test.images).median()) < 2.5


def test_a_vanished_gradient_leaves_the_image() -> None:
    """MI-FGSM divides by the gradient's mean: without gradient it would give NaN."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[torch.zeros(len(images), dtype=torch.long)] + self.scale * images.sum()

    images = torch.rand(4, 1, 8, 8)
    split = Split(images, torch.zeros(4, dtype=torch.long))
    for name in ("mifgsm", "deepfool"):
        moved = craft(Flat(), split, _case(name, None if name == "deepfool" else 0.1), num_classes=10, seed=0, batch_size=4, device=CPU)  # fmt: skip
        assert torch.equal(moved, images), name


def test_batched_deepfool_is_torchattacks_s() -> None:
    """The same steps for all images at once."""
    split = _data().test.subset(torch.arange(8))
    theirs = torchattacks.DeepFool(_trained(), steps=3)(split.images, split.labels)
    ours = BatchedDeepFool(_trained(), steps=3)(split.images, split.labels)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_hash_sees_every_bit() -> None:
    """One value off by the least: another hash; a copy: the same."""
    images = _data().test.images.numpy().copy()
    before = inputs_hash(images)
    assert inputs_hash(images.copy()) == before
    images[0, 0, 0, 0] += 1e-7
    assert inputs_hash(images) != before
