"""ONNX members read back as torch networks: the same answers, gradients, and a clear refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from eed_search.core.errors import ModelError
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.onnx_torch import OnnxNetwork, SessionMember, differentiable
from eed_search.deployment.runtime import new_session
from eed_search.models import build, count_macs

SHAPE = (3, 16, 16)


def member(name: str) -> nn.Module:
    return build(name, width=8, num_classes=10, in_channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, seed=0).eval()


@pytest.mark.parametrize(
    ("name", "side"), [("small_cnn", 16), ("resnet18", 16), ("vgg16_bn", 32), ("mobilenet_v2", 16)]
)
def test_answers_and_gradients_are_those_of_the_network(name: str, side: int) -> None:
    model, shape = member(name), (3, side, side)
    onnx = to_onnx(model, shape)
    (read,) = differentiable([onnx], [new_session(onnx)], shape)
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    gradients = []
    for network in (model, read):
        point = images.clone().requires_grad_()
        logits = network(point)
        gradients.append(torch.autograd.grad(logits.log_softmax(-1)[:, 0].sum(), point)[0])
        torch.testing.assert_close(logits, model(images), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-2)
    assert count_macs(read.float(), shape) == count_macs(model, shape)


def test_an_unknown_operator_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.erf(images).flatten(1)

    with pytest.raises(ModelError, match="operator Erf cannot be differentiated here"):
        OnnxNetwork(to_onnx(Odd(), SHAPE))


def test_another_networks_file_is_refused() -> None:
    """The comparison with onnxruntime would notice a wrong reading."""
    first, second = (to_onnx(member(name), SHAPE) for name in ("small_cnn", "resnet18"))
    with pytest.raises(ModelError, match="member 1: torch gives other probabilities than onnxruntime"):
        differentiable([first], [new_session(second)], SHAPE)


def test_a_session_member_answers_as_onnxruntime_does() -> None:
    onnx = to_onnx(member("small_cnn"), SHAPE)
    session = new_session(onnx)
    images = torch.rand(3, *SHAPE)
    expected = session.run(["probabilities"], {"images": images.numpy()})[0]
    np.testing.assert_allclose(SessionMember(session)(images).exp().numpy(), expected, atol=1e-6)
