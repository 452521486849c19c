"""Stages put together: the team that a trial's parameters name, and networks that the store has lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from eed_search.core.errors import TrialFailure
from eed_search.core.params import TrialParams
from eed_search.core.plans import plan_members
from eed_search.core.store import Stored
from eed_search.ensemble.diversity import choose_team, robust_diversity
from eed_search.ensemble.gate import Gate
from eed_search.evaluation.robust import Judgement
from eed_search.models import count_macs
from eed_search.stages.bench import trial_threads
from eed_search.stages.judging import Judging
from eed_search.stages.making import Making, TrainedMember


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


class Assembling(Making, Judging):
    """Whatever takes several stages."""

    def assemble(self, params: TrialParams, base: nn.Module, base_key: str) -> Assembled:
        """Make the members, choose among them where the file asks for a pool, and put them in gate order."""
        spec = self.spec
        notes: list[str] = []
        choices = list(params.members)
        subsets = params.subsets
        if spec.team.mode == "pool":
            choices = [c for c in choices for _ in range(spec.team.pool.num_subsets)]
            subsets = "shared" if spec.team.pool.num_subsets > 1 else subsets
        members = [self.member(plan, base, base_key) for plan in plan_members(choices, subsets, params.recovery)]
        if len(members) == 1:
            return Assembled(members)
        right = np.stack([self._own(member).robust_right for member in members])
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
        order = self._gate_order(members, right, params)
        return Assembled([members[i] for i in order], right[order], tuple(notes))

    def networks(self, reference: str, params: TrialParams | None) -> Stored:
        """Read the base, a control or a trial's team; make it again where it is altered or gone.

        The stages are functions of what the search chose, so the artifact appears under its old key. It is
        made with as many threads as a trial takes, which can change the last bits of a sum.

        Args:
            reference: `stage/key`, as records name it.
            params: Of the trial; none for the base and the controls.

        Raises:
            StoreError: If this file's stages make nothing of that name.
        """
        if (found := self.store.find(reference)) is not None:
            return found
        self.report(f"makes {reference.partition('.')[0]} again")
        base, base_key = self.base()
        with self._as_in_a_trial():
            if params is not None:
                self.team(self.assemble(params, base, base_key).members, params)
            else:
                self._control_again(reference, base, base_key)
        return self.store.load(reference)

    def _control_again(self, reference: str, base: nn.Module, base_key: str) -> None:
        for size in self.spec.controls.sizes:
            for recovery in self.spec.controls.recoveries:
                stage, settings = self.control_stage(size, recovery, base_key)
                if reference == f"{stage}/{self.store.key(stage, settings)}":
                    self.control(size, recovery, base, base_key)

    @contextmanager
    def _as_in_a_trial(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(trial_threads(self.spec))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _own(self, member: TrainedMember) -> Judgement:
        """A member alone under its own white-box attack."""
        return self.judgement([member.member.model], member.key, Gate(), name=f"member {member.plan.choice.title()}")

    def _gate_order(
        self, members: Sequence[TrainedMember], right: Bool[np.ndarray, "members samples"], params: TrialParams
    ) -> list[int]:
        """Whom the gate asks first: the cheapest, or the most robust; ties go by the other, then by key."""
        macs = [count_macs(m.member.model, self.data.image_shape) for m in members]
        robust = right.mean(axis=1)
        if params.order == "fast_first":
            return sorted(range(len(members)), key=lambda i: (macs[i], -robust[i], members[i].key))
        return sorted(range(len(members)), key=lambda i: (-robust[i], macs[i], members[i].key))
