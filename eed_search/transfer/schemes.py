"""The benchmark's pruning schemes: which filters of a network go, and the smaller network that is left.

A scheme scores the channels of one group (channels that live or die together, residual sums
included). Each layer's scores are scaled to mean 1, so that no layer of a group drowns the others.
Unlike the search's importance scores these look at no adversarial input: they are what pruning for
size and speed uses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from eed_search.compression.channels import ChannelGroup, channel_groups, remove_channels
from eed_search.compression.masks import layer_masks
from eed_search.compression.scores import weight_layers
from eed_search.config.kept_channels import kept_channels
from eed_search.core.errors import ModelError
from eed_search.core.seeds import seed_of
from eed_search.training.loop import apply_masks
from eed_search.transfer.spec import Scheme

_TAYLOR_BATCH = 32


@dataclass(frozen=True)
class Pruned:
    """A base network after pruning, before any training.

    Attributes:
        model: On the CPU, in evaluation mode; batch-norm statistics are still the base's.
        masks: For `unstructured_magnitude`, true where a weight is kept; else empty.
        left_dense: Layers whose filters the scheme cannot score, so that all of them stay.
        changed: Whether anything was removed.
    """

    model: nn.Module
    masks: dict[str, Bool[Tensor, ...]] = field(default_factory=dict)
    left_dense: tuple[str, ...] = ()
    changed: bool = True


@dataclass(frozen=True)
class Evidence:
    """What a scheme may look at.

    Attributes:
        images: Clean training images; only `taylor` looks at them.
        labels: Their classes.
        seed: Seed for `random_filter`.
    """

    images: Float[Tensor, "batch channels height width"]
    labels: Int[Tensor, " batch"]
    seed: int


def prune(
    base: nn.Module, image_shape: tuple[int, int, int], scheme: Scheme, ratio: float, block: int, evidence: Evidence
) -> Pruned:
    """Remove a share of every layer's filters, or mask a share of every layer's weights.

    Args:
        base: The network, on the CPU; left untouched.
        image_shape: Channels, height, width.
        scheme: Who goes first.
        ratio: Share removed, in [0, 1); 0 gives a copy.
        block: Filters are kept in multiples of this.
        evidence: Images and seed.

    Returns:
        The pruned network; of equal scores the earlier filter stays.

    Raises:
        ModelError: If no filter of the network can be removed by this scheme, or the block leaves all of them.
    """
    if ratio == 0:
        return Pruned(copy.deepcopy(base).cpu().eval(), changed=False)
    if scheme == "unstructured_magnitude":
        model = copy.deepcopy(base).cpu().eval()
        scores = {f"{name}.weight": layer.weight.detach().abs() for name, layer in weight_layers(model).items()}
        masks = layer_masks(scores, 1 - ratio)
        apply_masks(model, masks)
        return Pruned(model, masks)
    groups = channel_groups(base, image_shape)
    score = _score(base, scheme, evidence)
    chosen, left_dense = [], []
    for group in groups:
        found = score(group)
        keep = torch.ones(group.num_channels, dtype=torch.bool)
        if found is None:
            left_dense += list(group.producers)
        else:
            order = torch.sort(found, descending=True, stable=True).indices
            keep[order[kept_channels(group.num_channels, 1 - ratio, block) :]] = False
        chosen.append((group, keep))
    if all(bool(keep.all()) for _, keep in chosen):
        why = "no layer has what the scheme scores by" if left_dense else f"every layer is within one block of {block}"
        raise ModelError(f"{scheme} at {ratio:g} removes no filter of {type(base).__name__}: {why}")
    return Pruned(remove_channels(base, image_shape, chosen), left_dense=tuple(sorted(left_dense)))


GroupScore = Callable[[ChannelGroup], Tensor | None]


def _score(base: nn.Module, scheme: Scheme, evidence: Evidence) -> GroupScore:
    """Make the function that scores one group's channels; it gives none where it cannot."""
    if scheme == "random_filter":
        return _random(evidence.seed)
    if scheme == "bn_gamma":
        return _bn_gamma(base)
    weights = {name: layer.weight.detach() for name, layer in weight_layers(base).items()}
    if scheme == "taylor":
        return _by_layer(taylor(base, evidence))
    return _by_layer({name: _FILTERS[scheme](weight.flatten(1).double()) for name, weight in weights.items()})


