"""A deployed ONNX member as a torch module: differentiable, for attacks that follow gradients, or as it runs.

A bundle holds ONNX files and nothing else that an attack could follow. The operators that our
exporter writes are few, so they are read back here; each network is compared with onnxruntime before
it is given away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from eed_search.core.errors import ModelError
from eed_search.deployment.runtime import INPUT, OUTPUT

_TOLERANCE = 1e-4  # largest difference of a probability


class Node(NamedTuple):
    """One operator of a network.

    Attributes:
        kind: Its ONNX name; a key of `OPERATORS`.
        settings: Its attributes.
        inputs: Names of the values that it takes; empty where one is left out.
        outputs: Names of the values that it gives.
    """

    kind: str
    settings: dict[str, Any]
    inputs: list[str]
    outputs: list[str]


class OnnxNetwork(nn.Module):
    """An ONNX member run by torch, with gradients; gives logits where the file ends with a softmax.

    Args:
        model: The file's bytes, as `to_onnx` writes them.
        name: For messages.

    Attributes:
        nodes: The operators, in the order in which they run.
        input: Name of the images.
        output: Name of the logits.

    Raises:
        ModelError: If it holds an operator that is not known here; names it.
    """

    def __init__(self, model: bytes, name: str = "member") -> None:
        super().__init__()
        import onnx
        from onnx import numpy_helper

        graph = onnx.load_model_from_string(model).graph
        self._weights: dict[str, str] = {}
        for i, tensor in enumerate(graph.initializer):
            self._keep(tensor.name, numpy_helper.to_array(tensor), i)
        self.nodes: list[Node] = []
        output = graph.output[0].name
        for i, node in enumerate(graph.node):
            settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant" and "value" in settings:
                self._keep(node.output[0], numpy_helper.to_array(settings["value"]), len(graph.initializer) + i)
            elif node.op_type == "Softmax" and node.output[0] == output:
                output = node.input[0]  # logits: a softmax taken twice would flatten every gradient
            elif node.op_type in OPERATORS:
                self.nodes.append(Node(node.op_type, settings, list(node.input), list(node.output)))
            else:
                known = ", ".join(sorted(OPERATORS))
                raise ModelError(
                    f"{name}: the ONNX operator {node.op_type} cannot be differentiated here (known: {known});"
                    " attack the run's point or the torch model instead"
                )
        self.input, self.output = graph.input[0].name, output

    def _keep(self, name: str, array: np.ndarray, number: int) -> None:
        self._weights[name] = key = f"weight{number}"
        tensor = torch.from_numpy(np.array(array))
        if tensor.is_floating_point():  # parameters: who asks a model for its device or its MACs looks there
            self.register_parameter(key, nn.Parameter(tensor, requires_grad=False))
        else:
            self.register_buffer(key, tensor)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits, up to a constant for each image."""
        values = self.weights()
        values[self.input] = images
        for kind, settings, inputs, outputs in self.nodes:
            values[outputs[0]] = OPERATORS[kind](settings, *(values[name] if name else None for name in inputs))
        return values[self.output]

    def weights(self) -> dict[str, Tensor]:
        """Everything that does not depend on the images, by name."""
        return {name: getattr(self, key) for name, key in self._weights.items()}


class SessionMember(nn.Module):
    """A member as it is deployed: onnxruntime's own answer, without a gradient.

    Args:
        session: A loaded onnxruntime session of the bundle's runtime.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session = session
        self.place = nn.Parameter(
            torch.zeros(1), requires_grad=False
        )  # attacks ask a model's parameters for its device

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Log probabilities."""
        pixels = np.ascontiguousarray(images.detach().cpu().float().numpy())
        probabilities = torch.from_numpy(self._session.run([OUTPUT], {INPUT: pixels})[0])
        return probabilities.to(images.device).clamp_min(1e-35).log()


