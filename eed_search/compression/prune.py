"""Method `prune`: cut by importance in one shot, then fine-tune adversarially with the mask fixed."""

from __future__ import annotations

from torch import nn

from eed_search.compression.contract import Target, Work
from eed_search.compression.member import Member, cut, recover


def prune(base: nn.Module, target: Target, work: Work) -> Member:
    """Cut a member by importance score and fine-tune it; see `Compress` for the arguments.

    Source:
        EED, arXiv 2504.04747, without the learning of scores.
    """
    member = cut(base, work.image_shape, work.scores(), target.size, target.settings)
    return retrain(member, base, target, work)


def retrain(member: Member, base: nn.Module, target: Target, work: Work, *, seed: int | None = None) -> Member:
    """Fine-tune a freshly made member adversarially by `members.finetune`: the last step of every method.

    Args:
        member: Changed in place.
        base: The dense base.
        target: Its settings hold the recipe.
        work: Images, budget, device.
        seed: Instead of the work's own, where an earlier step has used that.
    """
    return recover(
        member,
        base,
        work.split,
        target.settings.finetune,
        recovery=work.recovery,
        eps=work.eps,
        seed=work.seed if seed is None else seed,
        augment=work.augment,
        device=work.device,
        report=work.report,
        checkpoint=work.checkpoint.part("retrain"),
    )
