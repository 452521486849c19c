"""Stages put together: the team that a trial's parameters name, and networks that the store has lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from eed_search.config.params import TrialParams
from eed_search.config.plans import plan_members
from eed_search.core.errors import TrialFailure
from eed_search.ensemble.diversity import choose_team, robust_diversity
from eed_search.ensemble.gate import Gate
from eed_search.evaluation.robust import RobustEvaluation
from eed_search.models import count_macs
from eed_search.pipeline.context import StageContext, trial_threads
from eed_search.pipeline.robustness import robust_evaluation
from eed_search.pipeline.training import TrainedMember, baseline_stage, dense_base, member, team_stage
from eed_search.storage.store import Stored


@dataclass(frozen=True)
class Assembled:
    """The members of a team before they are fine-tuned jointly.

    Attributes:
        members: In gate order.
        right: Which validation images each gets right under its own attack; none for a single member.
        notes: What a reader of the result should know of the choice.
    """

    members: list[TrainedMember]
    right: Bool[np.ndarray, "members samples"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def diversity(self) -> float | None:
        """Robust diversity; none for a single member."""
        return None if self.right is None else robust_diversity(~self.right)


def assemble(context: StageContext, params: TrialParams, base: nn.Module) -> Assembled:
    """Make the members, choose among them where the file asks for a pool, and put them in gate order."""
    spec = context.spec
    notes: list[str] = []
    choices = list(params.members)
    subsets = params.subsets
    if spec.team.mode == "pool":
        choices = [c for c in choices for _ in range(spec.team.pool.num_subsets)]
        subsets = "shared" if spec.team.pool.num_subsets > 1 else subsets
    members = [member(context, plan, base) for plan in plan_members(choices, subsets, params.recovery)]
    if len(members) == 1:
        return Assembled(members)
    right = np.stack([_own(context, member).robust_right for member in members])
    if spec.team.mode == "pool":
        pool = spec.team.pool
        try:
            chosen = choose_team(
                ~right,
                threshold=pool.diversity_threshold,
                max_members=pool.max_members,
                accuracy_slack=pool.accuracy_slack,
            )
        except ValueError as error:
            raise TrialFailure("error", f"no team: {error}; raise team.pool.accuracy_slack") from error
        if not chosen.reached:
            notes.append(
                f"no team of up to {pool.max_members} of {len(members)} reaches robust diversity"
                f" {pool.diversity_threshold:g}; took the most diverse one, {chosen.diversity:.2f}"
            )
        members, right = [members[i] for i in chosen.members], right[list(chosen.members)]
    order = _gate_order(context, members, right, params)
    return Assembled([members[i] for i in order], right[order], tuple(notes))


def find_networks(context: StageContext, reference: str, params: TrialParams | None) -> Stored:
    """Read the base, a baseline or a trial's team; make it again where it is altered or gone.

    The stages are functions of what the search chose, so the artifact appears under its old key. It is
    made with as many threads as a trial takes, which can change the last bits of a sum.

    Args:
        context: The search's file, data, device and store.
        reference: `stage/key`, as records name it.
        params: Parameters of the trial; none for the base and the baselines.

    Raises:
        StoreError: If this file's stages make nothing of that name.
    """
    if (found := context.store.find(reference)) is not None:
        return found
    context.report(f"makes {reference.partition('.')[0]} again")
    base, _ = dense_base(context)
    baselines = context.spec.baselines
    with _as_in_a_trial(context):
        if params is not None:
            team_stage(context, assemble(context, params, base).members, params).made_in(context.store)
        for size, recovery in product(baselines.sizes, baselines.recoveries) if params is None else ():
            stage = baseline_stage(context, size, recovery, base)
            if reference == f"{stage.versioned}/{stage.key(context.store)}":
                stage.made_in(context.store)
    return context.store.load(reference)


@contextmanager
def _as_in_a_trial(context: StageContext) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(trial_threads(context.spec))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _own(context: StageContext, member: TrainedMember) -> RobustEvaluation:
    """A member alone under its own white-box attack."""
    alone = f"member {member.plan.choice.title()}"
    return robust_evaluation(context, [member.member.model], member.key, Gate(), name=alone)


def _gate_order(
    context: StageContext,
    members: Sequence[TrainedMember],
    right: Bool[np.ndarray, "members samples"],
    params: TrialParams,
) -> list[int]:
    """Whom the gate asks first: the cheapest, or the most robust; ties go by the other, then by key."""
    macs = [count_macs(m.member.model, context.data.image_shape) for m in members]
    robust = right.mean(axis=1)
    if params.order == "fast_first":
        return sorted(range(len(members)), key=lambda i: (macs[i], -robust[i], members[i].key))
    return sorted(range(len(members)), key=lambda i: (-robust[i], macs[i], members[i].key))
