"""Which models cannot be judged at all: whose robust accuracy would be a number without a meaning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eed_search.core.errors import DataError, ModelError
from eed_search.data.splits import Split
from eed_search.ensemble.gate import GatedEnsemble

_FEW = 16  # images that the cheap looks take
_REPEATS = 5
_MOST_DRIFT = 1e-4  # largest change of a logit, between equal images


def refuse_unsound(target: str, model: nn.Module, split: Split) -> int:
    """Refuse a user's model that cannot be judged.

    Args:
        target: How messages call it.
        model: What the user's function gave.
        split: The images that it is to be judged on, and their labels.

    Returns:
        The number of classes.

    Raises:
        ModelError: If it has no weights or none of float32, is in train mode, fails on the images, gives anything but finite
            logits, lets no gradient through, or answers equal images differently.
        DataError: If a label is beyond its classes, or it is right no oftener than a constant answer.
    """
    _refuse_form(target, model)
    few = split.images[:_FEW].clone().requires_grad_()
    logits = _logits(target, model, few)
    _refuse_probabilities(target, model, logits.detach())
    reached = logits.requires_grad and torch.autograd.grad(logits.sum(), few, allow_unused=True)[0] is not None
    if not reached:
        raise ModelError(
            f"{target}: lets no gradient through to the images, so white-box attacks see nothing; take away"
            " torch.no_grad, detach, numpy or argmax"
        )
    if next(model.parameters(), None) is None:
        raise ModelError(f"{target}: has no parameters, so there is nothing to attack; keep its weights as parameters")
    plain = few.detach()
    with torch.no_grad():
        answers = torch.stack([model(plain) for _ in range(_REPEATS)])
    if (drift := float((answers - answers[0]).abs().max())) > _MOST_DRIFT:
        raise ModelError(
            f"{target}: answers equal images differently each time (a logit moves by {drift:.2g}); fix its random"
            " numbers in evaluation mode"
        )
    num_classes = int(logits.shape[1])
    if int(split.labels.max()) >= num_classes:
        raise DataError(
            f"labels: {int(split.labels.max())} occurs, the model gives {num_classes} logits and so knows classes"
            f" 0..{num_classes - 1}; give its own data"
        )
    _refuse_no_better_than_chance(target, model, split)
    return num_classes


def _refuse_form(target: str, model: nn.Module) -> None:
    if training := [name or "the model itself" for name, part in model.named_modules() if part.training]:
        raise ModelError(
            f"{target}: {training[0]} is in train mode, so that answers depend on the batch; return model.eval()"
        )
    weights = dict(model.named_parameters())
    if other := [f"{name} is {w.dtype}" for name, w in weights.items() if w.dtype != torch.float32]:
        raise ModelError(f"{target}: {other[0]}; attacks and deployment take float32: return model.float()")


def _logits(target: str, model: nn.Module, few: Tensor) -> Tensor:
    try:
        with torch.enable_grad():
            logits = model(few)
    except Exception as error:  # whatever a user's forward raises
        raise ModelError(
            f"{target}: fails on images {list(few.shape[1:])} ({type(error).__name__}: {_first_line(error)}); give it"
            " images [batch, channels, height, width] of its own size"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(few) or logits.shape[1] < 2:
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"{target}: gives {given} for {len(few)} images; needs logits [images, classes]")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{target}: gives NaN or infinite logits; a robust accuracy of it means nothing")
    return logits


def _refuse_probabilities(target: str, model: nn.Module, logits: Tensor) -> None:
    """A softmax at the end is taken once more by every loss, which hides most of the gradient."""
    several = bool((logits.amax(1) < 1 - 1e-6).any())  # one-hot answers are no gradient's and are refused for that
    if several and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        whole = "its members' networks end" if isinstance(model, GatedEnsemble) else "the network ends"
        raise ModelError(
            f"{target}: gives probabilities (they sum to 1), needs logits; {whole} in a softmax: take it away, losses take"
            " one of their own"
        )


def _refuse_no_better_than_chance(target: str, model: nn.Module, split: Split) -> None:
    counts = torch.bincount(split.labels)
    if len(counts.nonzero()) == 1:
        raise DataError(
            f"labels: all {len(split)} are {int(split.labels[0])}; a model that always says so is right, give images of"
            " several classes"
        )
    with torch.no_grad():
        right = torch.cat([model(part).argmax(-1) for part in split.images.split(256)]) == split.labels
    most_common, share = float(counts.max()) / len(split), float(right.float().mean())
    if share <= most_common:
        raise DataError(
            f"{target}: {100 * share:.1f} % right without an attack, no better than always the commonest class"
            f" ({100 * most_common:.1f} %); are labels and normalisation the model's own?"
        )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
