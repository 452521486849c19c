"""The inner attacks of training."""

import pytest
import torch
from torch import nn

from eed_search.config.spec import TrainingAttack
from eed_search.training.attacks import perturb
from eed_search.training.recovery import label_loss

EPS = 0.1


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    images = torch.rand(12, 1, 4, 4)
    images[:4] = images[:4].round()  # saturated pixels, where a clip would swallow the gradient
    return model, images, torch.arange(12) % 4


def attacked(problem, **attack):
    model, images, labels = problem
    return perturb(
        lambda x: label_loss(model(x), labels),
        images,
        eps=EPS,
        attack=TrainingAttack(**attack),
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize(("method", "reach"), [("pgd", 1), ("fgsm_rs", 1), ("n_fgsm", 3)])
def test_the_budget_and_the_pixel_range_hold(method, reach, problem):
    """Within eps (N-FGSM: within its noise and step), and inside [0, 1]."""
    moved = attacked(problem, method=method)
    assert float((moved - problem[1]).abs().max()) <= reach * EPS + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1


def test_on_a_linear_network_pgd_finds_the_worst_case(problem):
    """For two classes the worst image is known: every pixel moved by eps against the margin, clipped."""
    torch.manual_seed(1)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval(), problem[1]
    labels = torch.zeros(12, dtype=torch.long)
    direction = (model[1].weight[1] - model[1].weight[0]).sign().view(1, 1, 4, 4)
    worst = (images + EPS * direction).clamp(0, 1)
    moved = attacked((model, images, labels), method="pgd", steps=20)
    torch.testing.assert_close(moved, worst, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["pgd", "fgsm_rs", "n_fgsm"])
def test_an_attack_raises_the_loss(method, problem):
    """Otherwise adversarial training would be training with noise."""
    model, images, labels = problem
    assert float(label_loss(model(attacked(problem, method=method)), labels).detach()) > float(
        label_loss(model(images), labels).detach()
    )


def test_no_budget_means_no_change(problem):
    """Eps 0 and method none give the clean images."""
    model, images, labels = problem
    generator = torch.Generator().manual_seed(0)
    found = perturb(lambda x: label_loss(model(x), labels), images, eps=0, attack=TrainingAttack(), generator=generator)
    assert torch.equal(found, images)
    assert torch.equal(attacked(problem, method="none"), images)


def test_weights_get_no_gradient_from_an_attack(problem):
    """Only the images are differentiated."""
    attacked(problem, method="pgd")
    assert all(p.grad is None for p in problem[0].parameters())
