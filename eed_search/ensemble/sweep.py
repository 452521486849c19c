"""Every gate threshold of a trained team at once: which thresholds differ, and what each would answer.

A team is trained once; its threshold is a switch of the deployed gate. The members' probabilities that
an evaluation has seen anyway say what other thresholds would have answered.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eed_search.ensemble.gate import Gate, first_true, prefix_means

_GAP = 1e-5  # neighbours that are nearer could change places by rounding in another runtime


def swept_thresholds(
    stop: Float[np.ndarray, "members samples"], num: int, low: float = 0.0, high: float = 1.0
) -> Float[np.ndarray, " thresholds"]:
    """Choose thresholds that part the observed stop probabilities into equal shares.

    Each lies midway between two neighbouring observed values, so that rounding in the deployed
    runtime cannot move a sample over it.

    Args:
        stop: Stop probabilities of clean samples, every member but the last.
        num: Thresholds wanted, at least 1; fewer come back where too few values differ.
        low: Smallest threshold allowed.
        high: Largest threshold allowed.

    Returns:
        Ascending, strictly inside (low, high).

    Source:
        Ours.
    """
    seen = np.unique(stop.astype(np.float64).ravel())
    seen = np.concatenate([[low], seen[(seen > low) & (seen < high)], [high]])
    middles = ((seen[1:] + seen[:-1]) / 2)[np.diff(seen) > 2 * _GAP]
    if len(middles) <= num:
        return np.asarray(middles)
    # places in the sorted stop probabilities, not in the unique ones: equal shares of samples
    flat = np.sort(stop.ravel())
    wanted = np.quantile(flat, (np.arange(num) + 0.5) / num)
    nearest = np.abs(middles[None] - wanted[:, None]).argmin(axis=1)
    return np.asarray(middles[np.unique(nearest)])


def answers_at(
    gate: Gate, probabilities: Float[Tensor, "members batch classes"], thresholds: Float[Tensor, " thresholds"]
) -> tuple[Int[Tensor, "thresholds batch"], Int[Tensor, "thresholds batch"]]:
    """Replay a threshold gate at many thresholds.

    Args:
        gate: Its sharpness and tau; its own threshold plays no part.
        probabilities: Softmax outputs of all members in gate order.
        thresholds: Ascending or not.

    Returns:
        Labels, and members run: for each threshold what `Gate.decide` would say with it.
    """
    means = prefix_means(probabilities)
    reached = gate.stop_probabilities(means)[None] >= thresholds.to(means)[:, None, None]
    reached[:, -1] = True
    run = torch.stack([first_true(flags) for flags in reached]) + 1
    labels = means.argmax(-1)
    return labels.gather(0, run - 1), run
