"""The frontier's table: its rows, and how numbers read in it."""

from dataclasses import replace

import pytest

from eed_search.core.ledger import RunView
from eed_search.core.points import frontier
from eed_search.core.records import Interval
from eed_search.tracking.table import COLUMNS, table_rows, throughput_note
from eed_search.tracking.text import in_bytes, in_macs, with_arm
from tests.tracking.factories import BASE_MS, make_latency, make_measurement, make_view


@pytest.fixture(scope="module")
def view() -> RunView:
    """A finished search."""
    return make_view()


def test_table_lists_frontier_then_base_then_controls(view: RunView) -> None:
    """Table lists frontier then base then controls."""
    rows = table_rows(view)
    assert [row.kind for row in rows] == ["point"] * len(frontier(view)) + ["base"] + ["control"] * 2
    assert all(len(row.cells) == len(COLUMNS) for row in rows)


def test_table_prints_values_with_the_longer_arm() -> None:
    """Table prints values with the longer arm."""
    base = make_measurement(0.84, BASE_MS)
    view = make_view(0, controls=[])
    cells = dict(zip(COLUMNS, table_rows(view)[0].cells, strict=True))
    assert cells["robust accuracy"] == f"84.0 ±{100 * (0.84 - base.robust_accuracy.low):.1f} %"
    assert cells["latency ms"] == "0.800 ±0.016"
    assert cells["speed-up"] == "1.00× ±0.02"
    assert cells["size"] == "1.2 MB"


def test_throughput_is_told_of_those_that_were_timed(view: RunView) -> None:
    """Final latencies alone hold it; without one there is nothing to tell."""
    assert throughput_note(view) == ""
    first = frontier(view)[0].id
    final = {first: make_latency(0.05, method="cascade"), "dense base": make_latency(0.8, method="cascade")}
    note = throughput_note(replace(view, latencies=final))
    assert note == f"Images per second in batches of 64: {first} 40000 ±800, dense base 2500 ±50."


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
