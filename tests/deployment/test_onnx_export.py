"""ONNX export: equal numbers at any batch, quiet, and a clear error where it cannot be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from eed_search.config.registry import BUILT_IN
from eed_search.core.errors import ModelError
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import new_session
from eed_search.models import build


@pytest.mark.parametrize("name", sorted(BUILT_IN["model"]))
def test_own_networks_give_equal_numbers(name: str) -> None:
    """In onnxruntime they give torch's softmax outputs at batch 1, 2 and 9."""
    model = build(name, width=8, num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, seed=1).eval()
    session = new_session(to_onnx(model, (3, 32, 32)))
    for batch in (1, 2, 9):
        images = torch.rand(batch, 3, 32, 32)
        with torch.no_grad():
            expected = model(images).softmax(1).numpy()
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-6)


def test_form_of_the_file() -> None:
    """One input and one output by their agreed names, free batch, weights inside."""
    model = onnx.load_from_string(to_onnx(_Linear(), (1, 8, 8)))
    onnx.checker.check_model(model)
    (images,), (probabilities,) = model.graph.input, model.graph.output
    assert (images.name, probabilities.name) == ("images", "probabilities")
    shape = images.type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [dim.dim_value for dim in shape[1:]] == [1, 8, 8]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_network_is_left_as_it_was() -> None:
    """Mode, gradients and statistics of the network are untouched, and so is the random generator."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    to_onnx(model, (1, 8, 8))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.flatten(1))


class _Checked(_Linear):
    """Branches on a size, which the tracer doubts and `torch.export` understands."""

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] != 8:
            raise ValueError
        return super().forward(images)


class _Singular(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.svdvals(images.flatten(2).transpose(1, 2) @ images.flatten(2)).flatten(1)


class _Branching(_Linear):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if logits.sum() > 0 else -logits


def test_the_slower_exporter_steps_in() -> None:
    """A network that tracing doubts is exported all the same, with equal numbers."""
    model = _Checked().eval()
    images = torch.rand(5, 1, 8, 8)
    found = new_session(to_onnx(model, (1, 8, 8))).run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, model(images).softmax(1).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Singular(), "_Singular: cannot be written as ONNX: operator aten::linalg_svd"),
        (_Branching(), "_Branching: cannot be written as ONNX: its forward turns a tensor"),
    ],
)
def test_what_cannot_be_exported_is_a_model_error(
    model: nn.Module, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message names network and operator, and the exporters print nothing beside it."""
    with pytest.raises(ModelError, match=message):
        to_onnx(model, (1, 8, 8))
    out, err = capfd.readouterr()
    assert out + err == ""


def test_wrong_images_are_a_model_error() -> None:
    """A network that fails on the images says so before any exporter is asked."""
    with pytest.raises(ModelError, match=r"_Linear: fails on images of shape \[1, 9, 9\]"):
        to_onnx(_Linear(), (1, 9, 9))


def test_logits_must_be_a_table() -> None:
    """A network without a classifier is refused."""
    with pytest.raises(ModelError, match=r"Conv2d: gives logits of shape \[3, 2, 6, 6\]"):
        to_onnx(nn.Conv2d(1, 2, 3), (1, 8, 8))
