"""Method `radmm`: adversarial training and pruning at once, by ADMM.

From the dense base: ADMM towards a sparse set while training adversarially, one hard projection, the mask
frozen, masked adversarial retraining. Set `filter` is removed physically, with the filters' batch
norm and bias; `irregular` and `column` stay masks and save no time on ordinary runtimes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from eed_search.compression.admm import Admm, train_towards
from eed_search.compression.channels import ChannelGroup, channel_groups, remove_channels
from eed_search.compression.contract import Target, Work
from eed_search.compression.member import Member, recovery_loss
from eed_search.compression.projections import column, irregular, masked, rows
from eed_search.compression.prune import retrain
from eed_search.compression.scores import weight_layers
from eed_search.config.kept_channels import kept_channels
from eed_search.core.seeds import seed_of
from eed_search.training.loop import apply_masks

Choose = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From constrained weights to their masks; the constraint set, so to speak."""


VERSION = 1
"""Version of this method's code: raise it when the result for equal settings changes."""


def radmm(base: nn.Module, target: Target, work: Work) -> Member:
    """Make a member by R-ADMM; see `Compress` for the arguments.

    `size` is the share of each layer's weights (irregular), matrix columns (column) or channels
    (filter, in blocks of `members.block`) that stays.

    Source:
        R-ADMM, Ye et al. 2019, arXiv 1903.12561, algorithm 1.
    """
    recipe = target.settings.radmm
    model = copy.deepcopy(base)
    groups = channel_groups(base, work.image_shape) if recipe.set == "filter" else []
    choose = _filters(groups, target.size, target.settings.block) if groups else _entries(recipe.set, target.size)
    names = _constrained(model, groups, target)
    model.to(work.device)
    weights = {name: model.get_parameter(name).detach() for name in names}
    admm = Admm(weights, lambda targets: masked(targets, choose(targets)), recipe.rho)
    train_towards(
        model,
        admm,
        work.split,
        recipe,
        recovery_loss(work.recovery, base, recipe, work.eps, work.device),
        seed=work.seed,
        augment=work.augment,
        device=work.device,
        report=work.report,
        checkpoint=work.checkpoint,
        eps=work.eps,
    )
    model.cpu()
    masks = choose({name: model.get_parameter(name).detach() for name in names})
    member = _cut(model, masks, groups, work.image_shape)
    return retrain(member, base, target, work, seed=seed_of(str(work.seed), "retrain"))


def _constrained(model: nn.Module, groups: list[ChannelGroup], target: Target) -> list[str]:
    """Name the weights that lose something; the others carry no penalty."""
    if groups:
        block = target.settings.block
        losing = [g for g in groups if kept_channels(g.num_channels, target.size, block) < g.num_channels]
        return [f"{name}.weight" for group in losing for name in group.producers]
    return [f"{name}.weight" for name in weight_layers(model)] if target.size < 1 else []


def _entries(kind: str, fraction: float) -> Choose:
    mask = column if kind == "column" else irregular
    return lambda weights: {name: mask(weight, fraction) for name, weight in weights.items()}


def _filters(groups: list[ChannelGroup], fraction: float, block: int) -> Choose:
    def choose(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        masks = {}
        for group in groups:
            names = [f"{name}.weight" for name in group.producers]
            if names[0] in weights:
                kept = rows([weights[name] for name in names], kept_channels(group.num_channels, fraction, block))
                for name in names:
                    shape = (-1, *[1] * (weights[name].ndim - 1))
                    masks[name] = kept.view(shape).expand(weights[name].shape).clone()
        return masks

    return choose


def _cut(
    model: nn.Module, masks: dict[str, Tensor], groups: list[ChannelGroup], image_shape: tuple[int, int, int]
) -> Member:
    """Project once and for all: remove the filters, or zero the weights."""
    if groups:
        chosen = []
        for group in groups:
            mask = masks.get(f"{group.producers[0]}.weight")
            chosen.append(
                (group, torch.ones(group.num_channels, dtype=torch.bool) if mask is None else mask.flatten(1)[:, 0])
            )
        return Member(remove_channels(model, image_shape, chosen))
    apply_masks(model, masks)
    return Member(model.eval(), masks)
