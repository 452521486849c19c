"""The suite: tiers, the union, and what an attack may not do to its surroundings."""

from __future__ import annotations

import json

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from eed_search.ensemble.gate import Gate, GatedEnsemble, MarginGate, StopRule
from eed_search.evaluation.attacks import Climber, NamedAttack, Prefix, Transfer, break_samples, tier_attacks
from eed_search.evaluation.attacks.base import TeamAttack
from eed_search.evaluation.attacks.victim import PassMeter

EPS = 0.04
GATES = pytest.mark.parametrize("gate", [Gate(0.4), Gate(rule="map"), MarginGate(0.6)], ids=["eed", "map", "margin"])


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).requires_grad_(True)


def sharpened(seed: int) -> nn.Module:
    model = network(seed)
    model[3].weight.data *= 8
    return model


def team(gate: StopRule) -> GatedEnsemble:
    return GatedEnsemble([sharpened(seed) for seed in range(3)], gate)


def images(count: int = 40) -> Tensor:
    return torch.rand(count, 2, 6, 6, generator=torch.Generator().manual_seed(4))


def quick(model: nn.Module, tier: int, seed: int = 0) -> list[NamedAttack]:
    """A tier with fewer steps and queries."""
    attacks = tier_attacks(model, tier, eps=EPS, num_classes=5, seed=seed)
    for named in attacks:
        named.attack.steps = min(named.attack.steps, 12)
    return attacks


@GATES
def test_each_tier_holds_its_families(gate: StopRule) -> None:
    """And each attack says what it spends in plain data."""
    families = [{a.id for a in tier_attacks(team(gate), tier, eps=EPS, num_classes=5, seed=0)} for tier in range(3)]
    assert families[0] == {"G0", "G2"}
    assert families[1] == {"G0", "G1", "G2", "G3", "G4", "G6"}
    assert families[2] == families[1] | {"G5", "G7"}
    for named in tier_attacks(team(gate), 2, eps=EPS, num_classes=5, seed=3):
        plain = json.loads(json.dumps(named.describe()))
        assert plain["eps"] == EPS
        assert plain["seed"] == 3
        assert plain["steps"] > 0
        assert plain["restarts"] > 0


def test_a_network_without_a_gate_meets_the_standard_attacks() -> None:
    """So does a team of one."""
    for model in (network(0), GatedEnsemble([network(0)], Gate())):
        found = [a.name for a in tier_attacks(model, 2, eps=EPS, num_classes=5, seed=0)]
        assert found == ["APGD-CE", "APGD-DLR", "APGD-T", "FAB", "Square", "RayS"]


@GATES
def test_the_union_is_confirmed_by_the_deployed_forward(gate: StopRule) -> None:
    """Broken: right when clean, wrong on the kept image, which lies in the ball. Others: the clean image."""
    model, given = team(gate), images()
    labels = model.decide(given).labels.clone()
    labels[:5] = (labels[:5] + 1) % 5
    found = break_samples(model, quick(model, 1), given, labels, batch_size=16)
    broken = found.broken_by >= 0
    assert 0 < int(broken.sum()) < 35
    assert not found.clean_right[:5].any()
    assert found.clean_right[5:].all()
    assert not broken[:5].any()
    assert (model.decide(found.adversarial).labels != labels)[broken].all()
    assert (found.adversarial - given).abs().max() <= EPS + 1e-6
    assert torch.equal(found.adversarial[~broken], given[~broken])
    assert torch.equal(found.robust, found.clean_right & ~broken)
    assert not any(found.strays)


def test_results_depend_on_neither_batch_nor_order() -> None:
    """The same samples break, by the same attacks."""
    model, given = team(Gate(0.4)), images()
    labels = model.decide(given).labels
    whole = break_samples(model, quick(model, 1), given, labels, batch_size=64)
    small = break_samples(model, quick(model, 1), given, labels, batch_size=7)
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(1))
    mixed = break_samples(model, quick(model, 1), given[order], labels[order], batch_size=64)
    assert torch.equal(whole.broken_by, small.broken_by)
    assert torch.equal(whole.broken_by[order], mixed.broken_by)


def test_a_seed_gives_the_same_bits_and_leaves_the_global_generator() -> None:
    model, given = team(Gate(0.4)), images()
    labels = model.decide(given).labels
    state = torch.get_rng_state()
    first, second = (break_samples(model, quick(model, 1, seed=1), given, labels, batch_size=64) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.adversarial, second.adversarial)
    other = break_samples(model, quick(model, 1, seed=2), given, labels, batch_size=64)
    assert not torch.equal(first.adversarial, other.adversarial)


def test_broken_samples_are_not_attacked_again() -> None:
    """Each attack is given what the ones before left."""

    class Spy(TeamAttack):
        def run(self, images: Tensor, labels: Tensor) -> Tensor:
            given.append(len(images))
            return images

    given: list[int] = []
    model, samples = team(Gate(0.4)), images()
    labels = model.decide(samples).labels
    climber = Climber("climb", model, [Prefix(0, "ce")], eps=EPS, steps=20)
    spy = Spy("spy", model, eps=EPS, steps=1, restarts=1, seed=0)
    attacks = [NamedAttack("G0", "climb", climber), NamedAttack("X", "spy", spy)]
    found = break_samples(model, attacks, samples, labels, batch_size=64)
    assert given == [int((found.broken_by < 0).sum())]
    assert given[0] < len(samples)


