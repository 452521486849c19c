"""What a proposal would still cost, given what the search's trials have made already.

Members are most of a trial's work and recur; a proposal whose members are in the store costs its
joint fine-tune and its evaluation only. Follows from the ledger alone, so a replay gives the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eed_search.core.ledger import RunView
from eed_search.core.params import ParamValue, TrialParams
from eed_search.core.plans import MemberPlan, plan_members

_LEAST = 1e-3  # seconds


def remaining_cost(view: RunView, params: Mapping[str, ParamValue]) -> float:
    """Estimate the seconds that a proposal would take one worker.

    Args:
        view: The run.
        params: Flat, of a `direct` team.

    Returns:
        The mean of what trials took beside their members, and the mean of a member's training for
        each member that no trial has had; 1 where nothing is known yet.
    """
    trials = view.trials.values()
    trained = [use.seconds for t in trials for use in t.stages if use.stage.startswith("member.") and not use.hit]
    beside = [
        t.seconds - sum(use.seconds for use in t.stages if use.stage.startswith("member.") and not use.hit)
        for t in trials
        if t.outcome == "done"
    ]
    if not trained or not beside:
        return 1.0
    there = {plan for number in view.proposals for plan in _plans(view.proposals[number])}
    new = [plan for plan in _plans(params) if plan not in there]
    return max(float(np.mean(beside)) + len(new) * float(np.mean(trained)), _LEAST)


def _plans(params: Mapping[str, ParamValue]) -> list[MemberPlan]:
    chosen = TrialParams.from_flat(params)
    return plan_members(chosen.members, chosen.subsets, chosen.recovery)
