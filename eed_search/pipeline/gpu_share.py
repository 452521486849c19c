"""`resources.gpu: auto`: how much of a GPU a trial takes, by the memory that it needs.

The need is reckoned, not measured: weights, gradients, momenta and averages of a team as wide as the base, what each layer
leaves for the backward pass of the largest batch, the training images, and what CUDA itself takes. Too much rather than too little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eed_search.config.spec import Choice, Spec
from eed_search.data.sources import extent
from eed_search.models import build

_FLOAT = 4  # bytes
_COPIES = 5  # of the weights: themselves, gradient, momentum, average, the guard's last good ones
_KEPT = 2.0  # what layers leave for the backward pass, in units of their outputs
_CUDA = 1.0e9  # context, kernels and workspaces, in bytes
_USED = 0.9  # share of a GPU's memory that trials may fill
_MOST = 8  # trials on one GPU
_IMAGE = (60_000, 3, 32, 32)  # images, channels, height, width where the source does not tell


@dataclass(frozen=True)
class Gpus:
    """The graphics processors of this machine.

    Attributes:
        num: How many.
        num_bytes: Memory of the smallest; none where that is not known.
        name: For people.
    """

    num: int
    num_bytes: int | None = None
    name: str = ""


def gpus_here() -> Gpus:
    """Look at this machine's."""
    num = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(i) for i in range(num)]
    return Gpus(num, min((one.total_memory for one in found), default=None), found[0].name if found else "")


def share_gpus(spec: Spec, num_gpus: float, num_cpus: float, look: Callable[[], Gpus] = gpus_here) -> tuple[Spec, str]:
    """Replace `resources.gpu: auto` by a number.

    Args:
        spec: A search-space file.
        num_gpus: Graphics processors that trials may use, on all machines together.
        num_cpus: Processor cores likewise.
        look: Looks at this machine's.

    Returns:
        The file with the number, and the reason in one line; the file itself and no reason where it gives one already.
    """
    if spec.resources.gpu != "auto":
        return spec, ""
    share, why = _chosen(spec, num_gpus, num_cpus, look)
    settled = spec.resources.model_copy(update={"gpu": share})
    return spec.model_copy(update={"resources": settled}), f"resources.gpu: auto takes {share:g}: {why}"


def _chosen(spec: Spec, num_gpus: float, num_cpus: float, look: Callable[[], Gpus]) -> tuple[float, str]:
    if num_gpus < 1:
        return 0.0, "no GPU is there, so trials train on the processor"
    here = look()
    if here.num < num_gpus or here.num_bytes is None:
        return 1.0, "the GPUs are on other machines, where their memory is not known"
    need = trial_bytes(spec)
    by_memory = int(_USED * here.num_bytes / need)
    by_cores = int(num_cpus / max(spec.resources.cpu, 1e-9) / num_gpus) if spec.resources.cpu else _MOST
    trials = max(1, min(_MOST, by_memory, by_cores))
    gigabytes = f"a trial needs up to {need / 1e9:.1f} of {here.num_bytes / 1e9:.0f} GB"
    what = f"{here.name}: {gigabytes}"
    if trials == by_cores < by_memory:
        what += f", and there are cores for {trials} trials on each GPU"
    return _fraction(trials), f"{trials} trial{'s' if trials > 1 else ''} on each {what}"


def _fraction(trials: int) -> float:
    """A share of which so many fit, and that is short to read."""
    return int(10_000 / trials) / 10_000


def trial_bytes(spec: Spec) -> float:
    """Reckon the memory of a GPU that a trial takes at most, in bytes."""
    num, channels, height, width = _images(spec)
    even = (0.5,) * channels
    network = build(
        spec.model.name, width=spec.model.width, num_classes=10, in_channels=channels, mean=even, std=even
    ).eval()
    weights = sum(parameter.numel() for parameter in network.parameters())
    outputs = _outputs(network, torch.zeros(1, channels, height, width))
    batch = max(spec.members.finetune.batch_size, spec.joint.batch_size, spec.evaluation.batch_size)
    members = spec.search.space.num_members
    team = int(max(members.values)) if isinstance(members, Choice) else int(members.high)
    return team * _FLOAT * (_COPIES * weights + _KEPT * batch * outputs) + num * channels * height * width + _CUDA


def _images(spec: Spec) -> tuple[int, int, int, int]:
    """Images, channels, height, width."""
    if (found := extent(spec.data)) is None:
        return _IMAGE
    num, height, width, channels = found
    return num, channels, height, width


def _outputs(network: nn.Module, image: Tensor) -> int:
    """Count the numbers that a network's layers put out for one image."""
    counts: list[int] = []

    def count(module: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor):
            counts.append(output.numel())

    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return sum(counts)
