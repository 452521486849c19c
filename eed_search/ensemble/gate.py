"""The gate: members answer one after another until the answer is sure.

The paper's dynamic inference ensemble. `Gate` holds the rule and works on the members' cached
probabilities; `GatedEnsemble` is the team as one module. `deployment/runtime.py` is the same rule
in numpy; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_TINY = 1e-12


class Decision(NamedTuple):
    """What the gate did with a batch.

    Attributes:
        labels: Class of each sample.
        answer: Prefix whose mean gave the label, 1..members.
        members_run: Members executed for each sample, 1..members. Cost follows this, never `answer`.
    """

    labels: Int[Tensor, " batch"]
    answer: Int[Tensor, " batch"]
    members_run: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Gate:
    """When to stop asking members.

    Attributes:
        threshold: Rule `threshold` stops at the first member whose stop probability reaches it; 0
            runs one member, above 1 runs all.
        rule: `threshold`, or `map`, the paper's most probable stop.
        sharpness: Exponent of the confidence.
        tau: Temperature of the agreement term.

    Source:
        EED (arXiv 2504.04747), dynamic inference ensemble; the closed form of the stop probability
        is ours (the paper prints none), and so is the certificate that lets `map` stop early.
    """

    threshold: float = 0.5
    rule: Literal["threshold", "map"] = "threshold"
    sharpness: float = 1.0
    tau: float = 1.0

    def stop_probabilities(self, means: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """Probability q_t that the answer after each member is final.

        q_1 is the confidence alone; q_t multiplies it with exp(-KL(mean_t || mean_{t-1}) / tau);
        the last member's is 1.

        Args:
            means: Mean of the first t members' probabilities, t = 1..members.

        Returns:
            Values in [0, 1], differentiable but for the last row.
        """
        num_classes = means.shape[-1]
        confidence = ((means.amax(-1) - 1 / num_classes) / (1 - 1 / num_classes)).clamp(0, 1)
        stop = confidence**self.sharpness
        if len(means) > 1:
            logs = means.clamp_min(_TINY).log()
            divergence = (means[1:] * (logs[1:] - logs[:-1])).sum(-1).clamp_min(0)
            stop = torch.cat([stop[:1], stop[1:] * torch.exp(-divergence / self.tau)])
        return torch.cat([stop[:-1], torch.ones_like(stop[-1:])])

    def decide(self, probabilities: Float[Tensor, "members batch classes"]) -> Decision:
        """Replay the gate on the members' probabilities.

        Args:
            probabilities: Softmax outputs of all members in gate order. Members behind the stop do
                not influence the result.

        Returns:
            Labels, the prefix that answered, and members run.
        """
        means = prefix_means(probabilities)
        stop = self.stop_probabilities(means)
        if self.rule == "threshold":
            reached = stop >= self.threshold
            reached[-1] = True
            members_run = first_true(reached) + 1
            answer = members_run
        else:
            survive = torch.cumprod(1 - stop, dim=0)
            before = torch.cat([torch.ones_like(survive[:1]), survive[:-1]])
            best, where = torch.cummax(stop * before, dim=0)
            # Every later value is at most `survive`, so the best so far is final once it reaches it.
            members_run = first_true(best >= survive) + 1
            answer = where.gather(0, (members_run - 1)[None])[0] + 1
        chosen = means.gather(0, (answer - 1)[None, :, None].expand(1, -1, means.shape[-1]))[0]
        return Decision(chosen.argmax(-1), answer, members_run)


def prefix_means(
    probabilities: Float[Tensor, "members batch classes"],
) -> Float[Tensor, "members batch classes"]:
    """Mean of the first t members' probabilities, for every t."""
    counts = torch.arange(1, len(probabilities) + 1, device=probabilities.device, dtype=probabilities.dtype)
    return probabilities.cumsum(0) / counts[:, None, None]


def first_true(flags: Tensor) -> Int[Tensor, " batch"]:
    """Index of the first true row in each column; each column has one."""
    return flags.to(torch.uint8).argmax(0)


class GatedEnsemble(nn.Module):
    """A team behind its gate, as one module.

    `forward` gives the log of the deployed mean probabilities, so it can be attacked or evaluated
    like any classifier of logits; the members it needs not run are still computed, since a batch
    shares no exit. `deployment/runtime.py` skips them.

    Args:
        members: Networks from images in [0, 1] to logits, in gate order; at least one.
        gate: The rule.
    """

    def __init__(self, members: Sequence[nn.Module], gate: Gate) -> None:
        super().__init__()
        if not members:
            raise ValueError("a team needs at least one member")
        self.members = nn.ModuleList(members)
        self.gate = gate

    def member_log_probabilities(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "members batch classes"]:
        """Log-softmax outputs of every member."""
        return torch.stack([member(images).float().log_softmax(-1) for member in self.members])

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Log of the mean probabilities of the prefix that answers."""
        logs = self.member_log_probabilities(images)
        answer = self.gate.decide(logs.detach().exp()).answer
        return log_prefix_mean(logs, answer)

    def decide(self, images: Float[Tensor, "batch channels height width"]) -> Decision:
        """Run the gate on images."""
        return self.gate.decide(self.member_log_probabilities(images).exp())


def log_prefix_mean(
    logs: Float[Tensor, "members batch classes"], answer: Int[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Log of the mean probabilities of each sample's first `answer` members, without underflow."""
    position = torch.arange(len(logs), device=logs.device)
    masked = logs.masked_fill((position[:, None] >= answer)[..., None], -torch.inf)
    return torch.logsumexp(masked, dim=0) - answer.to(logs.dtype).log()[:, None]
