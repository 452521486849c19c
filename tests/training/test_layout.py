"""Where images and weights lie must not hang or kill a training: a very narrow ResNet, whose shortcut skips pixels."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from eed_search.models import build, layout
from tests.cli.calling import ROOT, environment

_RUN = """
import torch
from eed_search.config.spec import Recipe, TrainingAttack
from eed_search.data.splits import Split
from eed_search.models import build
from eed_search.training import LabelRecovery, train
torch.set_num_threads(1)
mean, std = (0.5,) * 3, (0.25,) * 3
model = build("resnet18", width=4, num_classes=10, in_channels=3, mean=mean, std=std, seed=0)
split = Split(torch.rand(40, 3, 32, 32), torch.arange(40) % 10)
recipe = Recipe(epochs=2, batch_size=20, attack=TrainingAttack(method="n_fgsm"))
train(model, split, recipe, LabelRecovery(4 / 255, recipe.attack), seed=0)
print("trained")
"""


@pytest.mark.whole
def test_a_very_narrow_resnet_is_trained() -> None:
    """In a process of its own: where memory is corrupted it dies, or never ends."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.parametrize(
    ("layer", "last"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(16, 16, 1, stride=2, groups=4), False),
        (nn.Conv2d(8, 16, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(3, 8, 3, stride=2), True),
    ],
    ids=str,
)
def test_channels_lie_last_where_that_is_safe(layer: nn.Module, last: bool) -> None:
    assert layout(nn.Sequential(layer, nn.ReLU())) == (torch.channels_last if last else torch.contiguous_format)


def test_the_usual_networks_have_channels_last() -> None:
    mean, std = (0.5,) * 3, (0.25,) * 3
    model = build("resnet18", width=16, num_classes=10, in_channels=3, mean=mean, std=std, seed=0)
    assert layout(model) == torch.channels_last
