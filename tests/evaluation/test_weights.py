"""Robustly trained CIFAR-10 networks with figures measured elsewhere: the plain evaluator reproduces them.

The weights and images lie beside the repository, in `shared`; where they are absent, nothing is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from eed_search.core.statistics import clopper_pearson
from eed_search.data.splits import Split
from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation import probes
from eed_search.evaluation.attacks import break_samples, tier_attacks
from eed_search.evaluation.certify import certify
from tests.cli.calling import ROOT

SHARED = ROOT.parent / "shared"
IMAGES, WEIGHTS = SHARED / "data" / "cifar10" / "test.npz", SHARED / "weights"

pytestmark = pytest.mark.skipif(
    not (IMAGES.is_file() and WEIGHTS.is_dir()), reason=f"{SHARED}: holds no weights and test images"
)

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
BYTES = ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
HALVES = ((0.485, 0.456, 0.406), (0.225, 0.225, 0.225))
ERAN = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


class Normalised(nn.Module):
    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mean) / self.std)


def plain(*channels: int, hidden: int, size: int, padding: int = 1) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, padding), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def cnn_a() -> nn.Module:
    return plain(16, 32, hidden=100, size=2048)


def base() -> nn.Module:
    return plain(8, 16, hidden=100, size=1024)


def conv_small() -> nn.Module:
    return plain(16, 32, hidden=100, size=1152, padding=0)


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        changed = before != after or stride != 1
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride)) if changed else nn.Sequential()

    def forward(self, images: Tensor) -> Tensor:
        return (self.conv2(self.conv1(images).relu()) + self.shortcut(images)).relu()


class ResNet2B(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.linear1, self.linear2 = nn.Linear(1024, 100), nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear2(self.linear1(self.layer1(self.conv1(images).relu()).flatten(1)).relu())


class ResNet4B(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.layer2 = nn.Sequential(Block(32, 32, 2), Block(32, 32, 1))
        self.linear1, self.linear2 = nn.Linear(512, 100), nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.layer2(self.layer1(self.conv1(images).relu()))
        return self.linear2(self.linear1(inner.flatten(1)).relu())


def deep() -> nn.Module:
    layers: list[nn.Module] = []
    for before, kernel, stride in ((3, 4, 2), (8, 3, 1), (8, 3, 1), (8, 4, 2)):
        layers += [nn.Conv2d(before, 8, kernel, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 100), nn.ReLU(), nn.Linear(100, 10))


# Name, form, normalisation; clean accuracy on all 10,000 test images, under PGD-20 on the first 1,000 at 2/255 and 8/255.
MEASURED = [
    ("cifar10_oval_base_kw", base, HALVES, 0.5852, 0.520, 0.252),
    ("cifar10_eran_conv_small_pgd", conv_small, ERAN, 0.6292, 0.496, 0.165),
    ("cifar10_resnet2b_adv_linf2", ResNet2B, CIFAR, 0.6925, 0.570, 0.193),
    ("cifar10_cnn_a_adv", cnn_a, BYTES, 0.6565, 0.521, 0.143),
    ("cifar10_cnn_a_adv_alt", cnn_a, BYTES, 0.6872, 0.562, 0.134),
    ("cifar10_cnn_a_adv4", cnn_a, BYTES, 0.5651, 0.490, 0.241),
    ("cifar10_cnn_a_mix", cnn_a, BYTES, 0.7417, 0.574, 0.069),
    ("cifar10_cnn_a_mix4", cnn_a, BYTES, 0.6780, 0.552, 0.178),
    ("cifar10_oval_wide_kw", cnn_a, HALVES, 0.6161, 0.555, 0.265),
    ("cifar10_small_kw_linf8", cnn_a, HALVES, 0.2761, 0.290, 0.244),
    ("cifar10_small_kw_l2_36", cnn_a, HALVES, 0.5438, 0.465, 0.200),
    ("cifar10_resnet4b_adv_linf2", ResNet4B, CIFAR, 0.7720, 0.618, 0.157),
    ("cifar10_oval_deep_kw", deep, HALVES, 0.5531, 0.488, 0.268),
]
_FAST = 2


@cache
def images() -> Split:
    with np.load(IMAGES) as arrays:
        pixels = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float().div_(255).contiguous()
        return Split(pixels, torch.from_numpy(arrays["labels"].astype(np.int64)))


def team(name: str, form: Callable[[], nn.Module], normalisation: tuple[tuple[float, ...], ...]) -> GatedEnsemble[Gate]:
    model = form()
    model.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return GatedEnsemble([Normalised(model, *normalisation)], Gate(2.0)).eval()


@pytest.mark.whole
@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row[0], marks=[] if i < _FAST else pytest.mark.slow) for i, row in enumerate(MEASURED)]
)
def test_clean_accuracy_is_exact_and_pgd_within_its_interval(row: tuple[Any, ...]) -> None:
    """The figures of the weights' README, by the plain PGD that the sanity checks use."""
    name, form, normalisation, clean, *pgd = row
    network = team(name, form, normalisation)
    assert probes.right(network, images()).mean() == pytest.approx(clean, abs=1e-9)
    first = Split(images().images[:1000], images().labels[:1000])
    for eps, expected in zip((2 / 255, 8 / 255), pgd, strict=True):
        held = probes.pgd(network, first, eps=eps, steps=20, seed=0)
        low, high = clopper_pearson(int(held.sum()), 1000)
        assert low <= expected <= high


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row[0]) for row in MEASURED])
def test_apgd_and_square_find_at_least_what_pgd_finds(row: tuple[Any, ...]) -> None:
    """On the same images at 8/255, APGD's cross-entropy with Square after it leaves no more than PGD-20 does."""
    name, form, normalisation, *_ = row
    network = team(name, form, normalisation)
    some = Split(images().images[:200], images().labels[:200])
    attacks = [
        one
        for one in tier_attacks(network, 1, eps=8 / 255, num_classes=10, seed=0)
        if one.name in ("APGD-CE", "Square")
    ]
    assert len(attacks) == 2
    found = break_samples(network, attacks, some.images, some.labels, batch_size=200)
    plain = probes.pgd(network, some, eps=8 / 255, steps=20, seed=0)
    print(f"{name}: APGD-CE and Square {int(found.robust.sum())}, PGD-20 {int(plain.sum())} of {len(some)}")
    assert int(found.robust.sum()) <= plain.sum()


