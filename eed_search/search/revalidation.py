"""What is done when the trials are over, one thing at a time, alone on the machine: the rule of `frontier.selection` at work.

    candidates   whatever may be on the frontier by the search's own images, swept thresholds included; where too
                 few fresh images follow to choose by, only what has a fair chance
                 → an attack at each of their thresholds that none has confirmed
                 → a final latency of base, baselines and candidates, in the same rounds
                 → round 0: who goes on
    each round    a slice of the fresh images for everybody who is left, and further final latencies
                 where the order of two is open → who goes on
    the end      the last slice, and where it could be afforded one more final latency, for base,
                 baselines and the reported frontier: they choose nothing

Each may move the frontier, so what is left is asked anew each time. It follows from the run's view
alone, rounds included: a resumed search goes on where the killed one was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from eed_search.config.params import TrialParams
from eed_search.frontier.estimate import (
    decide,
    estimate_frontier,
    final_timings,
    first_probabilities,
    is_decided,
    num_ranked,
    plan_of,
    threshold_of,
)
from eed_search.frontier.points import points
from eed_search.frontier.selection import Slice, to_time, worth_measuring
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Measurement, Point, Reference, ValidationRound

What = Literal["confirm", "final_latencies", "recheck"]
Mark = tuple[What, str, int]
"""What was tried, for whom, and which time or from which image on."""


@dataclass(frozen=True)
class Finalist:
    """A classifier that something is to be done to.

    Attributes:
        id: The point's, or the reference's name.
        artifact: `stage/key` of its networks in the store.
        params: Parameters of the point; none for the base and the baselines.
        bound: What the search measured; of a swept threshold an upper bound of its robust accuracy.
        timed: Final latencies that it has had.
    """

    id: str
    artifact: str
    params: TrialParams | None
    bound: Measurement
    timed: int = 0

    @classmethod
    def of_point(cls, point: Point, view: RunView) -> Finalist:
        """Take a point that may be on the frontier."""
        m = point.measurement
        return cls(point.id, m.artifact, TrialParams.from_flat(point.params), m, len(view.timings.get(point.id, ())))

    @classmethod
    def of_reference(cls, one: Reference, view: RunView) -> Finalist:
        """Take the base or a baseline."""
        m = one.measurement
        return cls(one.name, m.artifact, None, m, len(view.timings.get(one.name, ())))


@dataclass(frozen=True)
class RevalidationStep:
    """One thing that is left to do.

    Attributes:
        what: The function of the pipeline.
        finalists: To whom; several only where they are timed together.
        images: Slice of the fresh images that a check takes.
        chooses: Whether it helps to choose the frontier.
    """

    what: What
    finalists: tuple[Finalist, ...]
    images: Slice = (0, 0)
    chooses: bool = False

    @property
    def who(self) -> str:
        """Whom it is about, in a line of progress."""
        return self.finalists[0].id if len(self.finalists) == 1 else f"{len(self.finalists)} classifiers"

    @property
    def chose_from(self) -> int | None:
        """First image of a check that helps to choose."""
        return self.images[0] if self.what == "recheck" and self.chooses else None

    def marks(self) -> set[Mark]:
        """Say what will have been tried once this is."""
        return {(self.what, one.id, self._which(one)) for one in self.finalists}

    def _which(self, one: Finalist) -> int:
        return {"confirm": 0, "final_latencies": one.timed, "recheck": self.images[0]}[self.what]

    def arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's function, but for what all calls share."""
        if self.what == "final_latencies":
            return {
                "classifiers": [(one.artifact, one.params) for one in self.finalists],
                "repeats": [one.timed for one in self.finalists],
            }
        (one,) = self.finalists
        given: dict[str, Any] = {"artifact": one.artifact, "params": one.params}
        return given | ({"bound": one.bound} if self.what == "confirm" else {"images": self.images})


