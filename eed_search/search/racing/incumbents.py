"""Image racing: whom a trial is held against while its trained team is attacked.

Chosen when a trial is handed out to its end, from what is finished then, and written into the ledger: a trial that was
cut off meets the same ones again, so that a search that was killed decides as the undisturbed one would have. The trial
itself decides when to give up, from them and the images (`evaluation.sequential_test`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eed_search.config.params import LatencyKind
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.frontier.pareto import non_dominated
from eed_search.runs.cost import latency_of
from eed_search.runs.ledger import RunView


def choose(view: RunView, kind: LatencyKind) -> tuple[str, ...]:
    """Name the finished trials' own points that no other one of them dominates, as the search measured them.

    Swept thresholds are left out: an attack aimed at them may still find less. So are latencies that stayed noisy.

    Args:
        view: The run.
        kind: Which latency ranks.

    Returns:
        Ids, in the order of the trials.
    """
    done = [
        (number, trial.measurement)
        for number, trial in sorted(view.trials.items())
        if trial.outcome == "done" and trial.measurement is not None and not trial.measurement.latency.noisy
    ]
    values = [[1 - m.robust_accuracy.value, latency_of(m, kind).value] for _, m in done]
    on = non_dominated(np.array(values, dtype=float).reshape(-1, 2))
    return tuple(f"{number}.0" for (number, _), kept in zip(done, on, strict=True) if kept)


def incumbents_of(view: RunView, ids: Sequence[str], kind: LatencyKind) -> tuple[Incumbent, ...]:
    """Give points by their ids, with what a trial needs to know of them."""
    found = []
    for id_ in ids:
        trial = view.trials.get(int(id_.partition(".")[0]))
        if trial is not None and (m := trial.measurement) is not None:
            robust = m.robust_accuracy
            found.append(Incumbent(id_, latency_of(m, kind), robust.value, m.robust_hex, robust.num_samples))
    return tuple(found)
