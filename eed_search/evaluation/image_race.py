"""Whether a team under attack is surely beaten already, in every way that it could be deployed.

A trained team is a point at its own gate threshold and at each swept one. What these cost is known from the clean images,
before any is attacked. Each is held against the most robust finished point that is surely as fast; only when all of them are
surely behind is the attack given up. At swept thresholds the flags are upper bounds, so that giving up is only rarer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from eed_search.config.params import LatencyKind
from eed_search.evaluation.latency import RatioEstimate, additive_latency
from eed_search.evaluation.robust import RobustEvaluation
from eed_search.evaluation.sequential_test import Incumbent, beaten_by, incumbent_for, interim_sizes
from eed_search.runs.cost import scaled
from eed_search.runs.records import EarlyStop, Interval


class ImageRace:
    """Holds one team against its incumbents.

    Args:
        incumbents: Points that were finished when the trial was handed out; none never beat anybody.
        ratios: Latencies of the members in gate order.
        dense_ms: Latency of the dense base.
        gate_ms: Cost of one gate step.
        kind: Which latency ranks. The one under attack is at least the clean one, which stands in for it.
    """

    def __init__(
        self,
        incumbents: Sequence[Incumbent],
        ratios: Sequence[RatioEstimate],
        dense_ms: float,
        gate_ms: float,
        kind: LatencyKind = "clean",
    ) -> None:
        self._incumbents, self._ratios, self._kind = incumbents, ratios, kind
        self._dense_ms, self._gate_ms = dense_ms, gate_ms

    def beaten_by(self, seen: RobustEvaluation) -> tuple[str, ...]:
        """Name who beats the team on the images seen so far; nobody as long as it may still be worth it.

        Args:
            seen: Clean flags of all images, robust ones up to an interim test's end.

        Returns:
            Ids, each once.
        """
        latencies = [self._latency(run) for run in (seen.members_run, *seen.swept_members_run)]
        right = [seen.robust_right, *seen.swept_robust_right]
        return beaten_by(latencies, right, self._incumbents, interim_sizes(len(seen.clean_right)))

    def stop(self, seen: RobustEvaluation) -> EarlyStop:
        """Write down where a team was given up; `beaten_by` has named somebody there."""
        latency = self._latency(seen.members_run)
        incumbent = incumbent_for(latency, self._incumbents)
        assert incumbent is not None
        behind = seen.robust_right.mean() - incumbent.right(seen.num_attacked).mean()
        robust = min(max(incumbent.robust_accuracy + float(behind), 0.0), 1.0)
        return EarlyStop(seen.num_attacked, len(seen.clean_right), self.beaten_by(seen), robust, latency)

    def _latency(self, run: Int[np.ndarray, " samples"]) -> Interval:
        shares = [float((run == member).mean()) for member in range(1, len(self._ratios) + 1)]
        found = additive_latency(self._ratios, shares, self._dense_ms, self._gate_ms)
        return scaled(found.latency_ms, found.worst_case_ms) if self._kind == "worst_case" else found.latency_ms