def next_step(
    view: RunView, tried: Collection[Mark] = (), *, together: bool = True
) -> RevalidationStep | ValidationRound | None:
    """Name what is to be done next: something to measure, or a round that is to be written down.

    Args:
        view: The run, its trials over.
        tried: What was tried in vain; what is known without it stands.
        together: Whether all that are to be timed are timed in the same rounds, or one by one: then one
            that cannot be timed keeps no other from it.

    Returns:
        None when the reported frontier is chosen, timed and checked.
    """
    ask = _Ask(view, tried, together)
    if not view.validation_rounds:
        return ask.opening()
    if not is_decided(view):
        return ask.round_(len(view.validation_rounds))
    return ask.end()


@dataclass(frozen=True)
class _Ask:
    """What is left at each phase of the finals."""

    view: RunView
    tried: Collection[Mark]
    together: bool

    @property
    def references(self) -> list[Finalist]:
        base = [self.view.base] if self.view.base else []
        return [Finalist.of_reference(one, self.view) for one in base + self.view.baselines]

    def points(self, ids: Collection[str], *, unrankable: bool = False, unconfirmed: bool = False) -> list[Finalist]:
        """Take points by their ids, in the order of the trials."""
        found = points(self.view, unrankable=unrankable, unconfirmed=unconfirmed)
        return [Finalist.of_point(point, self.view) for point in found if point.id in ids]

    def opening(self) -> RevalidationStep | ValidationRound | None:
        """Confirm and time whatever may be on the frontier; then round 0."""
        view = self.view
        vain = {id_ for what, id_, _ in self.tried if what == "confirm"} - view.confirmed.keys()
        sure = first_probabilities(view, unrankable=True, unconfirmed=True, without=vain)
        least = worth_measuring(plan_of(view), threshold_of(view))
        contenders = {id_: one for id_, one in sure.items() if one >= least}
        bounds = {point.id for point in points(view, unrankable=True, unconfirmed=True) if not point.confirmed}
        if swept := self.points(bounds & contenders.keys(), unrankable=True, unconfirmed=True):
            # the surest first: it may show that others are beaten
            return RevalidationStep("confirm", (max(swept, key=lambda one: contenders[one.id]),))
        shown = [*self.references, *self.points(contenders, unrankable=True)]
        if found := self.timing(one for one in shown if one.timed == 0):
            return found
        return decide(view, 0) if num_ranked(view) else self.end()

    def round_(self, number: int) -> RevalidationStep | ValidationRound:
        """Check and time who is left; then the round."""
        view, plan = self.view, plan_of(self.view)
        left, images = view.validation_rounds[-1].left, plan.validation_rounds[number - 1]
        for one in self.points(left):
            if images[0] not in view.slices.get(one.id, {}) and ("recheck", one.id, images[0]) not in self.tried:
                return RevalidationStep("recheck", (one,), images, chooses=True)
        timed = {
            point.id: taken for point in points(view) if point.id in left and (taken := final_timings(view, point))
        }
        again = to_time(list(timed.values()), plan.num_timings[number]) if timed else ()
        wanted = [id_ for id_, one in zip(timed, again, strict=True) if one]
        return self.timing(self.points(wanted)) or decide(view, number)

    def end(self) -> RevalidationStep | None:
        """Time the reported frontier once more where it can be afforded, and check it and the references."""
        view, plan = self.view, plan_of(self.view)
        front = self.points({point.id for point in estimate_frontier(view).front})
        if plan.validation_rounds and view.validation_rounds:
            chose = view.validation_rounds[-1].timings
            if found := self.timing(one for one in front if one.timed <= chose.get(one.id, 0)):
                return found
        for one in (*self.references, *front):
            if one.id not in view.fresh and ("recheck", one.id, plan.last[0]) not in self.tried:
                return RevalidationStep("recheck", (one,), plan.last)
        return None

    def timing(self, finalists: Iterable[Finalist]) -> RevalidationStep | None:
        """Time those who were not tried in vain; none if there are none."""
        found = [one for one in finalists if ("final_latencies", one.id, one.timed) not in self.tried]
        if not found:
            return None
        return RevalidationStep("final_latencies", tuple(found if self.together else found[:1]))
