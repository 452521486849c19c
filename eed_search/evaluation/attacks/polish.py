"""The end of a route by linear programs: where several conditions must hold at once and leave almost no room.

A route through the gate is a handful of conditions (`objectives.Route`). Where each leaves room enough, the climb on
their hinges meets them; where a prefix is wrong by a thousandth of a logit and must stop as well, it swings between them
for ever. Close to an image a network is nearly linear, and of linear conditions the best common point is a small linear
program: a few rows, one for each condition, over the pixels of the ball.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eed_search.evaluation.attacks.base import TeamAttack, wrong_classes
from eed_search.evaluation.attacks.objectives import Aim, Route
from eed_search.evaluation.attacks.victim import Victim, View, num_members

Images = Float[Tensor, "batch channels height width"]
# How soft the minimum is, as a share of what a row can change by, and steps at that; most samples are given up early.
_SOFTNESS = ((0.1, 30), (0.03, 30), (0.01, 40), (0.003, 40), (0.001, 40), (0.0003, 40))
_WORTH = 0.02  # a route is followed on while its rows say that it lacks no more than this share
_ROWS = 384  # routes followed at once


class Rows(NamedTuple):
    """Linear conditions s = slopes·x + offsets ≥ 0, in units of what each can change by within the ball."""

    slopes: Float[Tensor, "batch rows pixels"]
    offsets: Float[Tensor, "batch rows"]


class RoutePolish(TeamAttack):
    """Every route through the gate, each by a few linear programs, each of whose solutions is judged on the gate.

    Args:
        name: For people.
        team: A `GatedEnsemble`.
        eps: Budget in pixel units.
        steps: Linear programs a route at most, each on the conditions linearised where the last one led.
        targets: Wrong classes tried, those that the prefix likes best at the clean image.
        seed: Has no part in it.

    Source:
        Ours: cutting planes (Kelley 1960, https://doi.org/10.1137/0108053) on the conditions of `Route`, sequentially
        linearised.
    """

    def __init__(self, name: str, team: nn.Module, *, eps: float, steps: int, targets: int, seed: int = 0) -> None:
        super().__init__(name, team, eps=eps, steps=steps, restarts=1, seed=seed)
        self.targets = targets

    @property
    def most_passes(self) -> int:
        """Not known before: a route is left as soon as its rows say that nothing can be reached."""
        return 0

    def run(self, images: Images, labels: Int[Tensor, " batch"]) -> Images:
        """Follow every route of every sample that is not broken yet."""
        victim = Victim(self.model)
        found = images.clone()
        alive = torch.arange(len(labels), device=labels.device)
        for prefix in range(1, num_members(self.model) + 1):
            route = Route(prefix)
            with torch.no_grad():
                order = wrong_classes(route.scores(victim.look(images)), labels)[:, : self.targets]
            samples, targets = alive.repeat_interleave(order.shape[1]), order[alive].flatten()
            for some, goals in zip(samples.split(_ROWS), targets.split(_ROWS), strict=True):
                broken, moved = self._follow(victim, route, images[some], labels[some], goals)
                found[some[broken]] = moved[broken]
                alive = alive[~torch.isin(alive, some[broken])]
        return found

    def _follow(
        self, victim: Victim, route: Route, images: Images, labels: Tensor, targets: Tensor
    ) -> tuple[Bool[Tensor, " batch"], Images]:
        """One route of some samples: which broke, and by what."""
        low, high = (images - self.eps).clamp_(min=0).flatten(1), (images + self.eps).clamp_(max=1).flatten(1)
        middle, half = (low + high) / 2, (high - low) / 2
        where = torch.arange(len(labels), device=labels.device)
        broken, moved = torch.zeros_like(labels, dtype=torch.bool), images.clone()
        # From where the target is as likely as it gets: an earlier prefix then doubts the label for the target's sake.
        (slope,), _, _ = _slopes(victim, route, images, labels, targets, only=1)
        point = (images.flatten(1) + self.eps * slope.sign()).clamp(low, high).view_as(images)
        kept: Rows | None = None
        for step in range(self.steps + 1):
            wrong, fresh, valid = _linearised(
                victim, route, point, labels[where], targets[where], middle[where], half[where]
            )
            broken[where[wrong]] = True
            moved[where[wrong]] = point[wrong]
            if step == self.steps:
                break
            rows = fresh if kept is None else Rows(*(torch.cat(pair, 1) for pair in zip(kept, fresh, strict=True)))
            place, slack = best_in_box(rows, -_WORTH)
            follow = ~wrong & (slack > -_WORTH)
            if not bool(follow.any()):
                break
            # what holds for ever is kept: the target over one more class, the stop for that class
            lasting = Rows(
                fresh.slopes[:, : valid.shape[1]], fresh.offsets[:, : valid.shape[1]].masked_fill(~valid, torch.inf)
            )
            kept = lasting if kept is None else Rows(*(torch.cat(pair, 1) for pair in zip(kept, lasting, strict=True)))
            kept = Rows(kept.slopes[follow], kept.offsets[follow])
            where = where[follow]
            point = (middle[where] + half[where] * place[follow]).clamp(low[where], high[where]).view_as(images[where])
        return broken, moved


def _linearised(
    victim: Victim, route: Route, images: Images, labels: Tensor, targets: Tensor, middle: Tensor, half: Tensor
) -> tuple[Bool[Tensor, " batch"], Rows, Bool[Tensor, "batch lasting"]]:
    """Judge images, and give the route's conditions as rows there; the first ones bound theirs everywhere if valid.

    Where the target is the prefix's answer, its lead over the others and over the stop are the smallest of linear functions,
    so that each row stays an upper bound wherever the image moves.
    """
    slopes, values, view = _slopes(victim, route, images, labels, targets)
    wrong = view.decision.labels != labels
    slope = torch.stack(slopes, 1) * half[:, None]
    at = ((images.flatten(1) - middle) / half.clamp_min(1e-12))[:, None]
    reach = slope.abs().sum(-1).clamp_min(1e-12)
    rows = Rows(slope / reach[..., None], (values - (slope * at).sum(-1)) / reach)
    answers = route.scores(view).detach().argmax(-1) == targets
    stops = route.prefix < len(view.logs)
    valid = torch.stack([torch.ones_like(answers), answers], 1) if stops else torch.ones_like(answers)[:, None]
    return wrong, rows, valid


def _slopes(
    victim: Victim, route: Route, images: Images, labels: Tensor, targets: Tensor, only: int | None = None
) -> tuple[list[Float[Tensor, "batch pixels"]], Float[Tensor, "batch rows"], View]:
    """The gradients of the conditions, or of the first ones, their values, and what was seen."""
    point = images.detach().requires_grad_(True)
    with torch.enable_grad():
        view = victim.look(point)
        conditions = route.conditions(Aim(view, point, labels, targets, point.new_zeros(len(labels), 0)))[:only]
        slopes = [torch.autograd.grad(one.sum(), point, retain_graph=True)[0].flatten(1) for one in conditions]
    return slopes, conditions.detach().T, view


def best_in_box(rows: Rows, worth: float = -torch.inf) -> tuple[Float[Tensor, "batch pixels"], Float[Tensor, " batch"]]:
    """Find the point of [-1, 1]^pixels whose least row is largest, for each sample.

    Accelerated gradient steps on a soft minimum that hardens: no network is asked, so they cost little. The weights
    of the soft minimum say what no point can exceed, so that most samples are given up at once.

    Args:
        rows: Slopes of absolute sum 1; an infinite offset stands for no row.
        worth: A sample whose least row cannot reach this is given up.

    Returns:
        The points, and their least rows; minus infinity where given up.
    """
    best = torch.zeros_like(rows.slopes[:, 0])
    least = torch.full_like(rows.offsets[:, 0], -torch.inf)
    where = torch.arange(len(best), device=best.device)
    for softness, steps in _SOFTNESS:
        slopes, offsets = rows.slopes[where], rows.offsets[where]
        point, bound = _soften(slopes, offsets, best[where], softness, steps)
        reached = (torch.einsum("brp,bp->br", slopes, point) + offsets).amin(-1)
        better = reached > least[where]
        best[where[better]], least[where[better]] = point[better], reached[better]
        where = where[bound >= worth]
        if not len(where):
            break
    given_up = torch.ones_like(least, dtype=torch.bool)
    given_up[where] = False
    return best, least.masked_fill(given_up, -torch.inf)


def _soften(slopes: Tensor, offsets: Tensor, start: Tensor, softness: float, steps: int) -> tuple[Tensor, Tensor]:
    """Climb the soft minimum of one softness; gives where it led and what no point exceeds."""
    size = softness / slopes.square().sum(-1).amax(-1, keepdim=True)
    finite = offsets.nan_to_num(posinf=0.0)
    point = before = ahead = start
    pace = 1.0
    for _ in range(steps):
        weights = torch.softmax(-(torch.bmm(slopes, ahead[..., None])[..., 0] + offsets) / softness, -1)
        gradient = torch.bmm(weights[:, None], slopes)[:, 0]
        point = torch.addcmul(ahead, size, gradient).clamp_(-1, 1)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead = torch.lerp(before, point, 1 + (pace - 1) / faster)
        before, pace = point, faster
    return point, (weights * finite).sum(-1) + gradient.abs().sum(-1)
