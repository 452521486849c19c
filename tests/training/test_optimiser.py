"""Our SGD takes the very steps of torch's class, and a training loads no compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from eed_search.training.optimiser import Sgd
from tests.cli.calling import ROOT, environment


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5), nn.Linear(9, 2))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_takes_the_steps_of_torch_s_class(momentum: float) -> None:
    """Bit for bit, at changing rates, also where some weights have no gradient yet or want none."""
    ours, theirs = network(), network()
    for model in (ours, theirs):
        model[1].bias.requires_grad_(False)
    optimiser = Sgd(ours, momentum, 0.01)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    expected = torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=momentum > 0)
    for step in range(6):
        images = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimiser.forget_gradients()
        expected.zero_grad(set_to_none=True)
        for model in (ours, theirs):
            model[:4](images).square().mean().backward()  # the last layer has no gradient
            if step > 3:
                model[4](images.flatten()[:9]).sum().backward()
        rate = 0.1 / (step + 1)
        for group in expected.param_groups:
            group["lr"] = rate
        optimiser.step(rate)
        expected.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(ours[1].bias, network()[1].bias)


def test_momenta_go_on_as_copies() -> None:
    """What was kept of one run is the other's, and later changes of one are not the other's."""
    runs = [(model, Sgd(model, 0.9, 0.0)) for model in (network(), network())]
    (one, first), (other, second) = runs
    images = torch.rand(4, 3, 8, 8)
    one[:4](images).sum().backward()
    first.step(0.1)
    other.load_state_dict(one.state_dict())
    kept = first.momenta
    assert sum(momentum is None for momentum in kept) == 2  # of the layer that was not used
    second.set_momenta(kept)
    for model, optimiser in runs:
        optimiser.forget_gradients()
        model[:4](images).sum().backward()
        optimiser.step(0.1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    second.set_momenta([None] * len(kept))
    assert all(momentum is None for momentum in second.momenta)
    assert any(momentum is not None for momentum in first.momenta)


_RUN = """
import sys
import torch
from eed_search.config.spec import Recipe, TrainingAttack
from eed_search.data.splits import Split
from eed_search.deployment.onnx_export import to_onnx
from eed_search.models import build, count_macs
from eed_search.training import LabelRecovery, train
model = build("small_cnn", width=4, num_classes=10, in_channels=1, mean=(0.5,), std=(0.25,), seed=0)
recipe = Recipe(epochs=1, batch_size=20, clip_norm=1.0, ema=0.9, attack=TrainingAttack(method="n_fgsm"))
train(model, Split(torch.rand(40, 1, 8, 8), torch.arange(40) % 10), recipe, LabelRecovery(0.1, recipe.attack), seed=0, eps=0.1)
assert count_macs(model, (1, 8, 8)) > 0
to_onnx(model, (1, 8, 8))
print("torch._dynamo" in sys.modules)
"""


def test_training_counting_and_exporting_load_no_compiler() -> None:
    """It would take each process 2 s of its start and 71 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
