"""Channels physically removed: the only pruning here that makes a member faster.

The dependency graph (torch-pruning) says which layers share a channel, residual sums included.
Every group keeps the same fraction of its channels, in blocks, since runtimes compute in blocks.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eed_search.compression.scores import Scores, weight_layers
from eed_search.config.kept_channels import kept_channels
from eed_search.core.errors import ModelError

_PASSING = ("_ElementWiseOp", "_ConcatOp", "_SplitOp", "_ReshapeOp")  # what torch-pruning calls operations on channels


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that live or die together.

    Attributes:
        producers: Layers whose outputs are these channels, by name.
        num_channels: Channels of the group.
        norms: Batch norms that these channels pass, by name.
    """

    producers: tuple[str, ...]
    num_channels: int
    norms: tuple[str, ...] = ()


def channel_scores(group: ChannelGroup, scores: Scores) -> Float[Tensor, " channels"]:
    """Score a group's channels: mean over the filter's weights, summed over the layers that make it.

    Each layer is first scaled to mean 1, so that no layer of a residual group drowns the others.

    Source:
        methods after EED (arXiv 2504.04747) and DepGraph (arXiv 2301.12900, section 3.3); the scaling is ours.
    """
    total = torch.zeros(group.num_channels)
    for name in group.producers:
        rows = scores[f"{name}.weight"].detach().cpu().double().flatten(1).mean(1)
        total += (rows / rows.mean().clamp_min(1e-300)).float()
    return total


def channel_groups(model: nn.Module, image_shape: tuple[int, int, int]) -> list[ChannelGroup]:
    """List the groups of channels that can be removed; the classifier's outputs cannot.

    Raises:
        ModelError: If nothing can be removed.
    """
    return [group for group, _ in _groups(copy.deepcopy(model).cpu(), image_shape)]


def dense_layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    """Name the layers whose output channels cannot be removed, but for the classifier.

    Raises:
        ModelError: If that is all of them.
    """
    removable = {name for group in channel_groups(model, image_shape) for name in group.producers}
    return [name for name in list(weight_layers(model))[:-1] if name not in removable]


def choose_channels(
    model: nn.Module, image_shape: tuple[int, int, int], scores: Scores, fraction: float, block: int
) -> list[tuple[ChannelGroup, Bool[Tensor, " channels"]]]:
    """Decide for each group which channels stay: those of highest score, the earlier of equals.

    Args:
        model: The network.
        image_shape: Channels, height, width.
        scores: One tensor for each weight.
        fraction: Fraction of every group's channels that is kept, in (0, 1].
        block: Channels are kept in multiples of this.

    Returns:
        Each group with true for the channels that stay.
    """
    chosen = []
    for group in channel_groups(model, image_shape):
        order = torch.sort(channel_scores(group, scores), descending=True, stable=True).indices
        keep = torch.zeros(group.num_channels, dtype=torch.bool)
        keep[order[: kept_channels(group.num_channels, fraction, block)]] = True
        chosen.append((group, keep))
    return chosen


def remove_channels(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    chosen: list[tuple[ChannelGroup, Bool[Tensor, " channels"]]],
) -> nn.Module:
    """Build the smaller network that equals the one whose other channels are zeroed, batch norms included.

    Args:
        model: The network; left untouched.
        image_shape: Channels, height, width.
        chosen: What `choose_channels` gave.

    Returns:
        A copy with fewer channels, its remaining weights unchanged, in evaluation mode.
    """
    smaller = copy.deepcopy(model).cpu().eval()
    keep_by_producers = {group.producers: keep for group, keep in chosen}
    for group, prunable in _groups(smaller, image_shape):
        keep = keep_by_producers[group.producers]
        drop = (~keep).nonzero().flatten().tolist()
        if drop:
            prunable(drop)
    return smaller


def _groups(
    model: nn.Module, image_shape: tuple[int, int, int]
) -> list[tuple[ChannelGroup, Callable[[list[int]], None]]]:
    """Each group with a function that removes its channels from `model` in place."""
    import torch_pruning

    layers = weight_layers(model)
    names = {layer: name for name, layer in layers.items()}
    norm_names = {m: name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    last = list(layers.values())[-1]
    title = getattr(model, "title", type(model).__name__)
    if attention := next((n for n, m in model.named_modules() if "Attention" in type(m).__name__), None):
        # tracing windowed attention does not come to an end in minutes
        raise ModelError(
            f"{title}: channels of a network with attention ({attention}) cannot be removed; take granularity"
            " unstructured, or method cstar"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning warns of parameters it leaves alone
            graph = torch_pruning.DependencyGraph().build_dependency(model.eval(), torch.zeros(1, *image_shape))
            roots = list(graph.get_all_groups(ignored_layers=[last], root_module_types=[nn.Conv2d, nn.Linear]))
    except Exception as error:  # operations that it cannot follow, such as a channel shuffle
        raise ModelError(
            f"{title}: which layers share channels cannot be traced ({type(error).__name__}: {error}); take granularity"
            " unstructured, or method cstar"
        ) from error
    found: list[tuple[ChannelGroup, Callable[[list[int]], None]]] = []
    for root in roots:
        if not _is_removable(root, graph.is_out_channel_pruning_fn):
            continue
        first, handler = root[0].dep.target.module, root[0].dep.handler
        producers = {
            names[dependency.target.module]
            for dependency, _ in root
            if dependency.target.module in names and graph.is_out_channel_pruning_fn(dependency.handler)
        }
        norms = {norm_names[d.target.module] for d, _ in root if d.target.module in norm_names}

        def remove(drop: list[int], first: nn.Module = first, handler: object = handler) -> None:
            # asked for again at each removal: earlier removals have changed the indices
            graph.get_pruning_group(first, handler, drop).prune()

        group = ChannelGroup(tuple(sorted(producers)), _outputs(layers[min(producers)]), tuple(sorted(norms)))
        found.append((group, remove))
    if not found:
        raise ModelError(f"{title}: no channel can be removed; take granularity unstructured")
    return found


def _is_removable(group: Any, is_output: Callable[[Any], bool]) -> bool:
    """Whether a group's channels can be removed: all that they pass is known, and holds these channels alone.

    Not so: convolutions in groups that are not depth-wise, norms over several layers' outputs side by side,
    layer norms, attention, free parameters.
    """
    widths = set()
    for dependency, _ in group:
        module = dependency.target.module
        if isinstance(module, nn.Conv2d):
            if module.groups > 1 and not module.groups == module.in_channels == module.out_channels:
                return False
            widths |= {module.out_channels} if is_output(dependency.handler) else set()
        elif isinstance(module, nn.Linear):
            widths |= {module.out_features} if is_output(dependency.handler) else set()
        elif isinstance(module, nn.BatchNorm2d):
            widths.add(module.num_features)
        elif type(module).__name__ not in _PASSING:
            return False
    return len(widths) == 1


def _outputs(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
