"""ADMM: its gradient, its fixed points, its agreement with plain training, its resumption."""

import copy

import pytest
import torch

from eed_search.compression.admm import Admm, PenalisedLoss, train_towards
from eed_search.compression.masks import top_mask
from eed_search.compression.projections import irregular, masked
from eed_search.config.spec import AdmmRecipe, TrainingAttack
from eed_search.data.splits import Split
from eed_search.training.loop import train
from eed_search.training.recovery import LabelRecovery

from .conftest import batch_of
from .test_radmm import Kept

ATTACK = TrainingAttack(steps=1)
RECIPE = AdmmRecipe(epochs=3, batch_size=16, updates=6, rho=0.1, attack=ATTACK, tolerance=0)
LOSS = LabelRecovery(0.05, ATTACK)


@pytest.fixture
def split():
    batch = batch_of((1, 8, 8), 64)
    return Split(batch.images, batch.labels)


def towards_sparse(model, fraction=0.3, rho=0.1):
    weights = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}

    def project(targets):
        return masked(targets, {name: irregular(t, fraction) for name, t in targets.items()})

    return Admm(weights, project, rho)


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("updates", [0, 1, 2, 5])
def test_the_penalty_pulls_with_rho_times_the_gap_after_any_number_of_updates(updates):
    """The gradient is rho (W - Z + U): the dual's history is no part of it."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    admm = Admm({"w": weight}, lambda t: masked(t, {"w": irregular(t["w"], 0.3)}), 0.7)
    for _ in range(updates):
        admm.update({"w": weight})
        with torch.no_grad():
            weight -= 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(admm.penalty({"w": weight}), weight)
    torch.testing.assert_close(gradient, 0.7 * (weight - admm.z["w"] + admm.u["w"]).detach())
    assert not admm.u["w"].requires_grad


def test_the_dual_itself_stays_when_rho_grows(cnn):
    """U is the dual over rho: times c for rho, divided by c for U."""
    admm = towards_sparse(cnn)
    admm.update(dict(cnn.named_parameters()))
    dual = {name: admm.rho * u for name, u in admm.u.items()}
    admm.scale_rho(0.135)
    assert admm.rho == 0.135
    for name, u in admm.u.items():
        torch.testing.assert_close(admm.rho * u, dual[name])


def solve(values, rho, count=3, updates=200):
    """Minimise ½|W - A|² with at most `count` non-zeros, the W-step in closed form."""

    def project(targets):
        return {"w": targets["w"] * top_mask(targets["w"].abs(), count / len(values))}

    admm = Admm({"w": values}, project, rho)
    weight = values
    for _ in range(updates):
        weight = (values + rho * (admm.z["w"] - admm.u["w"])) / (1 + rho)
        residuals = admm.update({"w": weight})
    return weight, admm.z["w"], residuals


@pytest.mark.parametrize("rho", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(20))
def test_with_enough_penalty_the_best_subset_is_reached(seed, rho):
    """N = 8, k = 3: rho of 1 and more ends at the three largest entries, residuals gone."""
    values = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight, z, residuals = solve(values, rho)
    best = values * top_mask(values.abs(), 3 / 8)
    torch.testing.assert_close(z, best)
    torch.testing.assert_close(weight, best)
    assert max(residuals.primal, residuals.dual) < 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_with_too_little_penalty_it_never_settles(seed):
    """Rho of 0.1: the dual of what is left out grows until it takes a place that it loses again."""
    values = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    _, _, residuals = solve(values, 0.1)
    assert max(residuals.primal, residuals.dual) > 0.05


def test_without_constrained_weights_it_is_plain_adversarial_training(cnn, split):
    """To the last bit."""
    plain = copy.deepcopy(cnn)
    train(plain, split, RECIPE, LOSS, seed=3)
    assert train_towards(cnn, Admm({}, lambda t: {}, 0.1), split, RECIPE, LOSS, seed=3) == ()
    assert same(plain, cnn)


def test_training_moves_the_weights_to_the_set(cnn, split):
    """The primal residual shrinks as rho grows; every update is reported."""
    lines = []
    recipe = RECIPE.model_copy(update={"epochs": 20, "updates": 10, "rho_growth": 1.5, "rho_max": 2.0})
    history = train_towards(cnn, towards_sparse(cnn), split, recipe, LOSS, seed=3, report=lines.append)
    assert history[-1].primal < 0.3 * history[0].primal
    assert len(history) == 10
    assert sum("|W-Z|/|W|" in line for line in lines) == 10


def test_it_stops_once_both_residuals_are_small(cnn, split):
    recipe = RECIPE.model_copy(update={"tolerance": 1.0})
    lines = []
    assert len(train_towards(cnn, towards_sparse(cnn), split, recipe, LOSS, seed=3, report=lines.append)) == 1
    assert not any("epoch 1 of" in line for line in lines)  # two steps of four were enough


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_resumed_training_equals_uninterrupted_training(cnn, split, share):
    """Z, U, rho, momentum, order and attacks go on where they were: at an update, and between two."""
    fresh = copy.deepcopy(cnn)
    kept = Kept()
    whole = towards_sparse(cnn)
    history = train_towards(cnn, whole, split, RECIPE, LOSS, seed=3, checkpoint=kept)
    again = towards_sparse(fresh)
    state = kept.states[round(share * (len(kept.states) - 1))]
    rest = train_towards(fresh, again, split, RECIPE, LOSS, seed=3, checkpoint=Kept(state))
    assert rest == history[len(history) - len(rest) :]
    assert len(rest) == len(history) - int(state["beside/admm/updates"])
    assert same(cnn, fresh)
    assert again.rho == whole.rho
    for name in whole.z:
        assert torch.equal(whole.z[name], again.z[name])
        assert torch.equal(whole.u[name], again.u[name])


def test_attacks_leave_batch_norm_alone(cnn, split):
    """One batch moves the statistics once: the attack's forward passes run in evaluation mode."""
    loss = PenalisedLoss(LabelRecovery(0.05, TrainingAttack(steps=5)), towards_sparse(cnn))
    norm = next(m for m in cnn.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = int(norm.num_batches_tracked)
    loss(cnn, split.images[:8], split.labels[:8], torch.Generator().manual_seed(0))
    assert int(norm.num_batches_tracked) == before + 1


def test_a_weight_that_the_projection_leaves_out_carries_no_penalty():
    """Its dual is forgotten: it may be constrained anew later."""
    constrained = ["a", "b"]
    admm = Admm({"a": torch.ones(2), "b": torch.ones(2)}, lambda t: {n: 0.5 * t[n] for n in constrained}, 1.0)
    weights = {"a": torch.ones(2), "b": torch.ones(2, requires_grad=True)}
    admm.update(weights)
    constrained.remove("b")
    admm.update(weights)
    assert torch.equal(admm.u["b"], torch.zeros(2))
    assert not admm.penalty(weights).requires_grad
    constrained.append("b")
    assert admm.update(weights).dual == pytest.approx(0.5)