def test_trained_for_proofs_a_network_has_some() -> None:
    """At the 8/255 that Wong and Kolter trained this one for, bounds certify most of what PGD-20 leaves; others at 2/255."""
    for name, form, eps, least in (("cifar10_small_kw_linf8", cnn_a, 8 / 255, 0.25), ("cifar10_oval_base_kw", base, 2 / 255, 0.15)):  # fmt: skip
        network = team(name, form, HALVES)
        some = Split(images().images[:100], images().labels[:100])
        certified = certify(network, some, eps=eps).right
        held = probes.pgd(network, some, eps=eps, steps=20, seed=0)
        assert certified.mean() >= least
        assert not (certified & ~held).any()


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row[0]) for row in MEASURED])
def test_the_tiers_union_finds_at_least_what_pgd_finds(row: tuple[Any, ...]) -> None:
    """On the same 100 images at 8/255, tier 1's attacks leave no more than PGD-20 does."""
    name, form, normalisation, *_ = row
    network = team(name, form, normalisation)
    some = Split(images().images[:100], images().labels[:100])
    attacks = tier_attacks(network, 1, eps=8 / 255, num_classes=10, seed=0)
    found = break_samples(network, attacks, some.images, some.labels, batch_size=100)
    plain = probes.pgd(network, some, eps=8 / 255, steps=20, seed=0)
    print(f"{name}: tier 1 {int(found.robust.sum())}, PGD-20 {int(plain.sum())} of {len(some)}")
    assert int(found.robust.sum()) <= plain.sum()
