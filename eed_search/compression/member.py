"""Cut one member from the dense base, and give it its robustness back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from eed_search.compression.channels import channel_groups, choose_channels, remove_channels
from eed_search.compression.masks import layer_masks, masked_size_bytes
from eed_search.compression.scores import Scores
from eed_search.config.kept_channels import kept_channels
from eed_search.config.params import Recovery
from eed_search.config.spec import Augment, Members, Recipe
from eed_search.core.errors import ModelError
from eed_search.data.splits import AnySplit
from eed_search.models import fit_to_state
from eed_search.training import DistillRecovery, LabelRecovery, train
from eed_search.training.checkpoints import Checkpoint
from eed_search.training.loop import apply_masks


@dataclass(frozen=True)
class Member:
    """A compact network cut from the base (the paper's sub-model).

    Attributes:
        model: Images in [0, 1] to logits, in evaluation mode.
        masks: For granularity `unstructured`, true where a weight is kept; else empty.
    """

    model: nn.Module
    masks: dict[str, Bool[Tensor, ...]] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What ships: float32 weights and statistics; masked ones as kept weights plus a bitmap."""
        floats = sum(t.numel() for t in self.model.state_dict().values() if t.is_floating_point())
        return masked_size_bytes(floats, self.masks)


def cut(base: nn.Module, image_shape: tuple[int, int, int], scores: Scores, size: float, settings: Members) -> Member:
    """Prune the base by importance, without any training.

    Args:
        base: The dense base; left untouched.
        image_shape: Channels, height, width.
        scores: One tensor for each weight, the higher the more worth keeping.
        size: Fraction kept, in (0, 1].
        settings: Granularity and block.

    Returns:
        A member whose batch-norm statistics still belong to the base.

    Raises:
        ModelError: If the score of a layer is not finite, or nothing can be removed.
    """
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise ModelError(f"the importance score of {name} is not finite; the base may have diverged")
    if settings.granularity == "channel":
        chosen = choose_channels(base, image_shape, scores, size, settings.block)
        return Member(remove_channels(base, image_shape, chosen))
    model = copy.deepcopy(base).cpu().eval()
    masks = layer_masks({name: score.cpu() for name, score in scores.items()}, size)
    apply_masks(model, masks)
    return Member(model, masks)


def fresh(base: nn.Module, image_shape: tuple[int, int, int], size: float, block: int, seed: int) -> nn.Module:
    """Build a network of a channel member's architecture with fresh weights: the baseline.

    Args:
        base: Any network of the base's architecture.
        image_shape: Channels, height, width.
        size: Fraction of channels kept, in (0, 1].
        block: Channels are kept in multiples of this.
        seed: Seed for the initial weights; the global generator is left as it was.
    """
    chosen = []
    for group in channel_groups(base, image_shape):
        keep = torch.zeros(group.num_channels, dtype=torch.bool)
        keep[: kept_channels(group.num_channels, size, block)] = True
        chosen.append((group, keep))
    model = remove_channels(base, image_shape, chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters") and callable(module.reset_parameters):
                module.reset_parameters()
    return model


def reestimate_norms(model: nn.Module, split: AnySplit, *, num_samples: int = 1024, batch_size: int = 128) -> None:
    """Measure a network's batch-norm statistics anew on clean training images.

    Pruning changes what every batch norm sees; with the base's statistics a one-shot pruned network
    answers at chance.

    Args:
        model: Changed in place; left in evaluation mode.
        split: Training images.
        num_samples: The first so many.
        batch_size: Images in each forward pass.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    device = next(model.parameters()).device
    model.train()
    with torch.no_grad():
        some = split.subset(torch.arange(min(num_samples, len(split))))
        for images in some.images.split(batch_size):
            if len(images) > 1:
                model(images.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def recover(
    member: Member,
    base: nn.Module,
    split: AnySplit,
    recipe: Recipe,
    *,
    recovery: Recovery,
    eps: float,
    seed: int,
    augment: Augment,
    device: torch.device,
    report: Callable[[str], None],
    checkpoint: Checkpoint | None = None,
) -> Member:
    """Fine-tune a member adversarially, with its mask fixed.

    Args:
        member: Freshly cut; changed in place.
        base: The dense base, the teacher of recovery `distill`.
        split: The member's training images.
        recipe: Recipe of the fine-tune.
        recovery: From `labels`, or by `distill` from the base's soft labels.
        eps: Budget in pixel units.
        seed: Seed for order, augmentation and attacks.
        augment: How training images are shifted and mirrored.
        device: Where to compute.
        report: Called with a line of progress after each epoch, and within it about once a second.
        checkpoint: Where the training keeps its state.

    Returns:
        The member, on the CPU.

    Raises:
        Diverged: If the loss becomes NaN or infinite.
    """
    reestimate_norms(member.model.to(device), split)
    train(
        member.model,
        split,
        recipe,
        recovery_loss(recovery, base, recipe, eps, device),
        seed=seed,
        augment=augment,
        masks=member.masks,
        device=device,
        report=report,
        checkpoint=checkpoint,
        eps=eps,
    )
    return Member(member.model.cpu().eval(), member.masks)


def recovery_loss(
    recovery: Recovery, base: nn.Module, recipe: Recipe, eps: float, device: torch.device
) -> LabelRecovery | DistillRecovery:
    """Make the batch loss of a recovery."""
    if recovery == "distill":
        return DistillRecovery(eps, recipe.attack, copy.deepcopy(base).to(device).eval())
    return LabelRecovery(eps, recipe.attack)


def to_arrays(member: Member) -> dict[str, Tensor]:
    """Name a member's tensors for the store: `model/...` and `mask/...`."""
    state = {f"model/{name}": tensor.detach().cpu() for name, tensor in member.model.state_dict().items()}
    return state | {f"mask/{name}": mask.cpu() for name, mask in member.masks.items()}


def from_arrays(base: nn.Module, tensors: dict[str, Tensor], prefix: str = "") -> Member:
    """Read a member back from what `to_arrays` named.

    Args:
        base: A network of the base's architecture; gives the graph.
        tensors: From the store.
        prefix: Before `model/` and `mask/`, where several members lie together.

    Raises:
        ModelError: If the tensors belong to another architecture.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "mask": {}}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            kind, _, key = name.removeprefix(prefix).partition("/")
            if kind in parts:
                parts[kind][key] = tensor
    return Member(fit_to_state(base, parts["model"]), {name: mask.bool() for name, mask in parts["mask"].items()})
