"""How many members an attacker can make the gate ask, on every image of a split: the cheap form that a search affords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from eed_search.data.splits import Split
from eed_search.ensemble.gate import DeployedGate, GatedEnsemble
from eed_search.ensemble.sweep import answers_at
from eed_search.evaluation.attacks.slow_down import NUM_RUNS, slow_down
from eed_search.evaluation.attacks.victim import View
from eed_search.models import place

NO_GATE = "no gate to slow down"  # the attack on a single network


@dataclass(frozen=True)
class Slowed:
    """What slowing a team down reached, sample by sample.

    Attributes:
        run: Members run on the slowest image found that keeps the answer to the clean one.
        swept_run: The same at other gate thresholds, on the same images: lower bounds, since the attack aimed
            at the team's own threshold.
        attack: What slowed the gate down, for people.
    """

    run: Int[np.ndarray, " samples"]
    swept_run: Int[np.ndarray, "thresholds samples"]
    attack: str


def slowed(
    team: GatedEnsemble[DeployedGate],
    split: Split,
    *,
    eps: float,
    steps: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    thresholds: Float[np.ndarray, " thresholds"] | None = None,
    tell: Callable[[float], None] = lambda share: None,
) -> Slowed:
    """Slow a team down on every image of a split.

    Args:
        team: Members and gate.
        split: Images; their labels play no part, since the team's own answers are kept.
        eps: Budget in pixel units.
        steps: Gradient steps of each of the attack's two runs.
        batch_size: Images at a time; changes no result.
        seed: Seed for the random starts.
        device: Where to compute.
        thresholds: Other thresholds of a gate with a threshold that every image tried is replayed at.
        tell: Told at every step which share of the whole is done.

    Returns:
        Members run under attack, at least those run on the clean image.
    """
    name = f"S1 slow-down, {steps} steps"
    team = place(team, device).eval()
    others = torch.from_numpy(np.zeros(0) if thresholds is None else thresholds)
    labels = torch.zeros(len(others), len(split), dtype=torch.long)
    most = torch.zeros(len(others), len(split), dtype=torch.long)

    looks, of_a_batch = 0, 1 + NUM_RUNS * (steps + 1)  # a look at the clean images, and at every iterate

    def replay(where: slice, view: View) -> None:
        nonlocal looks
        looks += 1
        within = (looks % of_a_batch or of_a_batch) / of_a_batch
        tell((where.start + within * (where.stop - where.start)) / len(split))
        if not len(others):
            return
        answers, run = (part.cpu() for part in answers_at(team.gate, view.logs.detach(), others))
        if not most[:, where].any():  # the clean images come first
            labels[:, where], most[:, where] = answers, run
        kept = answers == labels[:, where]
        most[:, where] = torch.where(kept, torch.maximum(most[:, where], run), most[:, where])

    found = slow_down(team, split.images, eps=eps, steps=steps, seed=seed, batch_size=batch_size, watch=replay)
    return Slowed(found.attacked_run.cpu().numpy(), most.numpy(), name)
