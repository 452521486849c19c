"""What is done to the frontier when the trials are over, one thing at a time, alone on the machine.

    an attack at each swept threshold on the frontier   → it is confirmed, or falls back
    a final latency of base, controls and frontier      → the deployed cascade's own time
    fresh images for base, controls and frontier        → what the search's choices flatter

Each may move the frontier, so what is left is asked anew each time. It follows from the run's view
alone: a resumed search goes on where the killed one was.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from eed_search.core.ledger import RunView
from eed_search.core.params import TrialParams
from eed_search.core.points import frontier
from eed_search.core.records import Measurement, Reference

What = Literal["confirm", "final_latency", "recheck"]


@dataclass(frozen=True)
class Final:
    """One thing that is left to do.

    Attributes:
        what: The function of the pipeline.
        id: The point, or the reference's name.
        artifact: `stage/key` of its networks in the store.
        params: Of the point; none for the base and the controls.
        bound: What the sweep measured, for a point to confirm.
    """

    what: What
    id: str
    artifact: str
    params: TrialParams | None
    bound: Measurement | None = None

    def arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's function, but for what all calls share."""
        given: dict[str, Any] = {"artifact": self.artifact, "params": self.params}
        return given if self.bound is None else given | {"bound": self.bound}


def next_final(view: RunView, tried: Collection[tuple[What, str]] = ()) -> Final | None:
    """Name what is to be done next.

    Args:
        view: The run, its trials over.
        tried: What was tried in vain; the search's figure stands there.

    Returns:
        None when everything on the frontier is confirmed, timed and checked.
    """
    references = [_of("final_latency", one) for one in _references(view)]
    fresh = [_of("recheck", one) for one in _references(view)]
    given_up = {id_ for what, id_ in tried if what == "confirm"} - view.confirmed.keys()
    candidates = frontier(view, unrankable=True, unconfirmed=True, without=given_up)
    wanted = [
        Final("confirm", p.id, p.measurement.artifact, TrialParams.from_flat(p.params), p.measurement)
        for p in candidates
        if not p.confirmed
    ]
    wanted += references
    shown = [p for p in candidates if p.confirmed]
    wanted += [Final("final_latency", p.id, p.measurement.artifact, TrialParams.from_flat(p.params)) for p in shown]
    wanted += fresh
    wanted += [Final("recheck", p.id, p.measurement.artifact, TrialParams.from_flat(p.params)) for p in shown]
    done: dict[What, Collection[str]] = {
        "confirm": view.confirmed,
        "final_latency": view.latencies,
        "recheck": view.fresh,
    }
    return next((one for one in wanted if one.id not in done[one.what] and (one.what, one.id) not in tried), None)


def _references(view: RunView) -> list[Reference]:
    return ([view.base] if view.base else []) + view.controls


def _of(what: What, one: Reference) -> Final:
    return Final(what, one.name, one.measurement.artifact, None)
