"""What is certified is true: against closed forms, linear programs, every attack there is, and points drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from eed_search.config.spec import Data
from eed_search.data.splits import Split, load_splits
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.onnx_torch import OnnxNetwork
from eed_search.ensemble.gate import DeployedGate, Gate, GatedEnsemble, MarginGate
from eed_search.evaluation import probes
from eed_search.evaluation.attacks import break_samples, suite, tier_attacks
from eed_search.evaluation.bounds import LogitBounds
from eed_search.evaluation.certify import METHOD, certify, holds
from eed_search.evaluation.prefixes import AllMembers
from eed_search.models import build
from tests.evaluation import defences
from tests.evaluation.attacks.linear_truth import linear_team, robust_truth

SHAPE = (3, 8, 8)


def conv_net(*middle: nn.Module, channels: int = 6) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), *middle, nn.Flatten(), nn.LazyLinear(5))


class Residual(nn.Module):
    """A forked path, a constant before and a bend after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.short, self.last = nn.Conv2d(3, 4, 1, 2), nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        shifted = (images - 0.4) / 0.25
        inner = self.second(self.first(shifted).relu())
        return self.last((inner + self.short(shifted)).relu().flatten(1))


FORMS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: conv_net(nn.ReLU()),
    "batch norm": lambda: conv_net(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, 2), nn.ReLU()),
    "max pool": lambda: conv_net(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3)),
    "average pool": lambda: conv_net(nn.AvgPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    "leaky": lambda: conv_net(nn.LeakyReLU(0.2), nn.Conv2d(6, 4, 3), nn.LeakyReLU(0.2)),
    "smooth": lambda: conv_net(nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Sigmoid()),
    "clipped": lambda: conv_net(nn.ReLU6(), nn.Conv2d(6, 4, 3), nn.ReLU()),
    "depthwise": lambda: conv_net(nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU()),
    "residual": Residual,
    "small_cnn": lambda: build("small_cnn", width=4, num_classes=5, in_channels=3, mean=(0.4,) * 3, std=(0.3,) * 3, seed=1),
    "resnet18": lambda: build("resnet18", width=4, num_classes=5, in_channels=3, mean=(0.4,) * 3, std=(0.3,) * 3, seed=1),
}  # fmt: skip


def network(form: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = FORMS[form]()
    model.eval()(torch.rand(2, *SHAPE))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics unlike those of a fresh layer
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.3, 2)
            torch.nn.init.uniform_(module.weight, -1, 2)
            torch.nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize("form", FORMS)
def test_no_point_of_the_ball_is_below_its_bound(form: str) -> None:
    """Corners, points inside and points that climb towards the bound, for layers of every kind."""
    model = network(form)
    images, eps = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1)), 0.03
    wanted = torch.eye(5)[:1] - torch.eye(5)[1:]
    rows = wanted[:, None].expand(-1, len(images), -1)
    low = LogitBounds(OnnxNetwork(to_onnx(model, SHAPE)), images, eps).at_least(rows)
    generator = torch.Generator().manual_seed(2)
    least = torch.full_like(low, torch.inf)
    for draw in range(60):
        noise = torch.rand(images.shape, generator=generator) * 2 - 1
        moved = (images + eps * (noise.sign() if draw % 2 else noise)).clamp(0, 1)
        with torch.no_grad():
            least = torch.minimum(least, (model(moved) @ wanted.T).T.double())
    for row, direction in enumerate(wanted):
        moved = images.clone()
        for _ in range(20):
            moved.requires_grad_()
            (slope,) = torch.autograd.grad((model(moved) @ direction).sum(), moved)
            moved = (images + (moved.detach() - 0.01 * slope.sign() - images).clamp(-eps, eps)).clamp(0, 1)
            with torch.no_grad():
                least[row] = torch.minimum(least[row], (model(moved) @ direction).double())
    assert bool((low <= least + 1e-5).all())
    with torch.no_grad():
        clean = (model(images) @ wanted.T).T
    if form != "resnet18":  # its twenty random layers leave a bound of -100
        assert float((clean - low).median()) < 60 * float((clean - least).median())  # a bound, and not any number


def test_without_a_budget_the_bound_is_the_logits() -> None:
    """But for the attacks' own tolerance of a millionth."""
    model, images = network("residual"), torch.rand(4, *SHAPE)
    rows = torch.eye(5)[:, None].expand(-1, 4, -1)
    low = LogitBounds(OnnxNetwork(to_onnx(model, SHAPE)), images, 0.0).at_least(rows)
    torch.testing.assert_close(low, model(images).T.detach().double(), atol=1e-4, rtol=0)


