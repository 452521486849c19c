"""What is done to the frontier when the trials are over, one thing at a time, alone on the machine.

    an attack at each swept threshold on the frontier   → it is confirmed, or falls back
    a final latency of base, controls and frontier      → the deployed cascades' own times, in the same rounds
    fresh images for base, controls and frontier        → what the search's choices flatter

Each may move the frontier, so what is left is asked anew each time. It follows from the run's view
alone: a resumed search goes on where the killed one was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eed_search.core.ledger import RunView
from eed_search.core.params import TrialParams
from eed_search.core.points import frontier
from eed_search.core.records import Measurement, Point, Reference

What = Literal["confirm", "final_latencies", "recheck"]


@dataclass(frozen=True)
class Finalist:
    """A classifier that something is to be done to.

    Attributes:
        id: The point's, or the reference's name.
        artifact: `stage/key` of its networks in the store.
        params: Of the point; none for the base and the controls.
        bound: What the search measured; of a swept threshold an upper bound of its robust accuracy.
    """

    id: str
    artifact: str
    params: TrialParams | None
    bound: Measurement

    @classmethod
    def of_point(cls, point: Point) -> Finalist:
        """Take a point of the frontier."""
        return cls(point.id, point.measurement.artifact, TrialParams.from_flat(point.params), point.measurement)

    @classmethod
    def of_reference(cls, one: Reference) -> Finalist:
        """Take the base or a control."""
        return cls(one.name, one.measurement.artifact, None, one.measurement)


@dataclass(frozen=True)
class Final:
    """One thing that is left to do.

    Attributes:
        what: The function of the pipeline.
        finalists: To whom; several only where they are timed together.
    """

    what: What
    finalists: tuple[Finalist, ...]

    @property
    def who(self) -> str:
        """Whom it is about, in a line of progress."""
        return self.finalists[0].id if len(self.finalists) == 1 else f"{len(self.finalists)} classifiers"

    def arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's function, but for what all calls share."""
        if self.what == "final_latencies":
            return {"classifiers": [(one.artifact, one.params) for one in self.finalists]}
        (one,) = self.finalists
        given: dict[str, Any] = {"artifact": one.artifact, "params": one.params}
        return given | {"bound": one.bound} if self.what == "confirm" else given


def next_final(view: RunView, tried: Collection[tuple[What, str]] = (), *, together: bool = True) -> Final | None:
    """Name what is to be done next.

    Args:
        view: The run, its trials over.
        tried: What was tried in vain; the search's figure stands there.
        together: Whether all that lack a final latency are timed in the same rounds, or one by one:
            then one that cannot be timed keeps no other from it.

    Returns:
        None when everything on the frontier is confirmed, timed and checked.
    """
    given_up = {id_ for what, id_ in tried if what == "confirm"} - view.confirmed.keys()
    candidates = frontier(view, unrankable=True, unconfirmed=True, without=given_up)
    shown = [
        *(Finalist.of_reference(one) for one in ([view.base] if view.base else []) + view.controls),
        *(Finalist.of_point(point) for point in candidates if point.confirmed),
    ]

    def left(what: What, finalists: Sequence[Finalist], done: Collection[str]) -> list[Finalist]:
        return [one for one in finalists if one.id not in done and (what, one.id) not in tried]

    unconfirmed = [Finalist.of_point(point) for point in candidates if not point.confirmed]
    if found := left("confirm", unconfirmed, view.confirmed):
        return Final("confirm", (found[0],))
    if found := left("final_latencies", shown, view.latencies):
        return Final("final_latencies", tuple(found if together else found[:1]))
    if found := left("recheck", shown, view.fresh):
        return Final("recheck", (found[0],))
    return None
