"""From a torch network to the ONNX file that the runtime and the latency probe load.

The tracing exporter comes first: on two x86 cores (2026-11-21, torch 2.13, onnxruntime 1.31) it takes
0.02-0.3 s a network where the `torch.export` one takes 1-3 s (13 s for the first in a process), with
the same numbers (largest difference 2e-8) and the same speed in onnxruntime (ratio 0.998-1.03, within noise).
The other one is asked only where tracing fails or warns that its result may be wrong.
"""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from eed_search.core.errors import ModelError
from eed_search.deployment.runtime import INPUT, OUTPUT, new_session

_OPSET_TRACED, _OPSET_EXPORTED = 17, 18  # the newest that the tracer supports well; the oldest of the other
_TOLERANCE = 1e-4  # largest difference of a probability between torch and onnxruntime; usual: 1e-7


class _Probabilities(nn.Module):
    """The network with softmax at its end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.model(images)
        return logits.softmax(dim=1)


def to_onnx(model: nn.Module, image_shape: tuple[int, int, int]) -> bytes:
    """Write a network as one ONNX file with its weights inside and softmax at its end.

    The file takes `images` [batch, channels, height, width] float32 and gives `probabilities`
    [batch, classes]; the batch is free. The result is run in onnxruntime at another batch size than
    it was traced with and compared with torch. The network given is left as it was.

    Args:
        model: From images in [0, 1] to logits; exported in evaluation mode, float32, on the CPU.
        image_shape: (channels, height, width).

    Returns:
        The file's bytes.

    Raises:
        ModelError: If the network cannot be written as ONNX, or gives other numbers there; names the
            network and, where there is one, the operator.
    """
    name = type(model).__name__
    whole = _Probabilities(copy.deepcopy(model)).cpu().float().eval().requires_grad_(False)
    images = torch.rand(3, *image_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            expected = whole(images).numpy()
    except Exception as error:
        raise ModelError(
            f"{name}: fails on images of shape {list(image_shape)} ({_first_line(error)}); give a network for such images"
        ) from error
    if expected.ndim != 2:
        raise ModelError(f"{name}: gives logits of shape {list(expected.shape)}; need [batch, classes]")
    ways: tuple[Callable[[nn.Module, Tensor], bytes], ...] = (_trace, _export)
    first_error: Exception | None = None
    for way in ways:
        try:
            model_bytes = way(whole, images[:2])
            _compare(model_bytes, images.numpy(), expected)
        except Exception as error:  # the exporters raise whatever lies beneath them
            first_error = first_error or error
        else:
            return model_bytes
    raise ModelError(
        f"{name}: cannot be written as ONNX: {_reason(first_error)}; replace this operation in the network"
    ) from first_error


def _trace(whole: nn.Module, images: Tensor) -> bytes:
    """Export by running the network once; refuses a result that the tracer doubts."""
    buffer = io.BytesIO()
    with _quiet() as heard:
        torch.onnx.export(
            whole,
            (images,),
            buffer,  # type: ignore[arg-type]  # documented to take a file object
            dynamo=False,
            opset_version=_OPSET_TRACED,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    for warning in heard:
        if issubclass(warning.category, TracerWarning):  # a Python branch or number was frozen
            raise ValueError("its forward turns a tensor or a size of one into a Python number or branch")
    return buffer.getvalue()


def _export(whole: nn.Module, images: Tensor) -> bytes:
    """Export by `torch.export`: slower, and right about Python branches on shapes."""
    buffer = io.BytesIO()
    with _quiet():
        program = torch.onnx.export(
            whole,
            (images,),
            dynamo=True,
            verbose=False,
            opset_version=_OPSET_EXPORTED,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65_536)},),
        )
        assert program is not None
        program.save(buffer)  # type: ignore[arg-type]
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep the exporters from printing graphs and their own deprecations; errors are raised all the same.

    Yields:
        The warnings, as they come.
    """
    before = logging.root.manager.disable
    print_graph = torch._C._jit_onnx_log  # writes a failed graph to the process's standard output
    logging.disable(logging.CRITICAL)
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(record=True) as heard,
        ):
            warnings.simplefilter("always")
            yield heard
    finally:
        torch._C._jit_onnx_log = print_graph
        logging.disable(before)


def _compare(model: bytes, images: np.ndarray, expected: np.ndarray) -> None:
    found = new_session(model).run([OUTPUT], {INPUT: images})[0]
    difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    if not difference <= _TOLERANCE:
        raise ValueError(f"the ONNX file gives other probabilities (largest difference {difference:.1g})")


def _reason(error: Exception | None) -> str:
    """Say in a line what the exporter stumbled over, the operator first."""
    text = str(error)
    if match := re.search(r"operator '([^']+)'", text):
        return f"operator {match.group(1)} is not supported"
    return _first_line(error)


def _first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