def test_of_a_linear_network_the_bound_is_the_closed_form() -> None:
    """A difference of logits w·x + b is least at the corner against w, cut off at 0 and 1: equality, and every flag."""
    torch.manual_seed(0)
    layer = nn.Linear(36, 4)
    model, eps = nn.Sequential(nn.Flatten(), layer).eval(), 0.04
    images = torch.rand(200, 1, 6, 6)
    labels = model(images).argmax(1)
    flat, reach = images.flatten(1).double(), eps + 1e-6
    low, high = (flat - reach).clamp(0, 1), (flat + reach).clamp(0, 1)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    rows = torch.eye(4)[labels][None] - torch.eye(4)[:, None]
    slope = weight[labels][None] - weight[:, None]
    truth = torch.where(slope > 0, slope * low, slope * high).sum(2) + (bias[labels][None] - bias[:, None])
    found = LogitBounds(OnnxNetwork(to_onnx(model, (1, 6, 6))), images, eps).at_least(rows)
    torch.testing.assert_close(found, truth, atol=1e-9, rtol=1e-9)
    others = truth.T.scatter(1, labels[:, None], torch.inf).amin(1)
    certificate = certify(GatedEnsemble([model], Gate()).eval(), Split(images, labels), eps=eps)
    assert certificate.method == METHOD
    near = (others.abs() < 1e-3).numpy()
    assert np.array_equal(certificate.right[~near], (others > 0).numpy()[~near])
    assert not (certificate.right & (others <= 0).numpy()).any()
    assert 0.2 < certificate.right.mean() < 0.8


@pytest.mark.parametrize("number", [0, 1])
def test_on_gated_linear_teams_nothing_beyond_the_truth_is_certified(number: int) -> None:
    """The truth is exact, by linear programs; what is certified lies within it and is not nothing."""
    shared, threshold, eps = ((0.7, 1.0, 0.01), (0.9, 0.5, 0.02))[number]
    team = linear_team(number, members=3, classes=4, pixels=36, shared=shared, threshold=threshold)
    images = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(7))
    labels = team.decide(images).labels
    truth = robust_truth(team, images, labels, eps)
    right = certify(team, Split(images, labels), eps=eps).right
    assert not (right & ~truth).any()
    assert 0.1 < right.mean() <= truth.mean() < 1


@pytest.mark.parametrize(
    "gate",
    [Gate(0.9), Gate(0.998), Gate(0.6, sharpness=2.0, tau=0.2), Gate(rule="map"), MarginGate(1.0), MarginGate(4.0), Gate(2.0)],
    ids=str,
)  # fmt: skip
def test_no_attack_breaks_what_is_certified(gate: DeployedGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tier 1 in a cheap form on networks trained against attacks, at a budget where some samples hold and some do not."""
    monkeypatch.setattr(suite, "_BUDGETS", {1: suite._Budget(6, 2, 60)})
    team = GatedEnsemble(defences.members(), gate).eval()
    whole = defences.images_and_labels()
    split, eps = Split(whole.images[:80], whole.labels[:80]), 0.04
    right = certify(team, split, eps=eps).right
    attacks = tier_attacks(team, 1, eps=eps, num_classes=defences.NUM_CLASSES, seed=0)
    robust = break_samples(team, attacks, split.images, split.labels, batch_size=80).robust.numpy()
    assert not (right & ~robust).any()
    assert not (right & ~probes.pgd(team, split, eps=eps, steps=20, seed=0)).any()
    assert 0.1 < right.mean() <= robust.mean()


def test_on_digits_no_attack_breaks_what_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small CNN of the digits search, trained a little against one-step attacks, two of them behind each rule."""
    monkeypatch.setattr(suite, "_BUDGETS", {1: suite._Budget(5, 2, 40)})
    data = load_splits(Data(num_train=500, num_validation=50, num_fresh=20, num_test=20), 0)
    members = []
    for seed in (0, 1):
        model = build("small_cnn", width=8, num_classes=10, in_channels=1, mean=data.mean, std=data.std, seed=seed)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for images, labels in [*zip(data.train.images.split(100), data.train.labels.split(100), strict=True)] * 4:
            point = images.clone().requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(model(point), labels), point)
            optimiser.zero_grad()
            functional.cross_entropy(model((images + 0.05 * slope.sign()).clamp(0, 1)), labels).backward()
            optimiser.step()
        members.append(model.eval())
    for gate in (Gate(0.8), MarginGate(2.0)):
        team, split, eps = GatedEnsemble(members, gate).eval(), data.validation, 0.01
        right = certify(team, split, eps=eps).right
        attacks = tier_attacks(team, 1, eps=eps, num_classes=10, seed=0)
        robust = break_samples(team, attacks, split.images, split.labels, batch_size=80).robust.numpy()
        print(f"{gate}: certified {right.mean():.3f}, robust {robust.mean():.3f}")
        assert not (right & ~robust).any()
        assert 0.2 < right.mean() <= robust.mean()