def _by_layer(scores: Mapping[str, Tensor]) -> GroupScore:
    """Sum the scores of the layers that make a group's channels, each scaled to mean 1."""

    def score(group: ChannelGroup) -> Tensor:
        rows = [scores[name].double() for name in group.producers]
        return torch.stack([row / row.mean().clamp_min(1e-300) for row in rows]).sum(0)

    return score


def l1_filter(filters: Float[Tensor, "filters weights"]) -> Float[Tensor, " filters"]:
    """Sum of absolute weights.

    Source:
        Li et al. 2017, arXiv 1608.08710, section 3.1.
    """
    return filters.abs().sum(1)


def l2_filter(filters: Float[Tensor, "filters weights"]) -> Float[Tensor, " filters"]:
    """Euclidean norm.

    Source:
        He et al. 2018 (soft filter pruning), arXiv 1808.06866, equation 2 with p = 2.
    """
    norms: Tensor = filters.norm(dim=1)
    return norms


def geometric_median(filters: Float[Tensor, "filters weights"]) -> Float[Tensor, " filters"]:
    """Sum of the distances to the layer's other filters: what lies near the median can be replaced.

    Source:
        He et al. 2019 (FPGM), arXiv 1811.00250, equation 7.
    """
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


_FILTERS: dict[Scheme, Callable[[Tensor], Tensor]] = {
    "l1_filter": l1_filter,
    "l2_filter": l2_filter,
    "geometric_median": geometric_median,
}


def _bn_gamma(base: nn.Module) -> GroupScore:
    """Absolute scale of the batch norms that a group's channels pass; none where there is no such norm.

    Source:
        Liu et al. 2017 (network slimming), arXiv 1708.06519, without its sparsity training.
    """
    modules = dict(base.named_modules())

    def score(group: ChannelGroup) -> Tensor | None:
        gammas = [
            gamma.detach().abs().double()
            for name in group.norms
            if isinstance(gamma := modules[name].weight, Tensor) and len(gamma) == group.num_channels
        ]
        if not gammas:
            return None
        return torch.stack([gamma / gamma.mean().clamp_min(1e-300) for gamma in gammas]).sum(0)

    return score


def _random(seed: int) -> GroupScore:
    """A random order that depends on the group's name and the seed, so that ratios are nested."""

    def score(group: ChannelGroup) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(str(seed), "/".join(group.producers)))
        return torch.rand(group.num_channels, generator=generator)

    return score


def taylor(model: nn.Module, evidence: Evidence) -> dict[str, Float[Tensor, " filters"]]:
    """What the loss would lose with a filter, to first order: (Σ g·w)², mean over batches of 32.

    Args:
        model: On the CPU; left untouched.
        evidence: Clean images and labels.

    Source:
        Molchanov et al. 2019, arXiv 1906.10771, equation 8 summed over the filter before squaring.
    """
    copied = copy.deepcopy(model).eval()
    layers = weight_layers(copied)
    weights = [layer.weight.requires_grad_(True) for layer in layers.values()]
    total = [torch.zeros(len(weight), dtype=torch.float64) for weight in weights]
    batches = list(zip(evidence.images.split(_TAYLOR_BATCH), evidence.labels.split(_TAYLOR_BATCH), strict=True))
    for images, labels in batches:
        gradients = torch.autograd.grad(functional.cross_entropy(copied(images), labels), weights)
        for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            total[i] += (weight.detach() * gradient).flatten(1).sum(1).double().square() / len(batches)
    return dict(zip(layers, total, strict=True))
