"""The losses and the climb against torchattacks' own."""

from __future__ import annotations

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from eed_search.ensemble.gate import Gate, GatedEnsemble, MarginGate, StopRule
from eed_search.evaluation.attacks import AllPrefixes, Climber, Expected, Prefix, Route
from eed_search.evaluation.attacks.objectives import Aim, Objective, loss_of
from eed_search.evaluation.attacks.victim import Victim

SCORES = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 6, (40,), generator=torch.Generator().manual_seed(1))
TARGETS = (LABELS + 1) % 6


def network(seed: int = 0, classes: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, classes))
    model[3].weight.data *= 4
    return model


def test_the_difference_of_logits_is_torchattacks() -> None:
    """Plain and targeted."""
    plain = torchattacks.APGD(network()).dlr_loss(SCORES, LABELS)
    aimed = torchattacks.APGDT(network(), n_classes=6).dlr_loss_targeted(SCORES, LABELS, TARGETS)
    torch.testing.assert_close(loss_of("dlr", SCORES, LABELS, TARGETS), plain)
    torch.testing.assert_close(loss_of("dlr_t", SCORES, LABELS, TARGETS), aimed)


@pytest.mark.parametrize(
    ("objective", "peer"),
    [
        (Prefix(0, "ce"), lambda model: torchattacks.APGD(model, eps=0.04, steps=50, loss="ce")),
        (Prefix(0, "dlr"), lambda model: torchattacks.APGD(model, eps=0.04, steps=50, loss="dlr")),
        (Prefix(0, "dlr_t"), lambda model: torchattacks.APGDT(model, eps=0.04, steps=50, n_classes=6)),
        (Prefix(0, "margin_t"), lambda model: torchattacks.APGDT(model, eps=0.04, steps=50, n_classes=6)),
    ],
    ids=["ce", "dlr", "targeted", "margin"],
)
def test_the_climb_is_as_strong_as_torchattacks(objective: Objective, peer) -> None:
    """On a network without a gate; at most one sample of 120 less."""
    model, images = network(), torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = model(images).argmax(1)
    with torch.random.fork_rng():
        theirs = model(peer(model)(images, labels)).argmax(1) == labels
    ours = model(Climber("climb", model, [objective], eps=0.04, steps=50)(images, labels)).argmax(1) == labels
    assert 0.1 < float(theirs.float().mean()) < 0.9
    assert int(ours.sum()) <= int(theirs.sum()) + 1


@pytest.mark.parametrize("rule", [Gate(0.4), Gate(rule="map"), MarginGate(1.0)], ids=["eed", "map", "margin"])
@pytest.mark.parametrize(
    "objective",
    [Prefix(0, "ce"), Prefix(2, "margin_t"), AllPrefixes(), Expected(False), Expected(True), Route(1), Route(3)],
    ids=str,
)
def test_every_objective_has_a_finite_gradient_everywhere(rule: StopRule, objective: Objective) -> None:
    """At one loss a sample; black and white images too."""
    team = GatedEnsemble([network(seed) for seed in range(3)], rule)
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    images[0], images[1] = 0.0, 1.0
    images.requires_grad_(True)
    view = Victim(team).look(images)
    labels = view.decision.labels
    targets = (labels + 1) % 6
    scale = objective.scale(Aim(view, images, labels, targets, torch.zeros(12, 0)))
    loss = objective.loss(Aim(view, images, labels, targets, scale.detach()))
    (gradient,) = torch.autograd.grad(loss.sum(), images)
    assert loss.shape == (12,)
    assert bool(gradient.isfinite().all())
    assert int((gradient.flatten(1).abs().sum(1) > 0).sum()) >= 10


def test_scaled_logits_do_not_hide_a_team() -> None:
    """Logits times 10,000 flatten every softmax; the margins still lead."""

    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            return 1e4 * self.inner(images)

    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    team = GatedEnsemble([Scaled(network(seed)) for seed in range(3)], Gate(0.9))
    labels = team.decide(images).labels
    ce, margin = (
        (team.decide(Climber("c", team, [o], eps=0.04, steps=30)(images, labels)).labels == labels).float().mean()
        for o in (Prefix(0, "ce"), Prefix(1, "margin_t"))
    )
    assert margin < ce
    assert margin < 0.9
