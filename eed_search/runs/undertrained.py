"""Signs that the dense base was trained too briefly: its loss still falls, or it answers hardly better than a guess.

What is pruned from such a base is not worth much, and a frontier of it looks like any other.

Why these limits: on the digits (one_cycle and cosine, 2026-11-30) the share below was 39 % after 2 epochs, 11 % and 8 % after 3,
3.5 % and 2.7 % after 5, 2.7 % and 1.9 % after 10, 1.5 % after 30. The loss itself is no measure: relative to its own
value it falls by half over the last fifth of 30 epochs too, while the training images are learnt by heart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eed_search.runs.records import Accuracy, RobustAccuracy

STEEP = 0.06  # share of a guess's loss, ln(classes), that the last fifth of the epochs may still take off
NEAR_CHANCE = 0.1  # share of the way from a guess to all right
NEARLY_NONE = 0.01  # share of the images: one that cannot be told from it counts as none


def nearly_none(robust: Accuracy | RobustAccuracy) -> bool:
    """Whether next to nothing stays right under attack: the 95 % interval reaches down to 1 %."""
    return robust.low <= NEARLY_NONE


def near_chance(clean: Accuracy, num_classes: int) -> bool:
    """Whether an accuracy is about that of a guess: its interval reaches down to it, or it is not a tenth of the way up."""
    chance = 1 / num_classes
    return clean.low <= chance or clean.value < chance + NEAR_CHANCE * (1 - chance)


def still_falls(losses: Sequence[float], num_classes: int) -> bool:
    """Whether the loss still fell steeply over the last fifth of the epochs, and over one at least.

    Args:
        losses: Mean training loss of each epoch; fewer than two say nothing.
        num_classes: Classes.
    """
    if len(losses) < 2:
        return False
    return losses[-1 - _last_fifth(losses)] - losses[-1] > STEEP * math.log(num_classes)


def too_brief(
    losses: Sequence[float],
    clean: Accuracy,
    robust: Accuracy | RobustAccuracy,
    *,
    num_classes: int,
    epochs: float,
    decays: bool,
) -> str:
    """Say by what the dense base looks trained too briefly, and what to do.

    Args:
        losses: Mean training loss of each epoch; none where it was not written down.
        clean: Accuracy without an attack, on images not trained on.
        robust: Accuracy under attack.
        num_classes: Classes.
        epochs: Passes over the images, as the file says.
        decays: Whether the learning rate fell towards the end.

    Returns:
        One line; empty where there is no sign.
    """
    signs = []
    if still_falls(losses, num_classes):
        before, last = losses[-1 - _last_fifth(losses)], losses[-1]
        though = " although the learning rate fell too" if decays else ""
        signs.append(
            f"over the last fifth of its epochs the loss still fell by {100 * (1 - last / before):.0f} %"
            f" ({before:.2f} to {last:.2f}){though}"
        )
    if near_chance(clean, num_classes):
        signs.append(
            f"it is right on {100 * clean.value:.1f} % of the clean images, a guess on {100 / num_classes:.3g} %"
        )
    if nearly_none(robust):
        signs.append(
            f"{round(robust.value * robust.num_samples)} of {robust.num_samples} images stay right under the attack"
        )
    if not signs:
        return ""
    instead = "" if still_falls(losses, num_classes) else ", or lower threat.eps"
    return f"the dense base looks trained too briefly: {'; '.join(signs)}; raise base.epochs (now {epochs:g}){instead}"


def _last_fifth(losses: Sequence[float]) -> int:
    return max(1, round(len(losses) / 5))
