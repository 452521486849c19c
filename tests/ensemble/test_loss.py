"""The joint loss, term by term, by hand and by law."""

import math

import pytest
import torch
from torch import nn

from eed_search.config.spec import Joint, TrainingAttack
from eed_search.ensemble.loss import (
    ActivationRecorder,
    JointLoss,
    Members,
    activation_level,
    ensemble_loss,
    entropy,
    log_determinant_diversity,
    log_mean,
    regularised_loss,
    weight_norm,
)


def random_logits(members=3, batch=6, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(members, batch, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (batch,), generator=generator)


def test_the_log_mean_is_the_log_of_the_mean():
    """Probabilities are averaged, not logits."""
    logits, _ = random_logits()
    torch.testing.assert_close(log_mean(logits), logits.softmax(-1).mean(0).log())


def test_mean_logits_are_another_answer():
    """Behind a margin logits are averaged: a softmax of their mean, and the terms speak of that."""
    logits, labels = random_logits()
    expected = logits.mean(0).log_softmax(-1)
    torch.testing.assert_close(log_mean(logits, "logits"), expected)
    torch.testing.assert_close(entropy(logits, "logits"), -(expected.exp() * expected).sum(-1))
    fit = ensemble_loss(logits, labels, alpha=0, beta=0)
    rewarded = ensemble_loss(logits, labels, alpha=0.5, beta=0, combine="logits")
    torch.testing.assert_close(fit - rewarded, 0.5 * entropy(logits, "logits").mean())
    # one sample: wrong by mean logits, right by mean probabilities; only the first counts it
    split = torch.tensor([[[0.0, 20.0]], [[0.9, 0.0]], [[0.9, 0.0]], [[0.9, 0.0]]], dtype=torch.float64)
    first = torch.tensor([0])
    assert log_mean(split).argmax() == 0
    assert log_mean(split, "logits").argmax() == 1
    assert regularised_loss(split, first, psi=1.0) == 0
    assert regularised_loss(split, first, psi=1.0, combine="logits") > 0


def test_entropy_of_a_uniform_prediction_is_log_classes():
    """And that of a sure one is 0."""
    assert entropy(torch.zeros(2, 1, 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([[[100.0, 0, 0]]])).item() == pytest.approx(0, abs=1e-6)


def test_diversity_of_two_members_is_the_squared_sine():
    """Det of a 2×2 Gram matrix of unit vectors is 1 − cos² of the wrong-class predictions."""
    logits, labels = random_logits(members=2, batch=1, classes=4)
    probabilities = logits.softmax(-1)
    wrong = [c for c in range(4) if c != int(labels[0])]
    a, b = probabilities[0, 0, wrong], probabilities[1, 0, wrong]
    cosine = float(a @ b / (a.norm() * b.norm()))
    found = log_determinant_diversity(logits, labels).item()
    assert found == pytest.approx(math.log((1 + 1e-6) ** 2 - cosine**2), abs=1e-6)


def test_diversity_of_equal_members_is_finite_and_low():
    """The 1e-6 on the diagonal keeps log det away from minus infinity."""
    logits, labels = random_logits(members=1)
    equal = log_determinant_diversity(logits.repeat(3, 1, 1), labels)
    assert bool(torch.isfinite(equal).all())
    assert float(equal.max()) < -20


def test_more_members_than_wrong_classes_stay_finite():
    """The Gram matrix is singular there."""
    logits, labels = random_logits(members=6, classes=3)
    assert bool(torch.isfinite(log_determinant_diversity(logits, labels)).all())


def test_the_ensemble_loss_rewards_entropy_and_diversity():
    """L_E = sum of cross-entropies − alpha H − beta D, mean over the batch."""
    logits, labels = random_logits()
    fit = sum(nn.functional.cross_entropy(one, labels) for one in logits)
    found = ensemble_loss(logits, labels, alpha=2.0, beta=0.5)
    reward = 2.0 * entropy(logits).mean() + 0.5 * log_determinant_diversity(logits, labels).mean()
    torch.testing.assert_close(found, fit - reward)


def test_the_regulariser_by_hand():
    """−log(1 − p) of the highest wrong probability of any member, where the ensemble is wrong."""
    probabilities = torch.tensor([[[0.1, 0.7, 0.2]], [[0.3, 0.3, 0.4]]], dtype=torch.float64)
    found = regularised_loss(probabilities.log(), torch.tensor([0]), psi=2.0)
    assert found.item() == pytest.approx(-2 * math.log(1 - 0.7))


def test_the_regulariser_is_zero_where_the_ensemble_is_right():
    """One member may be wrong as long as the mean is not."""
    probabilities = torch.tensor([[[0.9, 0.05, 0.05]], [[0.3, 0.4, 0.3]]], dtype=torch.float64)
    assert regularised_loss(probabilities.log(), torch.tensor([0]), psi=1.0).item() == 0


def test_the_regulariser_never_looks_at_the_true_class():
    """A member that is sure of the truth costs nothing, even where the ensemble is wrong."""
    probabilities = torch.tensor([[[0.98, 0.01, 0.01]], [[0.0, 0.99, 0.01]], [[0.0, 0.99, 0.01]]], dtype=torch.float64)
    found = regularised_loss((probabilities + 1e-12).log(), torch.tensor([0]), psi=1.0)
    assert found.item() == pytest.approx(-math.log(1 - 0.99), rel=1e-6)


def test_the_regulariser_keeps_its_gradient_on_the_worst_samples():
    """Where p rounds to 1, −log(1 − p) by logsumexp still pushes."""
    logits = torch.tensor([[[0.0, 60.0, 0.0]]], dtype=torch.float32, requires_grad=True)
    regularised_loss(logits, torch.tensor([0]), psi=1.0).backward()
    assert float(logits.grad[0, 0, 1]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("term", ["entropy", "diversity", "ensemble", "regulariser"])
def test_gradients_are_right(term):
    """Against finite differences."""
    logits, labels = random_logits()
    terms = {
        "entropy": lambda z: entropy(z).sum(),
        "diversity": lambda z: log_determinant_diversity(z, labels).sum(),
        "ensemble": lambda z: ensemble_loss(z, labels, alpha=1.0, beta=0.3),
        "regulariser": lambda z: regularised_loss(z, labels, psi=1.0),
    }
    assert torch.autograd.gradcheck(terms[term], (logits.requires_grad_(),))


def test_the_weight_norm_counts_weights_and_no_batch_norm():
    """L_W is the L1 norm of what a mask can remove."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.Linear(2, 1))
    model[0].weight.data.fill_(-0.5)
    model[2].weight.data.fill_(3.0)
    assert weight_norm([model]).item() == pytest.approx(4 * 0.5 + 2 * 3)


def test_the_activation_level_is_a_smooth_count():
    """A / (a + delta): 0 at rest, one half at delta, towards 1 above."""
    assert activation_level([torch.tensor([0.0, 0.1]), torch.tensor([1e9, 1e9])], delta=0.1).item() == pytest.approx(
        (0.25 + 1) / 2
    )


def test_the_recorder_lets_go_of_its_hooks():
    """After the block a forward pass records nothing."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with ActivationRecorder([model]) as recorder:
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert len(recorder.activations) == 1


def joint_loss(**weights):
    torch.manual_seed(0)
    members = Members([nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(2)])
    loss = JointLoss(
        0.1, Joint(alpha=0.0, attack=TrainingAttack(steps=2)), **({"beta": 0, "omega": 0, "gamma": 0} | weights)
    )
    images, labels = torch.rand(8, 1, 2, 2), torch.arange(8) % 3
    return loss(members, images, labels, torch.Generator().manual_seed(0)), members


def test_without_weights_the_joint_loss_is_the_sum_of_cross_entropies():
    """Alpha = beta = omega = gamma = 0 leaves the members' adversarial fit, and its gradient reaches all."""
    value, members = joint_loss()
    value.backward()
    assert 1.0 < value.item() < 4.0
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in members.parameters() if p.ndim > 1)


@pytest.mark.parametrize("name", ["beta", "omega", "gamma"])
def test_each_weight_changes_the_joint_loss(name):
    """No term of the search space is without effect."""
    assert joint_loss(**{name: 1.0})[0].item() != joint_loss()[0].item()
