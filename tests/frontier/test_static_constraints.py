"""What is known of a trial before it runs: known answers."""

from __future__ import annotations

from typing import Any

import pytest

from eed_search.config.params import MemberChoice, ParamValue, TrialParams
from eed_search.config.spec import Choice, Constraints, Search, Space, Spec, Team, Threat
from eed_search.frontier.static_constraints import (
    ArchitectureProfile,
    StaticConstraints,
    latency_ends,
    static_violations,
    to_facts,
)
from tests.tracking.factories import BASE_MS, make_view

SMALL, LARGE = ArchitectureProfile(0.25, 0.2, 1000), ArchitectureProfile(0.5, 0.5, 4000)


def params(*sizes: float, method: str = "prune") -> dict[str, ParamValue]:
    members = tuple(MemberChoice("nis", size, method) for size in sizes)
    return TrialParams(members, "all", "labels", "fast_first", 0.1, 0.0, 0.0, 0.5).to_flat()


def spec_of(**search: Any) -> Spec:
    team = search.pop("team", Team())
    return Spec(name="s", threat=Threat(eps=0.1), search=Search(**search), team=team)


def test_a_single_network_has_one_latency_and_a_team_two_ends() -> None:
    """The gate costs nothing where there is nobody to ask."""
    assert latency_ends([SMALL], 10.0, 0.1) == (2.0, 2.0)
    assert latency_ends([LARGE, SMALL], 10.0, 0.1) == pytest.approx((2.1, 7.2))


def test_limits_that_need_no_training() -> None:
    """Those that are not given are left out; what only training tells is not among them."""
    limits = Constraints(max_size_bytes=4500, max_worst_case_slowdown=0.8, max_latency_ms=2.0, min_clean_accuracy=0.9)
    assert static_violations([LARGE, SMALL], limits, 10.0, 0.1) == pytest.approx(
        {"max_size_bytes": 500, "max_worst_case_slowdown": -0.08, "max_latency_ms": 0.1}
    )


@pytest.mark.parametrize(
    ("kind", "ends"), [("clean", (2.1, 7.2)), ("attacked", (2.1, 7.2)), ("worst_case", (7.2, 7.2))]
)
def test_the_latency_that_ranks(kind: str, ends: tuple[float, float]) -> None:
    """All members on every image is known before."""
    known = StaticConstraints(spec_of(latency_objective=kind), [SMALL, LARGE], 10.0, 0.1)
    assert known.latency_ms(params(0.5, 0.25)) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        (params(0.125), spec_of()),
        (params(0.25, method="cstar"), spec_of()),
        (params(0.25), spec_of(team=Team(mode="pool"))),
    ],
    ids=["another size", "another method", "a pool"],
)
def test_where_only_the_making_tells_nothing_is_known(given: dict[str, ParamValue], spec: Spec) -> None:
    """Then nothing is refused either."""
    limits = spec.search.model_copy(update={"constraints": Constraints(max_size_bytes=1)})
    known = StaticConstraints(spec.model_copy(update={"search": limits}), [SMALL, LARGE], 10.0, 0.1)
    assert known.latency_ms(given) is None
    assert known.keeps_limits(given)


def test_limits_are_kept_or_not() -> None:
    known = StaticConstraints(spec_of(constraints=Constraints(max_worst_case_slowdown=0.6)), [SMALL, LARGE], 10.0, 0.1)
    assert known.keeps_limits(params(0.5))
    assert not known.keeps_limits(params(0.5, 0.25))


@pytest.mark.parametrize(("sizes", "complete"), [((0.25, 0.5), True), ((0.25, 0.75), False)])
def test_a_space_is_known_when_all_its_sizes_are(sizes: tuple[float, ...], complete: bool) -> None:
    known = StaticConstraints(spec_of(space=Space(size=Choice(values=sizes))), [SMALL, LARGE], 10.0, 0.1)
    assert known.is_complete is complete


def test_a_ledger_keeps_it() -> None:
    """With the gate's cost and the base's latency; a run of a version that measured no forms knows nothing."""
    view = make_view(0)
    assert StaticConstraints.of(view, spec_of()).latency_ms(params(0.25)) is None
    view.facts |= {"forms": to_facts([SMALL, LARGE]), "gate_ms": 0.01}
    assert StaticConstraints.of(view, spec_of()).latency_ms(params(0.25, 0.5)) == pytest.approx(
        (0.2 * BASE_MS + 0.01, 0.7 * BASE_MS + 0.02)
    )
