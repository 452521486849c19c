"""Events: what is written is read back; what is not of a known form is one clear error, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eed_search.core.errors import RunError
from eed_search.runs.events import (
    KINDS,
    Attacked,
    BaselineMeasured,
    BaseMeasured,
    FreshChecked,
    IncumbentsNamed,
    LatencyMeasured,
    Noted,
    Requested,
    Resumed,
    RoundDecided,
    RunDescribed,
    RunEnded,
    RunEvent,
    RungDecided,
    RungReported,
    StageBegan,
    ThresholdConfirmed,
    Tracked,
    TrialAttempted,
    TrialEnded,
    TrialProposed,
    fold,
    read_event,
    to_row,
)
from eed_search.runs.ledger import FILE_NAME, Event, Ledger, RunView, read_run
from eed_search.runs.records import (
    Accuracy,
    FreshCheck,
    Reference,
    RobustAccuracy,
    TrialRecord,
    ValidationRound,
    pack_bits,
    to_json,
)
from eed_search.storage.store import StageUse
from tests.tracking.factories import make_attack, make_latency, make_measurement, make_trial, right

UNKNOWN: Any = "weather"  # a kind that a later version may have
BITS = right(0.5)
CHECK = FreshCheck(
    Accuracy.of(BITS), RobustAccuracy.of(BITS, attack="gated-pgd-20", eps=0.15, badge="proxy"), pack_bits(BITS)
)
REFERENCE = Reference("dense base", make_measurement(0.8, 0.4), 3.0)
USE = StageUse("member.1", "abc", hit=True, seconds=1.0)
EACH: tuple[RunEvent, ...] = (
    RunDescribed(
        "one", {"name": "one", "tracking": {"uri": None}}, {"num_classes": 10}, "/home", "one-1", {"code": {}}
    ),
    StageBegan("trials"),
    BaseMeasured(REFERENCE),
    BaselineMeasured(REFERENCE),
    TrialProposed(3, {"num_members": 2, "member1.size": 0.5, "member1.score": "nis"}, {"teams": 4}),
    TrialAttempted(3, 2, "lost", "killed"),
    IncumbentsNamed(3, ("1.0", "2.1")),
    RungReported(3, 1, {"robust_accuracy": 0.5}, pack_bits(BITS), len(BITS), (USE,), 2.0),
    RungDecided(3, 1, "pause"),
    TrialEnded(make_trial(3)),
    LatencyMeasured("3.0", make_latency(0.3, method="cascade")),
    ThresholdConfirmed("3.1", make_measurement(0.7, 0.2)),
    FreshChecked("3.0", CHECK),
    FreshChecked("3.0", CHECK, 200),
    RoundDecided(ValidationRound(1, {"3.0": 0.8}, ("3.0",), {"3.0": 2})),
    Attacked("3.0", to_json(make_attack(0.7))),
    Noted("a line"),
    Tracked({"uri": "sqlite:////home/mlflow.db", "cursor": 7, "complete": False}),
    Requested("cancel", offline=True),
    Resumed((3,), ("code: changed",), "eed-search resume", {"versions": {}}, {"code": {}}, {"name": "one"}, "/home"),
    Resumed(),
    RunEnded("finished", "patience"),
)


def stored(event: RunEvent, seq: int = 1) -> Event:
    """Write an event as the file keeps it."""
    kind, data, trial = to_row(event)
    return Event(seq, kind, trial, json.loads(json.dumps(data, allow_nan=False)), float(seq))


def test_each_kind_is_here() -> None:
    assert {event.kind for event in EACH} == KINDS.keys()


@pytest.mark.parametrize("event", EACH, ids=lambda event: event.kind)
def test_what_is_written_is_read_back(event: RunEvent) -> None:
    assert read_event(stored(event)) == event


@pytest.mark.parametrize("event", EACH, ids=lambda event: event.kind)
def test_a_field_that_is_missing_or_wrong_is_found(event: RunEvent) -> None:
    """Each field without a default, one at a time; nothing of it reaches the view."""
    whole = stored(event)
    needed = [one.name for one in fields(event) if not event.record and one.name in whole.data]
    needed = [name for name in needed if name not in ("facts", "drawn")]
    for name in needed:
        wrong = Event(whole.seq, whole.kind, whole.trial, {**whole.data, name: object()}, whole.at)
        view = RunView()
        with pytest.raises(ValueError, match=name):
            fold(view, wrong)
        assert view == RunView()


def test_fields_of_a_later_version_are_passed_over() -> None:
    whole = stored(Noted("a line"))
    assert read_event(Event(1, "note", None, {**whole.data, "colour": "red"}, 1.0)) == Noted("a line")


@pytest.mark.parametrize(
    ("kind", "trial", "data", "event"),
    [
        ("run", None, {"name": "one", "spec": {}}, RunDescribed("one", {})),
        ("proposal", 3, {"params": {"a": 1}}, TrialProposed(3, {"a": 1})),
        ("report", 3, {"rung": 0, "metrics": {}}, RungReported(3, 0, {})),
        ("resume", None, {}, Resumed()),
        ("end", None, {"state": "stopped"}, RunEnded("stopped")),
    ],
)
def test_what_earlier_versions_did_not_write_has_a_default(
    kind: Any, trial: int | None, data: dict[str, Any], event: RunEvent
) -> None:
    assert read_event(Event(1, kind, trial, data, 0.0)) == event


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.booleans(), st.integers(), st.text(max_size=8))))
def test_parameters_keep_their_types(params: dict[str, Any]) -> None:
    """True stays true and is no 1."""
    event = read_event(stored(TrialProposed(0, params)))
    assert isinstance(event, TrialProposed)
    assert repr(event.params) == repr(params)


@given(st.lists(st.sampled_from(EACH), max_size=30))
def test_any_order_of_events_can_be_replayed_and_counts_without_a_gap(events: list[RunEvent]) -> None:
    """Two readers of the same events see the same run; the given time stamps, one a second, never count twice."""
    views = RunView(), RunView()
    for seq, event in enumerate(events, start=1):
        for view in views:
            fold(view, stored(event, seq))
    assert views[0] == views[1]
    assert views[0].num_events == len(events)
    assert 0 <= views[0].seconds <= max(0, len(events) - 1)


def test_a_kind_of_a_newer_version_is_one_clear_error(tmp_path: Path) -> None:
    """The file stays as it is: the version that wrote it reads it."""
    path = tmp_path / "run" / FILE_NAME
    path.parent.mkdir()
    with Ledger(path, write=True) as ledger:
        ledger.append(*to_row(RunDescribed("run", {})))
        ledger.append(UNKNOWN, {"sky": "blue"})
    with pytest.raises(RunError, match=r"event 2 \(weather\) is not of the form that eed-search .* reads") as caught:
        read_run(path.parent)
    assert "\n" not in str(caught.value)
    with Ledger(path) as ledger:
        assert [event.kind for event in ledger.events()] == ["run", "weather"]


def test_an_end_that_is_none_changes_nothing() -> None:
    view = RunView()
    with pytest.raises(ValueError, match="no such kind"):
        fold(view, Event(1, UNKNOWN, None, {}, 0.0))
    assert view == RunView()


def test_a_trial_that_is_open_again_is_unfinished() -> None:
    view = RunView()
    record = TrialRecord(0, {}, "pruned", "stopped", "")
    for seq, event in enumerate((TrialProposed(0, {}), TrialEnded(record), Resumed((0,))), start=1):
        fold(view, stored(event, seq))
    assert (view.unfinished(), view.history) == ([0], [("proposal", 0)])
