"""What an attack makes grow: losses on prefixes, on the expected output, on a route through the gate.

An objective maps one look at a victim to one loss a sample. Losses are taken on the deployed scores
(`combined`: log of the mean probabilities) and on the mean logits, whose gradient survives
where probabilities saturate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from eed_search.evaluation.attacks.victim import View

Scores = Float[Tensor, "batch classes"]
Loss = Literal["ce", "dlr", "dlr_t", "margin_t"]
Surrogate = Literal["combined", "mean_logits"]
_TINY = 1e-12
_SLACK = 0.02  # how far past each condition a route goes, as a fraction of the way to it
_LEAST_SCALE = 0.02


class Aim(NamedTuple):
    """What an objective sees.

    Attributes:
        view: One look at the victim.
        images: The images looked at; gradients reach them.
        labels: True classes.
        targets: The class to reach; the label itself where the objective has no target.
        scale: What `Objective.scale` gave at the clean images.
    """

    view: View
    images: Float[Tensor, "batch channels height width"]
    labels: Int[Tensor, " batch"]
    targets: Int[Tensor, " batch"]
    scale: Float[Tensor, "batch parts"]


class Objective(Protocol):
    """A loss to maximise, sample by sample."""

    @property
    def targeted(self) -> bool:
        """Whether it wants a target class."""
        ...

    def scores(self, view: View) -> Scores:
        """Scores whose order ranks the target classes at the clean images."""
        ...

    def scale(self, aim: Aim) -> Float[Tensor, "batch parts"]:
        """Anything of the clean images that the loss needs later."""
        ...

    def loss(self, aim: Aim) -> Float[Tensor, " batch"]:
        """One loss a sample; larger is nearer to a wrong answer."""
        ...


def loss_of(kind: Loss, scores: Scores, labels: Int[Tensor, " batch"], targets: Int[Tensor, " batch"]) -> Tensor:
    """One of the standard losses, a value a sample.

    `dlr` and `dlr_t` fall back on the plain margin where there are too few classes for their
    denominators (3 and 4).

    Source:
        Difference of logits ratio, plain and targeted: Croce and Hein 2020, arXiv 2003.01690, equations 6 and 7.
    """
    if kind == "ce":
        return functional.cross_entropy(scores, labels, reduction="none")
    own = _pick(scores, labels)
    ordered = scores.sort(dim=-1, descending=True).values
    if kind == "dlr":
        gap = _best_other(scores, labels) - own
        return gap / (ordered[:, 0] - ordered[:, 2] + _TINY) if scores.shape[-1] >= 3 else gap
    gap = _pick(scores, targets) - own
    if kind == "margin_t" or scores.shape[-1] < 4:
        return gap
    return gap / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + _TINY)


@dataclass(frozen=True)
class Prefix:
    """A standard loss on one prefix's answer.

    Attributes:
        prefix: 1..members; 0 for the prefix that the gate answers with (the executed path).
        kind: Which loss.
        surrogate: Deployed scores, or mean logits.
    """

    prefix: int
    kind: Loss
    surrogate: Surrogate = "combined"

    @property
    def targeted(self) -> bool:
        """Whether the loss wants a target class."""
        return self.kind in ("dlr_t", "margin_t")

    def scores(self, view: View) -> Scores:
        """The prefix's logits."""
        rows = view.combined if self.surrogate == "combined" else view.mean_logits
        return view.executed(rows) if self.prefix == 0 else rows[self.prefix - 1]

    def scale(self, aim: Aim) -> Float[Tensor, "batch parts"]:
        """Nothing."""
        return _nothing(aim)

    def loss(self, aim: Aim) -> Float[Tensor, " batch"]:
        """The loss on the prefix."""
        return loss_of(self.kind, self.scores(aim.view), aim.labels, aim.targets)


@dataclass(frozen=True)
class AllPrefixes:
    """One wrong class for every prefix at once: the best over classes of the margin averaged over prefixes.

    Where it succeeds on all prefixes, no gate helps.
    """

    @property
    def targeted(self) -> bool:
        """It chooses the class anew at every step."""
        return False

    def scores(self, view: View) -> Scores:
        """Log-probabilities averaged over prefixes."""
        return view.combined.log_softmax(-1).mean(0)

    def scale(self, aim: Aim) -> Float[Tensor, "batch parts"]:
        """Nothing."""
        return _nothing(aim)

    def loss(self, aim: Aim) -> Float[Tensor, " batch"]:
        """The largest averaged margin."""
        scores = self.scores(aim.view)
        return _best_other(scores, aim.labels) - _pick(scores, aim.labels)


