"""The frontier's table: its rows, and how numbers read in it."""

from dataclasses import replace

import pytest

from eed_search.frontier.estimate import decide, estimate_frontier
from eed_search.runs.ledger import RunView
from eed_search.runs.records import Interval, ValidationRound
from eed_search.tracking.summary import summarise
from eed_search.tracking.table import COLUMNS, confirmed_note, table_rows, throughput_note, uncertain_note
from eed_search.tracking.text import in_bytes, in_macs, with_arm
from tests.tracking.factories import BASE_MS, make_latency, make_measurement, make_view


@pytest.fixture(scope="module")
def view() -> RunView:
    """A finished search."""
    return make_view()


def test_table_lists_frontier_then_what_may_belong_then_base_then_controls(view: RunView) -> None:
    """Each in its order, the points fastest first."""
    rows = table_rows(summarise(view))
    found = estimate_frontier(view)
    listed = ["point"] * len(found.front) + ["uncertain"] * len(found.uncertain)
    assert [row.kind for row in rows] == [*listed, "base", "baseline", "baseline"]
    assert [row.cells[0] for row in rows[: len(listed)]] == [p.id for p in (*found.front, *found.uncertain)]
    assert all(len(row.cells) == len(COLUMNS) for row in rows)


def test_table_prints_values_with_the_longer_arm() -> None:
    """Table prints values with the longer arm."""
    base = make_measurement(0.84, BASE_MS)
    view = make_view(0, baselines=[])
    cells = dict(zip(COLUMNS, table_rows(summarise(view))[0].cells, strict=True))
    assert cells["robust accuracy"] == f"84.0 ±{100 * (0.84 - base.robust_accuracy.low):.1f} %"
    assert cells["latency ms"] == "0.800 ±0.016"
    assert cells["speed-up"] == "1.00× ±0.02"
    assert cells["size"] == "1.2 MB"


def test_throughput_is_told_of_those_that_were_timed(view: RunView) -> None:
    """Final latencies alone hold it; without one there is nothing to tell."""
    assert throughput_note(summarise(view)) == ""
    first = estimate_frontier(view).front[0].id
    final = {first: make_latency(0.05, method="cascade"), "dense base": make_latency(0.8, method="cascade")}
    note = throughput_note(summarise(replace(view, latencies=final)))
    assert note == f"Images per second in batches of 64: {first} 40000 ±800, dense base 2500 ±50."


def test_notes_say_how_sure_and_by_what(view: RunView) -> None:
    """Before the choice, after it without and with fresh images, and where no point is sure enough."""
    assert confirmed_note(summarise(view)).startswith(
        "Probability to be on the true frontier of these trials (so far, by the images"
    )
    assert uncertain_note(summarise(view)).startswith(
        "May belong to the frontier too (probability below search.front_probability, 0.75;"
    )
    decided = replace(view, validation_rounds=[decide(view, 0)])
    assert "and final latencies; fresh images chose nothing): 11.0 100 %" in confirmed_note(summarise(decided))
    many = replace(decided, spec=view.spec | {"data": view.spec["data"] | {"num_fresh": 900}})
    last = ValidationRound(2, {"11.0": 1.0}, ("11.0",))
    told = confirmed_note(
        summarise(
            replace(
                many, validation_rounds=[*decided.validation_rounds, ValidationRound(1, {"11.0": 1.0}, ("11.0",)), last]
            )
        )
    )
    assert "(by the images that ranked the trials and 600 fresh ones): 11.0 100 %." in told
    unsure = ValidationRound(0, {"11.0": 0.4, "15.0": 0.3}, ("11.0", "15.0"))
    told = confirmed_note(summarise(replace(view, validation_rounds=[unsure])))
    assert told.startswith("No point is on the true frontier of these trials with a probability of 0.75")
    assert told.endswith("the surest is shown: 11.0 40 %.")
    assert confirmed_note(summarise(make_view(0))) == uncertain_note(summarise(make_view(0))) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(12.345, "12.3× ±0.2"), (1234.5, "1234× ±25"), (0.0412, "0.0412× ±0.0008")]
)
def test_digits_of_a_value_set_those_of_its_arm(value: float, text: str) -> None:
    """Digits of a value set those of its arm."""
    assert with_arm(Interval(value, value * 0.98, value * 1.02), "×") == text


def test_sizes_and_counts_read_in_thousands() -> None:
    """Sizes and counts read in thousands."""
    assert (in_bytes(999), in_bytes(148_200), in_bytes(45_000_000)) == ("999 B", "148 kB", "45 MB")
    assert (in_macs(9_000_000), in_macs(557_000_000), in_macs(999_999)) == ("9 M", "557 M", "1 M")
