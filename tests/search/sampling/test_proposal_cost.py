"""A proposal costs what the store does not have yet."""

from __future__ import annotations

from typing import Any

import pytest

from eed_search.config.params import MemberChoice, TrialParams
from eed_search.runs.ledger import RunView
from eed_search.runs.records import TrialRecord
from eed_search.search.sampling.proposal_cost import Costs
from eed_search.storage.store import StageUse


def params(*members: tuple[str, float], subsets: str = "all", recovery: str = "labels") -> dict[str, Any]:
    chosen = tuple(MemberChoice(score, size) for score, size in members)  # type: ignore[arg-type]
    return TrialParams(chosen, subsets, recovery, "fast_first", 0.1, 0.0, 0.0, 0.5).to_flat()  # type: ignore[arg-type]


@pytest.fixture
def view() -> RunView:
    """One trial of two members: 4 s and 6 s for the members, 3 s beside them."""
    made = params(("nis", 0.5), ("bnsf", 0.25))
    stages = (
        StageUse("member.1", "a", False, 4.0),
        StageUse("member.1", "b", False, 6.0),
        StageUse("base.1", "c", True, 0.1),
    )
    found = RunView(name="s", proposals={0: made})
    found.trials[0] = TrialRecord(0, made, "done", stages=stages, seconds=13.0)
    return found


def test_members_that_were_made_cost_nothing(view: RunView) -> None:
    assert Costs(view)(params(("nis", 0.5))) == pytest.approx(3.0)
    assert Costs(view)(params(("bnsf", 0.25), ("nis", 0.5))) == pytest.approx(3.0)


def test_each_new_member_costs_a_training(view: RunView) -> None:
    assert Costs(view)(params(("nis", 0.5), ("nis", 0.25))) == pytest.approx(8.0)
    assert Costs(view)(params(("ase", 0.5), ("nis", 0.25))) == pytest.approx(13.0)


@pytest.mark.parametrize("other", [{"subsets": "shared"}, {"recovery": "distill"}])
def test_other_images_or_another_recovery_make_another_member(view: RunView, other: dict[str, str]) -> None:
    assert Costs(view)(params(("nis", 0.5), **other)) == pytest.approx(8.0)


def test_a_copy_in_one_team_is_a_member_of_its_own(view: RunView) -> None:
    assert Costs(view)(params(("nis", 0.5), ("nis", 0.5))) == pytest.approx(8.0)


def test_before_anything_is_known_all_cost_the_same() -> None:
    assert Costs(RunView(name="s"))(params(("nis", 0.5))) == 1.0


def test_what_was_gathered_is_gathered_again_when_the_run_has_grown(view: RunView) -> None:
    costs = Costs(view)
    assert costs(params(("ase", 0.5))) == pytest.approx(8.0)
    view.proposals[1] = params(("ase", 0.5))
    view.num_events += 1
    assert costs(params(("ase", 0.5))) == pytest.approx(3.0)


@pytest.mark.parametrize("num_made", [0, 1])
def test_a_trial_that_was_turned_away_has_made_nothing(view: RunView, num_made: int) -> None:
    """Nor has one that failed before its second member was trained."""
    turned_away = params(("ase", 0.5), ("erm", 0.5))
    made = (StageUse("member.1", "d", False, 5.0),) * num_made
    view.proposals[1] = turned_away
    view.trials[1] = TrialRecord(1, turned_away, "failed" if num_made else "infeasible", "x", stages=made)
    assert Costs(view)(turned_away) == pytest.approx(13.0)
