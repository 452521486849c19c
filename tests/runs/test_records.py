"""Records go to JSON and come back the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eed_search.config.params import MemberChoice, TrialParams
from eed_search.runs.records import (
    Accuracy,
    Interval,
    Latency,
    Measurement,
    Reference,
    RobustAccuracy,
    TrialRecord,
    from_json,
    metric_problem,
    pack_bits,
    to_json,
    unpack_bits,
)
from eed_search.storage.store import StageUse

numbers = st.floats(-1e6, 1e6)
intervals = st.builds(Interval, numbers, numbers, numbers)
latencies = st.builds(
    Latency,
    intervals,
    st.none() | numbers,
    st.none() | numbers,
    numbers,
    intervals,
    numbers,
    st.sampled_from(["additive", "cascade"]),
    st.booleans(),
    st.none() | intervals,
    st.integers(0, 10**6),
)
accuracies = st.builds(Accuracy, numbers, numbers, numbers, st.integers(1, 10**6))
robust = st.builds(
    RobustAccuracy,
    numbers,
    numbers,
    numbers,
    st.integers(1, 10**6),
    st.text(),
    numbers,
    st.sampled_from(["proxy", "checked", "claim", "invalid"]),
)
measurements = st.builds(
    Measurement,
    accuracies,
    robust,
    st.none() | intervals,
    latencies,
    numbers,
    st.integers(1, 8),
    st.lists(numbers, max_size=4).map(tuple),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.text("0123456789abcdef"),
    st.text(),
)
references = st.builds(Reference, st.text(), measurements, numbers, numbers, st.text())
stage_uses = st.builds(StageUse, st.text(), st.text(), st.booleans(), numbers)
trials = st.builds(
    TrialRecord,
    st.integers(0, 10**6),
    st.dictionaries(st.text(), st.text() | st.integers(-(10**6), 10**6) | numbers),
    st.sampled_from(["done", "pruned", "infeasible", "failed"]),
    st.text(),
    st.text(),
    st.none() | measurements,
    st.dictionaries(st.text(), numbers),
    st.none() | numbers,
    st.lists(st.text(), max_size=3).map(tuple),
    st.lists(stage_uses, max_size=3).map(tuple),
    numbers,
)


@given(st.one_of(intervals, latencies, accuracies, robust, measurements, references, trials))
def test_records_come_back_from_json_text(record: object) -> None:
    """Through JSON text and back, every record equals itself, type included."""
    text = json.dumps(to_json(record), allow_nan=False)
    assert from_json(type(record), json.loads(text)) == record


def test_a_missing_field_is_refused_by_name() -> None:
    """A record that lacks a field does not come back as something else."""
    with pytest.raises(ValueError, match="high"):
        from_json(Interval, {"value": 1.0, "low": 0.5})


def test_a_latency_from_an_earlier_ledger_is_read() -> None:
    """Written before calls were counted and batches timed, it comes back without both."""
    one = {"value": 1.0, "low": 0.9, "high": 1.1}
    written = {"latency_ms": one, "p50_ms": 1.0, "p95_ms": 1.2, "worst_case_ms": 1.0, "speedup": one}
    found = from_json(Latency, written | {"worst_case_speedup": 1.0, "method": "cascade", "noisy": False})
    assert (found.p95_ms, found.num_calls, found.images_per_second) == (1.2, 0, None)


def test_an_unknown_outcome_is_refused() -> None:
    """Only the four outcomes are read."""
    with pytest.raises(ValueError, match="outcome"):
        from_json(TrialRecord, {"number": 0, "params": {}, "outcome": "perhaps"})


@given(st.lists(st.booleans(), max_size=70))
def test_bits_come_back(flags: list[bool]) -> None:
    """A row of flags of any length survives its hexadecimal form."""
    row = np.array(flags, dtype=bool)
    assert (unpack_bits(pack_bits(row), len(flags)) == row).all()


def test_first_sample_is_the_first_bit() -> None:
    """The form is fixed: others read it too."""
    assert pack_bits(np.array([True] + [False] * 8)) == "8000"


def test_accuracy_counts_right_answers() -> None:
    """Value, exact interval and number of samples of one evaluation."""
    accuracy = Accuracy.of(np.array([True, True, True, False]))
    assert (accuracy.value, accuracy.num_samples) == (0.75, 4)
    assert accuracy.low < 0.75 < accuracy.high


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0.5, ""),
        (3, ""),
        (None, "robust is missing"),
        (True, "robust is bool True, not a number"),
        ("0.5", "robust is str '0.5', not a number"),
        (float("nan"), "robust is nan, not a finite number"),
        (float("-inf"), "robust is -inf, not a finite number"),
    ],
)
def test_one_validator_says_what_is_wrong_with_a_metric(value: object, problem: str) -> None:
    """Only finite numbers pass; everything else is named."""
    assert metric_problem("robust", value) == problem


def test_a_numpy_number_is_a_number() -> None:
    """What NumPy computes may be reported as it is, NaN included."""
    assert metric_problem("robust", np.float64(0.5)) == ""
    assert metric_problem("robust", np.float64("nan")) == "robust is nan, not a finite number"


members = st.builds(MemberChoice, st.sampled_from(["nis", "erm", "ase", "bnsf"]), st.floats(0.01, 1))


@given(
    st.builds(
        TrialParams,
        st.lists(members, min_size=1, max_size=8).map(tuple),
        st.sampled_from(["all", "shared"]),
        st.sampled_from(["labels", "distill"]),
        st.sampled_from(["fast_first", "robust_first"]),
        numbers,
        numbers,
        numbers,
        numbers,
    )
)
def test_params_come_back_from_their_flat_table(params: TrialParams) -> None:
    """The flat table that Optuna and MLflow see holds everything."""
    assert TrialParams.from_flat(json.loads(json.dumps(params.to_flat()))) == params


def test_a_team_is_named_in_order() -> None:
    """Score and per cent kept, member by member."""
    members = (MemberChoice("nis", 0.5), MemberChoice("bnsf", 0.25))
    assert TrialParams(members, "all", "labels", "fast_first", 0, 0, 0, 0.5).title() == "nis-50 bnsf-25"
