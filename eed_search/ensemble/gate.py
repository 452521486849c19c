"""The gate: members answer one after another until the answer is sure.

The paper's dynamic inference ensemble. `Gate` holds the rule and works on the members' cached
probabilities; `GatedEnsemble` is the team as one module. `deployment/runtime.py` is the same rule
in numpy; a test holds the two together. `MarginGate` has another combiner and another stop rule. Both
can be searched, attacked and deployed; any other `StopRule` can be attacked (`evaluation/attacks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import TypeVar

_TINY = 1e-12
RUNS_ALL = 2.0
"""A gate threshold that no stop probability reaches."""
LEAST_LOG = math.log(1e-35)
"""Floor of a log probability behind a `MarginGate`: far above where float32 underflows in any runtime."""


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


class Readings(NamedTuple):
    """What a rule with a threshold sees of a batch, whatever the threshold.

    Attributes:
        stops: What each prefix compares with the threshold: it stops where this is at least as much. The last
            row means nothing, since the last member always answers.
        labels: Class that each prefix would answer.
    """

    stops: Float[Tensor, "members batch"]
    labels: Int[Tensor, "members batch"]


class StopRule(Protocol):
    """How a team combines its members and when it stops asking; what an attack must know of a gate.

    Everything starts from the members' log-softmax outputs in gate order. Members behind the stop
    must not influence `decide_logs`.
    """

    def combine(self, logs: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch classes"]:
        """Logits of the answer that each prefix of the team would give; differentiable."""
        ...

    def surplus(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """How far each prefix is past its stop: it stops where this is at least 0; differentiable.

        The last row means nothing, since the last member always answers.
        """
        ...

    def soft_stops(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """Chance, in [0, 1], that a softened gate stops at each prefix it reaches; 1 at the last."""
        ...

    def decide_logs(self, logs: Float[Tensor, "members batch classes"]) -> Decision:
        """What the gate does, hard: labels, the prefix that answers, members run."""
        ...


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
        return Decision(at_prefix(means, answer).argmax(-1), answer, members_run)

    @property
    def has_threshold(self) -> bool:
        """Whether the threshold plays a part."""
        return self.rule == "threshold"

    def readings(self, logs: Float[Tensor, "members batch classes"]) -> Readings:
        """Stop probabilities and labels of every prefix."""
        means = prefix_means(logs.exp())
        return Readings(self.stop_probabilities(means), means.argmax(-1))

    def combine(self, logs: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch classes"]:
        """Log of the mean probabilities of each prefix, without underflow."""
        return torch.stack([torch.logsumexp(logs[:k], 0) - math.log(k) for k in range(1, len(logs) + 1)])

    def surplus(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """Stop probability above the threshold; for `map` the best stop so far above what is left."""
        stop = self.stop_probabilities(combined.exp())
        if self.rule == "threshold":
            return stop - self.threshold
        survive = torch.cumprod(1 - stop, dim=0)
        before = torch.cat([torch.ones_like(survive[:1]), survive[:-1]])
        return torch.cummax(stop * before, dim=0).values - survive

    def soft_stops(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """The stop probabilities q_t."""
        return self.stop_probabilities(combined.exp())

    def decide_logs(self, logs: Float[Tensor, "members batch classes"]) -> Decision:
        """`decide` on log-softmax outputs."""
        return self.decide(logs.exp())


@dataclass(frozen=True)
class MarginGate:
    """Mean logits, and a stop where the best class leads the second by a margin.

    Log-softmax outputs stand for the logits. Of one member and image they differ by one number,
    log Σ_c exp(logit_c), the same for every class; so do their means over members, and neither the order
    of the classes nor their distances notice. That is why what is deployed may give probabilities: their
    logarithms serve. A probability below 1e-35 counts as 1e-35, here and in the runtime, so that one
    that underflows has a logarithm; it matters only to logits that lie 80 apart.

    Attributes:
        threshold: Lead at which a prefix answers, in units of the logits; 0 runs one member, above
            `-LEAST_LOG` (80.6), which no lead exceeds, all.
        width: Lead over which the softened gate's chance of a stop goes from a half to 0.73; plays no part in
            what is deployed.
    """

    threshold: float
    width: float = 1.0

    @property
    def has_threshold(self) -> bool:
        """Whether the threshold plays a part: always."""
        return True

    def readings(self, logs: Float[Tensor, "members batch classes"]) -> Readings:
        """Leads and labels of every prefix."""
        combined = self.combine(logs)
        return Readings(_lead(combined), combined.argmax(-1))

    def combine(self, logs: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch classes"]:
        """Mean logits of each prefix, up to a constant."""
        return prefix_means(logs.clamp_min(LEAST_LOG))

    def surplus(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """Lead of the best class above the threshold."""
        return _lead(combined) - self.threshold

    def soft_stops(self, combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
        """A sigmoid of the surplus; 1 at the last prefix."""
        stop = torch.sigmoid(self.surplus(combined) / self.width)
        return torch.cat([stop[:-1], torch.ones_like(stop[-1:])])

    def decide_logs(self, logs: Float[Tensor, "members batch classes"]) -> Decision:
        """Stop at the first prefix whose lead reaches the threshold; its best class is the label."""
        stops, labels = self.readings(logs)
        reached = stops >= self.threshold
        reached[-1] = True
        members_run = first_true(reached) + 1
        return Decision(labels.gather(0, members_run[None] - 1)[0], members_run, members_run)


DeployedGate = Gate | MarginGate
"""The rules that can be searched and deployed."""


def _lead(combined: Float[Tensor, "members batch classes"]) -> Float[Tensor, "members batch"]:
    top = combined.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def prefix_means(
    probabilities: Float[Tensor, "members batch classes"],
) -> Float[Tensor, "members batch classes"]:
    """Mean of the first t members' probabilities, for every t."""
    counts = torch.arange(1, len(probabilities) + 1, device=probabilities.device, dtype=probabilities.dtype)
    return probabilities.cumsum(0) / counts[:, None, None]


