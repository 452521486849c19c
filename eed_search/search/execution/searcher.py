"""The searcher that Ray Tune asks: it passes on to the study's `TrialQueue`, and says how trials ended.

Ray's own OptunaSearch tells stopped trials as COMPLETE, leaves trials with a NaN RUNNING for ever,
and knows no constraints; so it is not used. What is told, and when, stands in `study`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from eed_search.runs.records import TrialRecord, to_json
from eed_search.search.outcome import failure, record_of
from eed_search.search.sampling.study import OBJECTIVES, STUDY_FILE, close_study, open_study, rebuild_study
from eed_search.search.sampling.trial_queue import TrialQueue

__all__ = [
    "OBJECTIVES",
    "STUDY_FILE",
    "EedSearcher",
    "TrialQueue",
    "close_study",
    "open_study",
    "rebuild_study",
]


class EedSearcher(Searcher):
    """Asks for proposals on Ray Tune's behalf.

    Ray pickles its searcher: the study stays out of the pickle, and nothing is ever read back from
    it. The ledger holds all that a resumed search needs.

    Args:
        trial_queue: Around the search's study.
        settle: Called with a trial's number, its last result and whether Ray lost it, instead of
            telling the trial queue: by a driver that writes the ledger first and then tells it itself.
    """

    def __init__(
        self,
        trial_queue: TrialQueue,
        settle: Callable[[int, Mapping[str, Any] | None, bool], None] | None = None,
    ) -> None:
        super().__init__()
        self._trial_queue = trial_queue
        self._settle = settle
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Propose a trial.

        Args:
            trial_id: Ray's name for it.

        Returns:
            `{"number": …, "params": …, "attempt": …, "rung": …, "rivals": …}`; none while enough trials are open; `FINISHED` when the
            search has had its trials or its time, or is to stop.
        """
        if self._trial_queue.finished:
            return str(Searcher.FINISHED)
        if (proposal := self._trial_queue.propose()) is None:
            return None
        self._numbers[trial_id] = proposal.number
        return {
            "number": proposal.number,
            "params": dict(proposal.params),
            "attempt": proposal.attempt,
            "rung": proposal.rung,
            "rivals": json.dumps([to_json(incumbent) for incumbent in proposal.incumbents]),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: Optuna takes no intermediate values with two objectives."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell how a trial ended; a second call for the same trial is ignored.

        Args:
            trial_id: Ray's name for it.
            result: Its last result, with its record if it came to its end.
            error: Ray lost it.
        """
        if (number := self._numbers.pop(trial_id, None)) is None:
            return
        if self._settle is not None:
            self._settle(number, result, error)
            return
        params = self._trial_queue.params(number)
        lost: TrialRecord = failure(number, params, "infrastructure", "its worker process died")
        self._trial_queue.tell(lost if error else record_of(number, params, result))

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: a search is resumed from its ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the study and everything that lives in this process out of Ray's pickle."""
        return {**self.__dict__, "_trial_queue": None, "_settle": None}
