"""Every gate threshold of a trained team at once: which thresholds differ, and what each would answer.

A team is trained once; its threshold is a switch of the deployed gate. The members' probabilities that
an evaluation has seen anyway say what other thresholds would have answered.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eed_search.ensemble.gate import DeployedGate, MarginGate, first_true

_BEYOND = 1.0  # the margin's sweep reaches this far above the largest lead seen


def rounding_of(gate: DeployedGate) -> float:
    """Distance to a threshold below which another runtime's rounding could change the answer.

    torch and onnxruntime differ by about 1e-7 in a probability, and by about 1e-5 in a logit of some tens.
    """
    return 1e-4 if isinstance(gate, MarginGate) else 1e-5


def highest_threshold(gate: DeployedGate, stops: Float[np.ndarray, "members samples"]) -> float:
    """Largest threshold that a sweep need try: beyond it every member runs."""
    return float(stops.max(initial=0.0)) + _BEYOND if isinstance(gate, MarginGate) else 1.0


def swept_thresholds(
    stop: Float[np.ndarray, "members samples"],
    num: int,
    low: float = 0.0,
    high: float = 1.0,
    rounding: float = 1e-5,
) -> Float[np.ndarray, " thresholds"]:
    """Choose thresholds that part the observed stops into equal shares.

    Each lies midway between two neighbouring observed values, so that rounding in the deployed
    runtime cannot move a sample over it.

    Args:
        stop: What is compared with the threshold (stop probabilities, or leads) of clean samples, every member
            but the last.
        num: Thresholds wanted, at least 1; fewer come back where too few values differ.
        low: Smallest threshold allowed.
        high: Largest threshold allowed.
        rounding: Neighbours that are nearer than twice this get no threshold between them.

    Returns:
        Ascending, strictly inside (low, high).

    Source:
        Ours.
    """
    seen = np.unique(stop.astype(np.float64).ravel())
    seen = np.concatenate([[low], seen[(seen > low) & (seen < high)], [high]])
    middles = ((seen[1:] + seen[:-1]) / 2)[np.diff(seen) > 2 * rounding]
    if len(middles) <= num:
        return np.asarray(middles)
    # places among all observed values, not among the unique ones: equal shares of samples
    flat = np.sort(stop.ravel())
    wanted = np.quantile(flat, (np.arange(num) + 0.5) / num)
    nearest = np.abs(middles[None] - wanted[:, None]).argmin(axis=1)
    return np.asarray(middles[np.unique(nearest)])


def answers_at(
    gate: DeployedGate, logs: Float[Tensor, "members batch classes"], thresholds: Float[Tensor, " thresholds"]
) -> tuple[Int[Tensor, "thresholds batch"], Int[Tensor, "thresholds batch"]]:
    """Replay a gate with a threshold at many thresholds.

    Args:
        gate: The rule; its own threshold plays no part.
        logs: Log-softmax outputs of all members in gate order.
        thresholds: Ascending or not.

    Returns:
        Labels, and members run: for each threshold what `decide_logs` would say with it.
    """
    stops, labels = gate.readings(logs)
    reached = stops[None] >= thresholds.to(stops)[:, None, None]
    reached[:, -1] = True
    run = torch.stack([first_true(flags) for flags in reached]) + 1
    return labels.gather(0, run - 1), run