def test_an_image_outside_the_ball_breaks_nothing() -> None:
    class Cheat(TeamAttack):
        def run(self, images: Tensor, labels: Tensor) -> Tensor:
            return torch.rand(images.shape, generator=torch.Generator().manual_seed(0))

    model, given = team(Gate(0.4)), images()
    labels = model.decide(given).labels
    cheat = NamedAttack("X", "cheat", Cheat("cheat", model, eps=EPS, steps=1, restarts=1, seed=0))
    found = break_samples(model, [cheat], given, labels, batch_size=64)
    assert found.robust.all()
    assert found.strays == (len(given),)


def test_passes_are_counted() -> None:
    """Ten steps on one sample that holds: eleven looks, and a few to judge."""
    model, given = team(Gate(0.4)), images(1)
    labels = model.decide(given).labels
    climber = NamedAttack("G0", "climb", Climber("climb", model, [Prefix(0, "ce")], eps=1e-6, steps=10))
    found = break_samples(model, [climber], given, labels, batch_size=8)
    assert found.robust.all()
    assert found.backward_passes == (11,)
    assert 11 < found.forward_passes[0] <= 15


def test_any_attack_of_torchattacks_joins_the_union() -> None:
    model, given = team(Gate(0.4)), images()
    labels = model.decide(given).labels
    foreign = NamedAttack("PGD", "PGD", torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=10))
    found = break_samples(model, [foreign], given, labels, batch_size=16)
    assert 0 < int((found.broken_by == 0).sum()) < len(given)
    assert found.backward_passes[0] > 0
    assert foreign.describe()["eps"] == EPS


@pytest.mark.parametrize("tier", [0, 1, 2])
def test_attacks_leave_the_team_as_it_was(tier: int) -> None:
    """Training mode, trainable parameters, no gradients left."""
    model, given = team(Gate(0.4)).train(), images(12)
    model.members[0].eval()
    labels = torch.zeros(12, dtype=torch.long)
    break_samples(model, quick(model, tier), given, labels, batch_size=16)
    assert model.training
    assert not model.members[0].training
    assert model.members[1].training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_without_budget_robust_is_clean() -> None:
    model, given = team(Gate(0.4)), images()
    labels = torch.arange(40) % 5
    attacks = tier_attacks(model, 2, eps=0.0, num_classes=5, seed=0)
    found = break_samples(model, attacks, given, labels, batch_size=16)
    assert torch.equal(found.robust, model.decide(given).labels == labels)


def test_no_samples_pass() -> None:
    model = team(Gate(0.4))
    found = break_samples(model, quick(model, 0), images()[:0], torch.zeros(0, dtype=torch.long), batch_size=16)
    assert found.robust.shape == (0,)


def test_few_classes_are_enough() -> None:
    """Two classes have no difference-of-logits ratio; the plain margin stands in."""
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(72, 2)) for _ in range(2)]
    model, given = GatedEnsemble(members, Gate(0.2)), images()
    labels = model.decide(given).labels
    attacks = tier_attacks(model, 2, eps=0.05, num_classes=2, seed=0)
    for named in attacks:
        named.attack.steps = 12
    found = break_samples(model, attacks, given, labels, batch_size=64)
    assert 0 < int(found.robust.sum()) < 40


def test_the_base_joins_at_tier_2() -> None:
    """Its images break a team whose own gradients are nothing."""

    class Steps(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            return self.inner((images * 255).round() / 255)

    base = sharpened(0)
    masked = GatedEnsemble([Steps(base), Steps(sharpened(1))], Gate(0.4))
    given = images()
    labels = masked.decide(given).labels
    attacks = tier_attacks(masked, 2, eps=EPS, num_classes=5, seed=0, base=base)
    names = [a.name for a in attacks if a.id == "G7"]
    assert names == ["transfer from the static ensemble", "transfer from the dense base"]
    transfer = Climber("t", masked, [Transfer(base, "ce")], eps=EPS, steps=20, source=base)
    direct = Climber("d", masked, [Prefix(0, "ce")], eps=EPS, steps=20)
    broken = [
        int((break_samples(masked, [NamedAttack("X", "x", a)], given, labels, batch_size=64).broken_by >= 0).sum())
        for a in (transfer, direct)
    ]
    assert broken[0] > broken[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tier": 3, "num_classes": 5}, "tier: 3 is not one of 0, 1, 2"),
        ({"tier": 1, "num_classes": 1}, "num_classes: 1; a classifier has at least 2"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tier_attacks(network(0), eps=EPS, seed=0, **arguments)


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="Flatten has no parameters"):
        tier_attacks(nn.Flatten(), 0, eps=EPS, num_classes=5, seed=0)


@pytest.mark.whole
@pytest.mark.parametrize("model", [sharpened(0), team(Gate(0.4))], ids=["network", "team"])
def test_an_attack_says_about_how_many_passes_it_takes(model: nn.Module) -> None:
    """Where nothing breaks: the time left is measured against it."""
    given = images()
    with torch.no_grad():
        labels = model(given).argmax(-1) if not isinstance(model, GatedEnsemble) else model.decide(given).labels
    for named in tier_attacks(model, 2, eps=1e-6, num_classes=5, seed=0):
        if isinstance(named.attack, TeamAttack):
            named.attack.steps = min(named.attack.steps, 40)
            bound = named.attack.most_passes * len(given)
            with PassMeter(model) as meter:
                named.attack(given, labels)
            if bound:
                assert 0.4 * bound <= meter.forward <= 1.2 * bound, named.name
