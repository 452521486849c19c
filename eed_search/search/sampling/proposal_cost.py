"""What a proposal would still cost, given what the search's trials have made already.

Members are most of a trial's work and recur; a proposal whose members this search has made, or is making, costs its
joint fine-tune and its evaluation only. Follows from the ledger alone, so a replay gives the same; what else the
store may hold is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eed_search.config.params import ParamValue, TrialParams
from eed_search.config.plans import MemberPlan, plan_members
from eed_search.runs.ledger import RunView
from eed_search.runs.records import TrialRecord

_LEAST = 1e-3  # seconds


class Costs:
    """Estimates the seconds that a proposal would take one worker.

    Hundreds of candidates are weighed for one proposal, so what the run says is gathered once for all of them.

    Args:
        view: The run; it may grow meanwhile.
    """

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._num_events = -1
        self._known: tuple[float, float] | None = None
        self._there: set[MemberPlan] = set()
        self._shares: dict[int, _Share] = {}
        self._plans_of: dict[int, list[MemberPlan]] = {}  # by trial that has not ended

    def __call__(self, params: Mapping[str, ParamValue]) -> float:
        """Estimate one.

        Args:
            params: Flat, of a `direct` team.

        Returns:
            The mean of what trials took beside their members, and the mean of a member's training for
            each member that no trial has made or is about to; 1 where nothing is known yet.
        """
        if self._num_events != self._view.num_events:
            self._gather()
        if self._known is None:
            return 1.0
        beside, trained = self._known
        new = sum(plan not in self._there for plan in _plans(params))
        return max(beside + new * trained, _LEAST)

    def _gather(self) -> None:
        view = self._view
        self._num_events = view.num_events
        shares = [self._share_of(trial) for trial in view.trials.values()]
        trained = [seconds for share in shares for seconds in share.trained]
        beside = [share.beside for share in shares if share.beside is not None]
        self._known = (float(np.mean(beside)), float(np.mean(trained))) if trained and beside else None
        if self._known is None:
            return
        self._there = {plan for number in view.unfinished() for plan in self._planned(number)}
        self._there.update(*(share.made for share in shares))

    def _planned(self, number: int) -> list[MemberPlan]:
        if number not in self._plans_of:
            self._plans_of[number] = _plans(self._view.proposals[number])
        return self._plans_of[number]

    def _share_of(self, trial: TrialRecord) -> _Share:
        known = self._shares.get(trial.number)
        if known is None or known.trial is not trial:
            known = self._shares[trial.number] = _Share.of(trial)
        return known


@dataclass(frozen=True)
class _Share:
    """What one trial that has ended tells.

    Attributes:
        trial: Its record.
        trained: Seconds of each member's training.
        beside: Seconds of all else, if it is done.
        made: Members that are there since.
    """

    trial: TrialRecord
    trained: tuple[float, ...]
    beside: float | None
    made: tuple[MemberPlan, ...]

    @classmethod
    def of(cls, trial: TrialRecord) -> _Share:
        trained = [use.seconds for use in trial.stages if use.stage.startswith("member.") and not use.hit]
        plans = _plans(trial.params)
        # a proposal that was turned away before any training has made nothing
        made = plans if _num_members(trial) >= len(plans) else []
        return cls(
            trial, tuple(trained), trial.seconds - sum(trained) if trial.outcome == "done" else None, tuple(made)
        )


def _num_members(trial: TrialRecord) -> int:
    return sum(use.stage.startswith("member.") for use in trial.stages)


def _plans(params: Mapping[str, ParamValue]) -> list[MemberPlan]:
    chosen = TrialParams.from_flat(params)
    return plan_members(chosen.members, chosen.subsets, chosen.recovery)
