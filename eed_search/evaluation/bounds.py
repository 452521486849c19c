"""Bounds that hold for EVERY image within eps: what no attack, present or future, can get past.

Two kinds, on a network as it is deployed (its ONNX file). Intervals go forward, layer by layer. Then linear
bounds go backward from the wanted difference of logits to the pixels, with the intervals as limits of each
ReLU's input; where nothing bends both are exact. The better of the two is taken, and of the backward one also
the form that stops right before the last linear layer, which is the usual form of the first.

Reckoned in float64, on a ball that is 1e-6 larger than eps, as the attacks' tolerance is.

Source:
    Intervals: Gowal et al. 2018, arXiv 1810.12715 (the last layer merged with the difference: section 3). Backward:
    CROWN-IBP, Zhang et al. 2020, arXiv 1906.06316; the slope of a ReLU: Zhang et al. 2018, arXiv 1811.00866.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from eed_search.core.errors import ModelError
from eed_search.deployment.onnx_torch import OPERATORS, Node, OnnxNetwork

Images = Float[Tensor, "batch channels height width"]
_TOLERANCE = 1e-6  # the attacks' own, beyond eps

_WEIGHTED = ("Conv", "Gemm", "MatMul")  # linear in the first input; the others are weights
_MONOTONE = ("Relu", "LeakyRelu", "Clip", "Tanh", "Sigmoid", "Exp", "Identity", "Flatten", "MaxPool")
_AVERAGING = ("AveragePool", "GlobalAveragePool")  # linear and monotone
_PLAIN = ("Identity", "Flatten", *_AVERAGING)  # linear, without weights


class Interval(NamedTuple):
    """Every value between two ends."""

    low: Tensor
    high: Tensor


Value = Interval | Tensor


class LogitBounds:
    """A network's logits within eps of some images.

    Args:
        network: As deployed; its weights are copied to float64.
        images: In [0, 1].
        eps: L∞ budget in pixel units.

    Raises:
        ModelError: If the network holds an operator that has no bound here; names it.
    """

    def __init__(self, network: OnnxNetwork, images: Images, eps: float) -> None:
        pixels = images.double()
        reach = eps + _TOLERANCE
        ball = Interval((pixels - reach).clamp(0, 1), (pixels + reach).clamp(0, 1))
        self._nodes, self._input, self._output = network.nodes, network.input, network.output
        self._values: dict[str, Value] = {
            name: weight.double() if weight.is_floating_point() else weight
            for name, weight in network.weights().items()
        }
        self._values[network.input] = ball
        for node in network.nodes:
            self._values[node.outputs[0]] = _forward(
                node, [self._values[name] if name else None for name in node.inputs]
            )
        if not isinstance(self._values[network.output], Interval):
            raise ModelError("the network's logits do not depend on the image")

    def at_least(self, wanted: Float[Tensor, "rows batch classes"]) -> Float[Tensor, "rows batch"]:
        """Lower bounds of linear combinations of the logits.

        Args:
            wanted: For each row and image the weight of each class.
        """
        first = self._backward(wanted, whole=False)
        return torch.maximum(first, self._backward(wanted, whole=True))

    def _backward(self, wanted: Float[Tensor, "rows batch classes"], *, whole: bool) -> Float[Tensor, "rows batch"]:
        """Follow the rows back to the pixels; or only through the linear layers behind the last bend."""
        rows: dict[str, Tensor] = {self._output: wanted.double()}
        total = torch.zeros(wanted.shape[:2], dtype=torch.float64, device=wanted.device)
        for node in reversed(self._nodes):
            row = rows.pop(node.outputs[0], None)
            if row is None:
                continue
            if not isinstance(self._values[node.outputs[0]], Interval):  # made of weights alone
                rows[node.outputs[0]] = row
                continue
            inputs = [self._values[name] if name else None for name in node.inputs]
            if node.kind in ("Relu", "LeakyRelu") and whole:
                given, constant = _through_bend(node, row, inputs[0])
            elif (found := _through_linear(node, row, inputs)) is not None:
                given, constant = found
            else:  # stop here: the interval says what this value can be
                given, constant = {}, _lowest(row, self._values[node.outputs[0]])
            total = total + constant
            for name, part in given.items():
                rows[name] = rows[name] + part if name in rows else part
        for name, row in rows.items():
            total = total + _lowest(row, self._values[name])
        return total


# ---------------------------------------------------------------- intervals, forward


def _forward(node: Node, inputs: list[Value | None]) -> Value:
    """The values that a layer can have."""
    operator, settings = OPERATORS[node.kind], node.settings
    varying = [isinstance(one, Interval) for one in inputs]
    if not any(varying):
        plain: Tensor = operator(settings, *inputs)
        return plain
    if node.kind in ("Add", "Sub"):
        first, second = (_as_interval(one) for one in inputs)
        second = Interval(-second.high, -second.low) if node.kind == "Sub" else second
        return Interval(first.low + second.low, first.high + second.high)
    bent = [one for one in inputs if isinstance(one, Interval)]
    if len(bent) > 1:
        raise ModelError(f"the ONNX operator {node.kind} of two values that both vary has no bound here")
    if node.kind in (*_MONOTONE, *_AVERAGING) and varying[0] and float(settings.get("alpha", 0)) >= 0:
        rest = inputs[1:]
        return Interval(operator(settings, bent[0].low, *rest), operator(settings, bent[0].high, *rest))
    if (linear := _linear(node, inputs)) is None:
        raise ModelError(f"the ONNX operator {node.kind} has no bound here")
    apply, magnitude = linear
    middle, radius = (bent[0].low + bent[0].high) / 2, (bent[0].high - bent[0].low) / 2
    centre, width = apply(middle), magnitude(radius)
    return Interval(centre - width, centre + width)


def _as_interval(value: Value | None) -> Interval:
    assert value is not None
    return value if isinstance(value, Interval) else Interval(value, value)


Apply = Callable[[Tensor], Tensor]


def _linear(node: Node, inputs: list[Value | None]) -> tuple[Apply, Apply] | None:
    """A layer as a function of its one varying input, and the same with the magnitudes of its weights and no constant.

    None where the layer is not linear.
    """
    kind, settings, operator = node.kind, node.settings, OPERATORS[node.kind]
    place = next(i for i, one in enumerate(inputs) if isinstance(one, Interval))
    weights: list[Any] = list(inputs)

    def apply(value: Tensor) -> Tensor:
        result: Tensor = operator(settings, *(value if i == place else one for i, one in enumerate(weights)))
        return result

    if kind in _PLAIN:
        return apply, apply
    if kind in _WEIGHTED and place == 0:
        sizes = settings | {name: abs(settings[name]) for name in ("alpha",) if name in settings}
        return apply, lambda value: operator(sizes, value, weights[1].abs())
    if kind == "Mul" or (kind == "Div" and place == 0):
        other = weights[1 - place]
        return apply, lambda value: operator(settings, value, other.abs())
    if kind in ("Add", "Sub"):
        return apply, lambda value: value
    if kind == "BatchNormalization" and place == 0:
        scale, shift, mean, var = weights[1:5]
        still = (scale.abs(), torch.zeros_like(shift), torch.zeros_like(mean), var)
        return apply, lambda value: operator(settings, value, *still)
    return None


# ---------------------------------------------------------------- linear bounds, backward

Passed = tuple[Mapping[str, Tensor], Float[Tensor, "rows batch"]]
"""Rows for a layer's inputs, by name, and what the layer adds to each row."""