@dataclass(frozen=True)
class Expected:
    """Cross-entropy of the output expected over stops: gradients reach the gate itself.

    Attributes:
        sharp: Take the hard stop forward and a softened one backward, whose slope is never flat:
            each prefix's surplus is measured by its own size.
    """

    sharp: bool

    @property
    def targeted(self) -> bool:
        """No target."""
        return False

    def scores(self, view: View) -> Scores:
        """Log of the expected probabilities."""
        if not self.sharp:
            weights = _stop_weights(view.rule.soft_stops(view.combined))
        else:
            stops = torch.sigmoid(2 * view.surplus / (view.surplus.detach().abs() + _TINY))
            soft = _stop_weights(torch.cat([stops[:-1], torch.ones_like(stops[-1:])]))
            position = torch.arange(len(soft), device=soft.device)[:, None]
            weights = (position == view.decision.answer - 1).to(soft.dtype) + soft - soft.detach()
        probabilities = view.combined.softmax(-1)
        return (weights[..., None] * probabilities).sum(0).clamp_min(_TINY).log()

    def scale(self, aim: Aim) -> Float[Tensor, "batch parts"]:
        """Nothing."""
        return _nothing(aim)

    def loss(self, aim: Aim) -> Float[Tensor, " batch"]:
        """Minus the log of the true class's expected probability."""
        return -_pick(self.scores(aim.view), aim.labels)


@dataclass(frozen=True)
class Route:
    """Be answered by one prefix, wrongly: the conditions of that route, each as a hinge.

    The conditions: the prefix says the target; the gate stops there (early-wrong), if it is not the
    last; no earlier prefix stops with the right answer (force-deep). Each is measured by
    its distance at the clean image, so that units do not matter.

    Attributes:
        prefix: Which prefix is to answer, 1..members.

    Source:
        Ours. On linear members with mean logits behind a margin the conditions are those of one
        linear program, except that which class an earlier prefix doubts is left open.
    """

    prefix: int

    @property
    def targeted(self) -> bool:
        """One class for the whole route."""
        return True

    def scores(self, view: View) -> Scores:
        """The prefix's logits."""
        return view.combined[self.prefix - 1]

    def scale(self, aim: Aim) -> Float[Tensor, "batch parts"]:
        """How far each condition is at the clean images."""
        return self.conditions(aim).detach().abs().clamp_min(_LEAST_SCALE).T

    def loss(self, aim: Aim) -> Float[Tensor, " batch"]:
        """Minus the sum of what each condition lacks."""
        return -functional.relu(_SLACK - self.conditions(aim) / aim.scale.T).sum(0)

    def conditions(self, aim: Aim) -> Float[Tensor, "parts batch"]:
        """What must be above 0: the target's lead; the surplus, unless the prefix is the last; each earlier one passed."""
        view, last = aim.view, self.prefix - 1
        rows = view.combined
        found = [_pick(rows[last], aim.targets) - _best_other(rows[last], aim.targets)]
        if self.prefix < len(rows):
            found.append(view.surplus[last])
        for earlier in range(last):
            doubt = _best_other(rows[earlier], aim.labels) - _pick(rows[earlier], aim.labels)
            found.append(torch.maximum(-view.surplus[earlier], doubt))
        return torch.stack(found)


@dataclass(frozen=True)
class MemberLosses:
    """The mean of the members' own cross-entropies: the usual attack on a static ensemble."""

    @property
    def targeted(self) -> bool:
        """No target."""
        return False

    def scores(self, view: View) -> Scores:
        """Mean logits of all members."""
        return view.mean_logits[-1]

    def scale(self, aim: Aim) -> Float[Tensor, "batch parts"]:
        """Nothing."""
        return _nothing(aim)

    def loss(self, aim: Aim) -> Float[Tensor, " batch"]:
        """Mean over members."""
        return torch.stack([loss_of("ce", logs, aim.labels, aim.targets) for logs in aim.view.logs]).mean(0)


@dataclass(frozen=True)
class Transfer:
    """A standard loss on another network, such as the dense base that the members were made from.

    Attributes:
        source: The other network, from images to logits.
        kind: Which loss.
    """

    source: nn.Module
    kind: Loss

    @property
    def targeted(self) -> bool:
        """Whether the loss wants a target class."""
        return self.kind in ("dlr_t", "margin_t")

    def scores(self, view: View) -> Scores:
        """The team's own logits: the source is not asked for a ranking."""
        return view.combined[-1]

    def scale(self, aim: Aim) -> Float[Tensor, "batch parts"]:
        """Nothing."""
        return _nothing(aim)

    def loss(self, aim: Aim) -> Float[Tensor, " batch"]:
        """The loss on the source."""
        return loss_of(self.kind, self.source(aim.images).float(), aim.labels, aim.targets)


def _nothing(aim: Aim) -> Tensor:
    return torch.zeros(len(aim.labels), 0, device=aim.labels.device)


def _pick(scores: Scores, classes: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return scores.gather(1, classes[:, None])[:, 0]


def _best_other(scores: Scores, classes: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return scores.scatter(1, classes[:, None], -torch.inf).amax(-1)


def _stop_weights(stops: Float[Tensor, "members batch"]) -> Float[Tensor, "members batch"]:
    """Probability that the gate stops exactly at each prefix."""
    left = torch.cumprod(1 - stops, dim=0)
    return stops * torch.cat([torch.ones_like(left[:1]), left[:-1]])
