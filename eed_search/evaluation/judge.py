"""The one judge: whatever an attack makes of an image is answered by the hard deployed gate, whatever it aimed at.

Attacks on the gate, on single prefixes and on the gate's cost have no verdict of their own. They hand their images
over, and only here is a sample called right or broken.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eed_search.evaluation.prefixes import Team, reachable_prefixes
from eed_search.evaluation.steps import Arrays


class Judge:
    """What is known of some images, and the only place where that changes.

    A verdict is plain arrays, so that it can be kept in a file; `take` makes it count.

    Args:
        team: What is deployed; in evaluation mode.
        images: In [0, 1], on the team's device.
        labels: True classes.

    Attributes:
        clean_right: Right without an attack.
        clean_run: Members run on the image itself.
        broken_by: Number of the attack whose image the gate got wrong first; -1 where none did, also where it was wrong
            before.
        attacked_run: Members run on the image that broke the sample, else on the last one tried by an attack on the gate.
        prefix_right: Right by every prefix that the gate can stop at, on every image so far.
        static_right: Right by all members together on every image so far.
    """

    def __init__(
        self, team: Team, images: Float[Tensor, "samples channels height width"], labels: Int[Tensor, " samples"]
    ) -> None:
        self._team, self._images, self._labels = team, images, labels
        self._reachable = [k - 1 for k in reachable_prefixes(team)]
        num = len(labels)
        self.clean_right = self.prefix_right = self.static_right = np.ones(num, bool)
        self.clean_run = self.attacked_run = np.ones(num, np.int64)
        self.broken_by = np.full(num, -1)

    @property
    def robust_right(self) -> Bool[np.ndarray, " samples"]:
        """Right on the image itself and on every image so far."""
        right: np.ndarray = self.clean_right & (self.broken_by < 0)
        return right

    def look(self) -> Arrays:
        """Judge the images as they are."""
        return self.verdict(np.arange(len(self._labels)), self._images)

    def begin(self, verdict: Arrays) -> None:
        """Let what `look` saw count."""
        self.clean_right, self.clean_run = verdict["right"], verdict["run"]
        self.attacked_run = self.clean_run.copy()
        self.prefix_right, self.static_right = self._combined(verdict)

    def verdict(self, samples: Int[np.ndarray, " some"], moved: Float[Tensor, "some channels height width"]) -> Arrays:
        """Judge an image of each of some samples.

        Args:
            samples: Which; one may stand there more than once.
            moved: What became of each.

        Returns:
            For each: whether the deployed answer is `right`, members `run`, whether each of the `prefixes` is right (a row for
            each). The `images` whose answer is wrong although the sample was robust so far. `far`: the largest distance from
            an original, and from [0, 1], in float64.
        """
        index = torch.from_numpy(samples).to(self._labels.device)
        images, labels = self._images[index], self._labels[index]
        with torch.no_grad():
            decision = self._team.decide(moved)
            answers = self._team.gate.combine(self._team.member_log_probabilities(moved)).argmax(-1)
        right = (decision.labels == labels).cpu().numpy()
        broken = torch.from_numpy(self.robust_right[samples] & ~right).to(moved.device)
        distance = (moved.double() - images.double()).abs()
        outside = torch.maximum(-moved.double(), moved.double() - 1).clamp_min(0)
        return {
            "right": right,
            "run": decision.members_run.cpu().numpy(),
            "prefixes": (answers == labels).cpu().numpy(),
            "images": moved[broken].cpu().numpy(),
            "far": np.array([part.max().item() if len(samples) else 0.0 for part in (distance, outside)]),
        }

    def take(
        self, samples: Int[np.ndarray, " some"], verdict: Arrays, number: int, *, on_gate: bool = True
    ) -> Int[np.ndarray, " broken"]:
        """Let a verdict count.

        Args:
            samples: Which were judged.
            verdict: Theirs.
            number: Number of the attack that made the images.
            on_gate: Whether the attack aimed at the deployed answer.

        Returns:
            The samples that it broke, in the order of the verdict's images.
        """
        broken: np.ndarray = samples[self.robust_right[samples] & ~verdict["right"]]
        ran = verdict["run"]
        if on_gate:
            self.attacked_run[samples] = ran
        else:
            hit = np.isin(samples, broken)
            self.attacked_run[samples[hit]] = ran[hit]
        self.broken_by[broken] = number
        prefix_right, static_right = self._combined(verdict)
        np.logical_and.at(self.prefix_right, samples, prefix_right)
        np.logical_and.at(self.static_right, samples, static_right)
        return broken

    def _combined(self, verdict: Arrays) -> tuple[Bool[np.ndarray, " some"], Bool[np.ndarray, " some"]]:
        """Right by every reachable prefix and by the gate, and right by all members together."""
        prefixes: np.ndarray = verdict["prefixes"]
        return prefixes[self._reachable].all(axis=0) & verdict["right"], prefixes[-1].copy()
