"""Square and RayS against torchattacks, a closed form and masked gradients."""

from __future__ import annotations

import torch
import torchattacks
from torch import Tensor, nn

from eed_search.evaluation.attacks import Climber, Prefix, RayS, Square

EPS = 0.05


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    model[3].weight.data *= 4
    return model


def images(count: int = 80) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def robust(model: nn.Module, attack, given: Tensor, labels: Tensor) -> Tensor:
    moved = attack(given, labels)
    assert (moved - given).abs().max() <= EPS + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1
    return model(moved).argmax(1) == labels


def test_square_is_as_strong_as_torchattacks() -> None:
    """Stronger on small images: torchattacks' squares never touch the last row and column."""
    model, given = network(), images()
    labels = model(given).argmax(1)
    with torch.random.fork_rng():
        theirs = robust(model, torchattacks.Square(model, eps=EPS, n_queries=500), given, labels)
    ours = robust(model, Square(model, eps=EPS, queries=500), given, labels)
    assert 0.1 < float(theirs.float().mean()) < 0.9
    assert float(ours.float().mean()) <= float(theirs.float().mean()) + 0.03


def test_rays_finds_what_a_linear_network_holds() -> None:
    """It breaks no sample whose margin says robust, and at least two in three of the others."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    given = images() * 0.8 + 0.1  # away from 0 and 1, so that the margin is exact
    scores = model(given)
    labels = scores.argmax(1)
    reach = (model[1].weight[0] - model[1].weight[1]).abs().sum() * EPS
    truth = (scores[:, 0] - scores[:, 1]).abs() > reach
    found = robust(model, RayS(model, eps=EPS, queries=600), given, labels)
    assert 0.2 < float(truth.float().mean()) < 0.8
    assert not (truth & ~found).any()
    assert int((~found).sum()) >= int((~truth).sum()) * 2 / 3


def test_both_see_through_masked_gradients() -> None:
    """Rounded inputs leave no gradient to climb; scores and labels still tell."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> Tensor:
            return self.inner((images * 63).round() / 63)

    model, given = Steps(), images()
    labels = model(given).argmax(1)
    blind = robust(model, Climber("climb", model, [Prefix(0, "ce")], eps=EPS, steps=50), given, labels).sum()
    assert robust(model, Square(model, eps=EPS, queries=500), given, labels).sum() < blind
    assert robust(model, RayS(model, eps=EPS, queries=500), given, labels).sum() < blind