def test_a_larger_budget_certifies_less() -> None:
    team, split = defences.honest(), defences.images_and_labels()
    shares = [certify(team, Split(split.images[:60], split.labels[:60]), eps=eps) for eps in (0.0, 0.05, 0.1, 0.3)]
    flags = [one.right for one in shares]
    assert all(not (more & ~fewer).any() for fewer, more in pairwise(flags))
    assert flags[0].mean() > flags[2].mean() > flags[3].mean() == 0


# ---------------------------------------------------------------- the gate's arithmetic

RULES = [Gate(0.4), Gate(0.7, sharpness=2.0, tau=0.3), Gate(0.2, sharpness=0.5, tau=3.0), Gate(rule="map"), MarginGate(0.7), MarginGate(3.0), AllMembers(Gate()), AllMembers(MarginGate(1.0))]  # fmt: skip


@pytest.mark.parametrize("gate", RULES, ids=str)
@given(seed=st.integers(0, 10_000), width=st.sampled_from([0.0, 0.2, 1.0, 3.0]), scale=st.sampled_from([0.5, 3.0]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_whatever_lies_within_the_bounds_is_answered_rightly(
    gate: object, seed: int, width: float, scale: float
) -> None:
    """Leads drawn within the bounds, their corners too, are put through the gate itself."""
    generator = torch.Generator().manual_seed(seed)
    middle = scale * (torch.randn(3, 40, 4, generator=generator, dtype=torch.float64) + 0.8)
    radius = width * torch.rand(3, 40, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (40,), generator=generator)
    own = labels.expand(3, -1)[..., None]
    low, high = (part.scatter(2, own, 0.0) for part in (middle - radius, middle + radius))
    fine = holds(gate, low, high, labels)
    for draw in range(24):
        place = torch.rand(low.shape, generator=generator, dtype=torch.float64)
        lead = low + (high - low) * (place.round() if draw % 2 else place)
        found = gate.decide_logs((-lead).log_softmax(-1)).labels  # type: ignore[attr-defined]
        assert bool((found == labels)[fine].all())
    if width == 0.0:  # nothing is open: but for ties and stops within rounding, right is certified and wrong is not
        assert float((fine == (found == labels)).float().mean()) > (0.0 if "map" in str(gate) else 0.9)


def test_a_prefix_at_which_the_gate_cannot_stop_need_not_be_right() -> None:
    """Two members: the first is wrong and far from sure, the second carries the answer; and the other way round."""
    doubtful, sure = torch.tensor([0.0, -0.1, 1.0]), torch.tensor([0.0, 9.0, 9.0])
    labels = torch.tensor([0])

    def team(*members: Tensor) -> Tensor:
        return torch.stack(members)[:, None].double()

    for gate in (Gate(0.9), MarginGate(2.0)):
        width = torch.tensor([0.0, 0.02, 0.02])
        assert holds(gate, team(doubtful - width, sure - width), team(doubtful + width, sure + width), labels).all()
    for gate, reached in product((Gate(0.9), MarginGate(2.0)), (False, True)):
        first, wrong = sure, torch.tensor([0.0, -20.0, 9.0])  # behind a first member that stops, nothing matters
        rule = type(gate)(2.0 if isinstance(gate, Gate) else 100.0) if reached else gate
        assert bool(holds(rule, team(first, wrong), team(first, wrong), labels).all()) is not reached


def test_what_has_no_bound_is_said() -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(36, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.last((images * images).flatten(1))

    split = defences.images_and_labels()
    found = certify(GatedEnsemble([Squares()], Gate()).eval(), split, eps=0.01)
    assert found.right is None
    assert found.method == "not tried: the ONNX operator Mul of two values that both vary has no bound here"
    other = certify(GatedEnsemble(defences.members(), defences.BatchGate()).eval(), split, eps=0.01)
    assert other.method == "not tried: what a BatchGate answers is not known here"
    own = certify(defences.random_order(), split, eps=0.01)
    assert own.method == "not tried: a RandomOrder answers by code of its own"


def test_as_many_samples_are_tried_as_asked_for() -> None:
    """Also where nothing can be proved of the first ones."""
    told: list[str] = []
    split = defences.images_and_labels()
    found = certify(defences.honest(), split, eps=0.4, report=told.append)
    assert told[-1] == "bounds: samples 151 to 160 of 160"
    assert found.right is not None
    assert found.right.tolist() == [False] * 160


def test_a_bundle_is_certified_as_the_run_that_it_came_from() -> None:
    """Its members are ONNX files read back."""
    team, split = defences.honest(), defences.images_and_labels()
    read_back = [OnnxNetwork(to_onnx(member, defences.SHAPE)) for member in team.members]
    own = certify(team, split, eps=defences.EPS)
    bundle = certify(GatedEnsemble(read_back, team.gate).eval(), split, eps=defences.EPS)
    assert own.right is not None
    assert bundle.right is not None
    assert own.right.any()
    assert bundle.right.tolist() == own.right.tolist()
    assert bundle.method == METHOD
