"""Method `learned`: which weights or channels stay is learned, then the mask is frozen and fine-tuned.

The base's weights stand still while a score for each entry and a keep rate for each layer are trained on
the adversarial loss under a budget. The forward pass uses exactly the entries that would be kept; gradients pass
straight through that choice.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eed_search.compression.channels import channel_groups, channel_scores, remove_channels
from eed_search.compression.contract import Target, Work
from eed_search.compression.masked_network import MaskedChannels, MaskedNetwork, MaskedWeights
from eed_search.compression.member import Member, recovery_loss
from eed_search.compression.prune import retrain
from eed_search.compression.scores import weight_layers
from eed_search.config.kept_channels import kept_channels
from eed_search.config.spec import Learned
from eed_search.core.errors import ModelError
from eed_search.core.seeds import seed_of
from eed_search.training.loop import BatchLoss, Training, apply_masks


@dataclass(frozen=True)
class BudgetLoss:
    """A batch loss plus φ·max(0, kept / allowed − 1); φ grows at every step that is over budget.

    Args:
        inner: The adversarial loss; its attacks see the current masked network.
        growth: What φ gains.

    Source:
        HARP, Zhao and Wressnegger 2023 (ICLR), equations 5 and 6 of EED (arXiv 2504.04747); the growth is ours.
    """

    inner: BatchLoss
    growth: float

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch, plus the penalty. `model` is a `MaskedNetwork`."""
        assert isinstance(model, MaskedNetwork)
        loss = self.inner(model, images, labels, generator)
        if model.excess() > 0:
            model.phi += self.growth
        return loss + model.phi * torch.relu(model.soft_excess())


VERSION = 1
"""Version of this method's code: raise it when the result for equal settings changes."""


def learned(base: nn.Module, target: Target, work: Work) -> Member:
    """Make a member with learned masks; see `Compress` for the arguments.

    `size` is the share of all weights (granularity `unstructured`) or of all channels (`channel`); with
    budget `layer`, of each layer's. Scores start from the member's importance score, scaled as HYDRA does.

    Source:
        HARP, Zhao and Wressnegger 2023 (ICLR); HYDRA, Sehwag et al. 2020, arXiv 2002.10509.
    """
    recipe, settings = target.settings.learned, target.settings
    scores = work.scores()
    if broken := next((name for name, score in scores.items() if not bool(torch.isfinite(score).all())), ""):
        raise ModelError(f"the importance score of {broken} is not finite; the base may have diverged")
    model = copy.deepcopy(base)
    if settings.granularity == "channel":
        groups = channel_groups(base, work.image_shape)
        start = [_scaled(channel_scores(group, scores), 1) for group in groups]
        network: MaskedNetwork = MaskedChannels(model, groups, start, target.size, settings.block, recipe)
    else:
        names = [f"{name}.weight" for name in weight_layers(model)]
        start = [_scaled(scores[name], model.get_parameter(name)[0].numel()) for name in names]
        network = MaskedWeights(model, names, start, target.size, recipe)
    if target.size < 1:
        _learn(network, base, recipe, work)
    network.cpu()
    counts = exact_counts(network)
    work.report("kept by layer: " + ", ".join(f"{c}/{s.numel()}" for c, s in zip(counts, network.scores, strict=True)))
    masks = network.masks_of(counts)
    if settings.granularity == "channel":
        chosen = [(group, mask) for group, mask in zip(groups, masks, strict=True)]
        member = Member(remove_channels(base, work.image_shape, chosen))
    else:
        member = Member(copy.deepcopy(base).cpu().eval(), dict(zip(names, masks, strict=True)))
        apply_masks(member.model, member.masks)
    return retrain(member, base, target, work, seed=seed_of(str(work.seed), "retrain"))


def _scaled(score: Tensor, fan_in: int) -> Tensor:
    """Scale a layer's scores to sqrt(6 / fan_in) at most, as HYDRA initialises them."""
    score = score.detach().float().cpu()
    return math.sqrt(6 / fan_in) * score / score.abs().max().clamp_min(1e-30)


def _learn(network: MaskedNetwork, base: nn.Module, recipe: Learned, work: Work) -> None:
    loss = BudgetLoss(recovery_loss(work.recovery, base, recipe, work.eps, work.device), recipe.phi)
    run = Training(
        network,
        work.split,
        recipe,
        loss,
        seed=work.seed,
        augment=work.augment,
        device=work.device,
        report=lambda text: work.report(f"masks: {text}"),
        checkpoint=work.checkpoint,
        eps=work.eps,
    )
    run.go_on()
    run.advance()
    run.finish()


def exact_counts(network: MaskedNetwork) -> list[int]:
    """Round the learned rates to counts that use the whole budget and no more.

    All rates move by one common amount on the scale of a_l until the counts fit; what is then left
    goes, a block at a time, to the layers that rounding took the most from.
    """
    sizes = [score.numel() for score in network.scores]
    if not network.learns_rates:
        return [kept_channels(n, network.size, network.block) for n in sizes]
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(network.counts(middle)) <= network.allowed
        low, high = (middle, high) if fits else (low, middle)
    rates = network.keep_rates(low).tolist()
    counts, wanted = network.counts(low), [rate * n for rate, n in zip(rates, sizes, strict=True)]
    while True:
        left = network.allowed - sum(counts)
        room = [i for i, n in enumerate(sizes) if 0 < min(network.block, n - counts[i]) <= left]
        if not room:
            return counts
        best = max(room, key=lambda i: (wanted[i] - counts[i], -i))
        counts[best] += min(network.block, sizes[best] - counts[best])