def at_prefix(
    values: Float[Tensor, "members batch classes"], answer: Int[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Each sample's row of the prefix that answers it, 1..members."""
    return values.gather(0, (answer - 1)[None, :, None].expand(1, -1, values.shape[-1]))[0]


def first_true(flags: Tensor) -> Int[Tensor, " batch"]:
    """Index of the first true row in each column; each column has one."""
    return flags.to(torch.uint8).argmax(0)


Rule = TypeVar("Rule", bound=StopRule, default=Gate)


class GatedEnsemble(nn.Module, Generic[Rule]):
    """A team behind its gate, as one module.

    `forward` gives the logits of the prefix that answers (behind a `Gate` the log of the deployed
    mean probabilities), so it can be attacked or evaluated like any classifier of logits; the members it needs not run are still computed, since a batch
    shares no exit. `deployment/runtime.py` skips them.

    Args:
        members: Networks from images in [0, 1] to logits, in gate order; at least one.
        gate: The rule: a `Gate`, a `MarginGate` or your own `StopRule`.
    """

    def __init__(self, members: Sequence[nn.Module], gate: Rule) -> None:
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
        """Logits of the prefix that answers."""
        logs = self.member_log_probabilities(images)
        answer = self.gate.decide_logs(logs.detach()).answer
        return at_prefix(self.gate.combine(logs), answer)

    def decide(self, images: Float[Tensor, "batch channels height width"]) -> Decision:
        """Run the gate on images."""
        return self.gate.decide_logs(self.member_log_probabilities(images))


def log_prefix_mean(
    logs: Float[Tensor, "members batch classes"], answer: Int[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Log of the mean probabilities of each sample's first `answer` members, without underflow."""
    position = torch.arange(len(logs), device=logs.device)
    masked = logs.masked_fill((position[:, None] >= answer)[..., None], -torch.inf)
    return torch.logsumexp(masked, dim=0) - answer.to(logs.dtype).log()[:, None]


def log_answer(
    gate: StopRule, logs: Float[Tensor, "members batch classes"], answer: Int[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Log probabilities of what each sample's first `answer` members say together; differentiable."""
    if isinstance(gate, Gate):
        return log_prefix_mean(logs, answer)
    return at_prefix(gate.combine(logs), answer).log_softmax(-1)
