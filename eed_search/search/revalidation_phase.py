"""After the trials: the frontier is chosen and checked, alone on the machine, until it is stable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eed_search.core.errors import MachineFault
from eed_search.core.failpoints import fail_point
from eed_search.runs.records import ValidationRound
from eed_search.search.execution.workers import SessionLost
from eed_search.search.outcome import failure_of, problem_of
from eed_search.search.phase_context import PhaseContext, Stopped
from eed_search.search.revalidation import Mark, RevalidationStep, What, next_step
from eed_search.system.machine_faults import machine_fault

if TYPE_CHECKING:
    from eed_search.pipeline.search_context import SearchContext

_FINALS: dict[What, str] = {
    "confirm": "attack at its own threshold",
    "final_latencies": "final latency",
    "recheck": "check on fresh images",
}


def revalidate(context: PhaseContext, setting: SearchContext | None) -> None:
    """Choose the frontier and check it, alone on the machine, one measurement or decision after the other."""
    if setting is None:
        return
    context.journal.stage("finals")
    tried: set[Mark] = set()
    together = True
    while (one := next_step(context.view, tried, together=together)) is not None:
        if isinstance(one, ValidationRound):
            fail_point("finals.look")
            context.journal.look(one)
            continue
        done = _revalidate_one(context, one, setting)
        if done or len(one.finalists) == 1:
            tried |= one.marks()
        else:
            together = False  # so that the one that cannot be timed is found


def _revalidate_one(context: PhaseContext, one: RevalidationStep, setting: SearchContext) -> bool:
    """Do one thing and keep what it found; False if it failed."""
    name = _FINALS[one.what]
    context.now = {one.who: name}
    try:
        given = one.arguments() | {"setting": setting}
        found = context.alone(one.what, given, one.who, context.poll)
    except (Stopped, SessionLost):
        raise
    except Exception as error:
        if fault := machine_fault(error):
            raise MachineFault(fault) from error
        stands = "the search's figure stands" if len(one.finalists) == 1 else "one by one now"
        context.journal.note(f"{one.who}: no {name}, {stands} ({failure_of(error)[1]})")
        return False
    finally:
        context.now = {}
    for finalist, value in zip(one.finalists, found if isinstance(found, list) else [found], strict=True):
        if problem := problem_of(value):
            context.journal.note(f"{finalist.id}: no {name}, the search's figure stands ({problem})")
        else:
            context.journal.final(finalist.id, value, one.chose_from)
    return True
