"""How numbers, intervals and teams read in tables, on the page and in run names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from eed_search.config.params import ParamValue, TrialParams
from eed_search.runs.cost import attacked_speedup
from eed_search.runs.records import Accuracy, Interval, Measurement, RobustAccuracy


def team_title(params: Mapping[str, ParamValue]) -> str:
    """Name a trial's team in a few words, such as `nis-50 bnsf-25`; empty if the parameters name none."""
    try:
        return TrialParams.from_flat(params).title()
    except (KeyError, ValueError):
        return ""


def states_line(counts: Mapping[str, int]) -> str:
    """Write trials by state, from `RunView.num_trials`, such as `12 done, 3 pruned, 2 to run again`; empty if there are none."""
    return ", ".join(f"{number} {_STATE_WORDS.get(state, state)}" for state, number in counts.items() if number)


_STATE_WORDS = {"paused": "waiting", "stopped": "to run again", "out_of_time": "out of time"}


def per_cent(accuracy: Accuracy | RobustAccuracy) -> str:
    """Print an accuracy with the longer arm of its interval, such as `83.0 ±4.6 %`."""
    return f"{100 * accuracy.value:.1f} ±{100 * arm(accuracy):.1f} %"


def with_arm(interval: Interval, unit: str = "", digits: int = 3) -> str:
    """Print a number to `digits` significant digits with the longer arm of its interval, such as `3.08× ±0.06`."""
    power = math.floor(math.log10(abs(interval.value))) if interval.value else 0
    decimals = max(0, digits - 1 - power)
    return f"{interval.value:.{decimals}f}{unit} ±{arm(interval):.{decimals}f}"


def times(factor: float | None) -> str:
    """Print a factor, such as `2.13×`; a dash where it was not measured."""
    return "–" if factor is None else f"{factor:.2f}×"


def how_fast(m: Measurement) -> str:
    """Print a speed-up with what an attack leaves of it, such as `2.80 ±0.04 × as fast (2.13× attacked)`."""
    attacked = attacked_speedup(m)
    return f"{with_arm(m.latency.speedup)} × as fast" + (f" ({times(attacked)} attacked)" if attacked else "")


def arm(interval: Interval | Accuracy | RobustAccuracy) -> float:
    """Give the longer arm of an interval, so that value ± arm covers it."""
    return max(interval.value - interval.low, interval.high - interval.value)


def in_bytes(size: int) -> str:
    """Print a size, such as `148 kB` (1 kB is 1000 bytes)."""
    return _scaled(size, ("B", "kB", "MB", "GB"))


def in_macs(macs: int) -> str:
    """Print a count of multiply-accumulates, such as `3.21 M`."""
    return _scaled(macs, ("", "k", "M", "G", "T"))


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the names of nested tables by dots; lists become JSON text, none an empty text."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif isinstance(value, list | tuple):
            flat[prefix + key] = json.dumps(value)
        else:
            flat[prefix + key] = "" if value is None else value
    return flat


def signed(points: float) -> str:
    """Print a difference in percentage points with its sign, such as `−2.0`."""
    return f"{points:+.1f}".replace("-", "−")


def _scaled(number: float, units: tuple[str, ...]) -> str:
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {units[power]}".strip()
