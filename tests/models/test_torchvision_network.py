"""Torchvision's classifiers as bases: names, forms, scores, removal, storage, export."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from eed_search.compression.channels import channel_groups, choose_channels, dense_layers, remove_channels
from eed_search.compression.scores import ScoreBatch, score_function, weight_layers
from eed_search.config.registry import BUILT_IN
from eed_search.config.spec import TrainingAttack
from eed_search.config.torchvision_names import classifiers
from eed_search.core.errors import ModelError
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import new_session
from eed_search.models import build, check_images, fit_to_state
from eed_search.models.torchvision_door import torchvision

SHAPE = (3, 32, 32)
# Residual sums with channel gates; concatenations without batch norms; convolutions in groups.
NAMES = ["mobilenet_v3_small", "squeezenet1_1", "regnet_y_400mf"]


def network(name: str, in_channels: int = 3) -> nn.Module:
    half = (0.5,) * in_channels
    model = build(f"torchvision:{name}", width=64, num_classes=5, in_channels=in_channels, mean=half, std=half, seed=1)
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics, scale and shift that a mistake would show with
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 2.0), (module.bias.data, -0.5, 0.5),
            ):  # fmt: skip
                tensor.uniform_(low, high, generator=generator)
    return model.eval()


def batch() -> ScoreBatch:
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    return ScoreBatch(images, torch.tensor([1, 4]), 0.03, TrainingAttack(steps=1), 0)


def test_the_names_are_torchvision_s() -> None:
    """Read from its files, as its own registry lists them."""
    models = torchvision("models")
    assert list(classifiers()) == models.list_models(module=models)


@pytest.fixture(params=NAMES, scope="module")
def base(request: pytest.FixtureRequest) -> nn.Module:
    return network(request.param)


def test_a_smaller_network_equals_the_silenced_one_and_its_export(base: nn.Module) -> None:
    """Channels removed, stored and read back, written as ONNX: the same answers to 1e-5."""
    chosen = choose_channels(base, SHAPE, score_function("erm")(base, batch()), 0.5, 8)
    smaller, silenced, images = remove_channels(base, SHAPE, chosen), copy.deepcopy(base), batch().images
    with torch.no_grad():
        for group, keep in chosen:
            for name in (*group.producers, *group.norms):
                for parameter in silenced.get_submodule(name).parameters(recurse=False):
                    parameter[~keep] = 0
        answer = smaller(images)
        scale = float(base(images).abs().max())
        assert float((answer - silenced(images)).abs().max()) <= 1e-5 * max(1.0, scale)
        assert float((answer - base(images)).abs().max()) > 1e-3 * scale  # the test could see a difference
        assert torch.equal(fit_to_state(base, smaller.state_dict())(images), answer)
        found = new_session(to_onnx(smaller, SHAPE)).run(None, {"images": images.numpy()})[0]
        np.testing.assert_allclose(found, answer.softmax(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("score", BUILT_IN["score"])
def test_every_weight_has_a_finite_score_and_every_layer_an_order(base: nn.Module, score: str) -> None:
    """Channel gates too, which lie beside the path that importance flows along."""
    scores = score_function(score)(base, batch())
    assert list(scores) == [f"{name}.weight" for name in weight_layers(base)]
    assert all(bool(torch.isfinite(one).all()) and float(one.min()) >= 0 for one in scores.values())
    assert score == "ase" or all(float(one.max()) > 0 for one in scores.values())


def test_what_cannot_be_removed_is_named() -> None:
    """Regnet's convolutions in groups, and what feeds them; the rest of it can."""
    model = network("regnet_y_400mf")
    dense = dense_layers(model, SHAPE)
    assert "network.trunk_output.block1.block1-0.f.b.0" in dense
    assert 0 < len(dense) < len(weight_layers(model)) - 1
    grouped = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert grouped <= set(dense)


def test_a_network_that_cannot_be_traced_says_what_to_take_instead() -> None:
    """Shufflenet deals its channels out anew: no dependency graph, but masks and low rank are still there."""
    with pytest.raises(
        ModelError, match=r"torchvision:shufflenet_v2_x0_5: which layers share channels cannot be traced"
    ):
        channel_groups(network("shufflenet_v2_x0_5"), SHAPE)


def test_grey_images_are_taken_three_times() -> None:
    grey = network("squeezenet1_1", 1)
    images = torch.rand(2, 1, 32, 32)
    colour = network("squeezenet1_1")
    torch.testing.assert_close(grey(images), colour(images.repeat(1, 3, 1, 1)))


def test_images_that_are_too_small_are_refused_before_any_training() -> None:
    """Alexnet pools 32×32 away; squeezenet takes them, with as many classes as there are."""
    model = network("alexnet")
    with pytest.raises(ModelError, match=r"torchvision:alexnet cannot take images of 32×32 with 3 channels \(.*larger"):
        check_images(model, "torchvision:alexnet", SHAPE, 5)
    check_images(network("squeezenet1_1"), "torchvision:squeezenet1_1", SHAPE, 5)
    with pytest.raises(ModelError, match=r"gives \[2, 5\] for 2 images; needs logits \[2, 6\]"):
        check_images(network("squeezenet1_1"), "torchvision:squeezenet1_1", SHAPE, 6)


def test_an_unknown_name_is_refused_with_the_closest() -> None:
    with pytest.raises(ModelError, match=r"'torchvision:resnet51' is none of .*; did you mean torchvision:resnet50\?"):
        network("resnet51")