def differentiable(models: Sequence[bytes], sessions: Sequence[Any], shape: tuple[int, int, int]) -> list[OnnxNetwork]:
    """Read members back as torch networks, each compared with onnxruntime.

    Args:
        models: The members' ONNX bytes, in gate order.
        sessions: The same, loaded by onnxruntime.
        shape: Channels, height, width.

    Raises:
        ModelError: If an operator is unknown, or a network cannot be run or answers otherwise than onnxruntime.
    """
    images = torch.rand(7, *shape, generator=torch.Generator().manual_seed(0))
    found = []
    for i, (model, session) in enumerate(zip(models, sessions, strict=True), start=1):
        try:
            network = OnnxNetwork(model, f"member {i}").eval()
            with torch.no_grad():
                ours = network(images).softmax(-1).numpy()
            difference = float(np.abs(ours - session.run([OUTPUT], {INPUT: images.numpy()})[0]).max())
        except ModelError:
            raise
        except Exception as error:  # a file that no exporter of ours wrote can be wrong in any way
            line = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise ModelError(
                f"member {i}: cannot be read back as a torch network ({line}); attack the run's point or the torch model instead"
            ) from error
        if not difference <= _TOLERANCE:
            raise ModelError(
                f"member {i}: torch gives other probabilities than onnxruntime (largest difference {difference:.1g});"
                " attack the run's point or the torch model instead"
            )
        found.append(network)
    return found


def _conv(settings: dict[str, Any], images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads = list(settings.get("pads", [0, 0, 0, 0]))
    if settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ModelError("Conv: automatic padding is not known here; export the member again")
    half = len(pads) // 2
    before, after = pads[:half], pads[half:]
    sides = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return functional.conv2d(
        functional.pad(images, sides) if any(sides) else images,
        weight,
        bias,
        stride=settings.get("strides", [1, 1]),
        dilation=settings.get("dilations", [1, 1]),
        groups=settings.get("group", 1),
    )


def _gemm(settings: dict[str, Any], left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    left = left.T if settings.get("transA", 0) else left
    right = right.T if settings.get("transB", 0) else right
    product = (left @ right) * float(settings.get("alpha", 1.0))
    return product if bias is None else product + bias * float(settings.get("beta", 1.0))


def _pool(settings: dict[str, Any], images: Tensor, *, average: bool) -> Tensor:
    pads = settings.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:] or settings.get("ceil_mode", 0) or settings.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ModelError("pooling: uneven padding is not known here; export the member again")
    kernel, stride = settings["kernel_shape"], settings.get("strides", [1, 1])
    if average:
        whole = bool(settings.get("count_include_pad", 0))
        return functional.avg_pool2d(images, kernel, stride, pads[:2], count_include_pad=whole)
    return functional.max_pool2d(images, kernel, stride, pads[:2])


def _batch_norm(
    settings: dict[str, Any], images: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    return functional.batch_norm(images, mean, var, scale, bias, eps=settings.get("epsilon", 1e-5))


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda settings, a, b: a + b,
    "Sub": lambda settings, a, b: a - b,
    "Mul": lambda settings, a, b: a * b,
    "Div": lambda settings, a, b: a / b,
    "MatMul": lambda settings, a, b: a @ b,
    "Relu": lambda settings, a: a.relu(),
    "Clip": lambda settings, a, low=None, high=None: a.clamp(low, high),
    "Tanh": lambda settings, a: a.tanh(),
    "Sigmoid": lambda settings, a: a.sigmoid(),
    "Exp": lambda settings, a: a.exp(),
    "LeakyRelu": lambda settings, a: functional.leaky_relu(a, settings.get("alpha", 0.01)),
    "Identity": lambda settings, a: a,
    "Flatten": lambda settings, a: a.flatten(1),
    "Softmax": lambda settings, a: a.softmax(settings.get("axis", -1)),
    "GlobalAveragePool": lambda settings, a: a.mean((2, 3), keepdim=True),
    "MaxPool": lambda settings, a: _pool(settings, a, average=False),
    "AveragePool": lambda settings, a: _pool(settings, a, average=True),
    "Conv": _conv,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
}