def _lowest(row: Float[Tensor, "rows batch ..."], value: Value) -> Float[Tensor, "rows batch"]:
    """The least that a row of weights can make of a value."""
    ends = _as_interval(value)
    middle, radius = (ends.low + ends.high) / 2, (ends.high - ends.low) / 2
    return (row * middle - row.abs() * radius).flatten(2).sum(2)


def _through_linear(node: Node, row: Tensor, inputs: list[Value | None]) -> Passed | None:
    """What a row asks of a linear layer's inputs; none where the layer is not linear."""
    zero = row.new_zeros(row.shape[:2])
    if node.kind in ("Add", "Sub") and all(isinstance(one, Interval) for one in inputs):
        (first, second), (left, right) = inputs, node.inputs
        assert isinstance(first, Interval)
        assert isinstance(second, Interval)
        sign = -1 if node.kind == "Sub" else 1
        parts = (_summed(row, first.low), _summed(sign * row, second.low))
        return ({left: parts[0] + parts[1]} if left == right else {left: parts[0], right: parts[1]}), zero
    if (linear := _linear(node, inputs)) is None:
        return None
    place = next(i for i, one in enumerate(inputs) if isinstance(one, Interval))
    interval = inputs[place]
    assert isinstance(interval, Interval)
    flat = row.flatten(0, 1)
    with torch.enable_grad():
        # a linear layer's gradient is its transpose, and what it gives for zeros its constant
        probe = interval.low.new_zeros((len(flat), *interval.low.shape[1:])).requires_grad_()
        given = linear[0](probe)
        (below,) = torch.autograd.grad(given, probe, flat)
    constant = (flat * given.detach()).flatten(1).sum(1)
    return {node.inputs[place]: below.unflatten(0, row.shape[:2])}, constant.unflatten(0, row.shape[:2])


def _summed(row: Tensor, like: Tensor) -> Tensor:
    """A row's part for an input that was broadcast."""
    if row.shape[1:] == like.shape:
        return row
    axes = [i + 1 for i, (a, b) in enumerate(zip(row.shape[1:], like.shape, strict=True)) if a != b]
    return row.sum(axes, keepdim=True)


def _through_bend(node: Node, row: Tensor, value: Value | None) -> Passed:
    """What a row asks of a ReLU's input: a line below where its weight is positive, one above where negative."""
    low, high = _as_interval(value)
    slope = float(node.settings.get("alpha", 0.01)) if node.kind == "LeakyRelu" else 0.0
    bends = (low < 0) & (high > 0)
    steep = torch.where(bends, (high - slope * low) / (high - low).clamp_min(1e-300), torch.where(low >= 0, 1.0, slope))
    lift = torch.where(bends, (slope - steep) * low, 0.0)  # the chord: at `low` it meets slope · low
    flat = torch.where(bends, torch.where(high > -low, 1.0, slope), steep)  # below: the nearer of the two arms
    above, under = row.clamp(max=0), row.clamp(min=0)
    return {node.inputs[0]: above * steep + under * flat}, (above * lift).flatten(2).sum(2)
