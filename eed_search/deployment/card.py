"""What a bundle says of itself: its claims as lines of a table, and its robust accuracies, each with its badge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_BADGES = ("checked", "claim")  # what `eed-search attack` found, beside the search's own `proxy`
_NOT_ROWS = frozenset({"under_attack", "attacked_speedup", "dense_base", *_BADGES})


def robust_accuracies(claims: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the robust accuracies that are claimed, each with everything it rests on.

    Args:
        claims: As exported; `checked` and `claim` where the point was attacked.

    Returns:
        One table each: `badge`, `value`, `low`, `high`, `num_samples`, `attack`, `eps`, and where it was said `seed`,
        `tier`, `split`, `attacked_speedup`, `reasons`. An invalid one has no value.
    """
    found: list[dict[str, Any]] = []
    if isinstance(own := claims.get("robust_accuracy"), Mapping):
        found.append({**own, "split": claims.get("split"), "attacked_speedup": claims.get("attacked_speedup")})
    for name in _BADGES:
        if isinstance(one := claims.get(name), Mapping):
            said = {key: one.get(key) for key in ("tier", "seed", "split", "attacked_speedup", "reasons")}
            figures = dict(one["robust_accuracy"])
            if one["badge"] == "invalid":
                figures |= {"value": None, "low": None, "high": None}
            found.append({**figures, **said})
    return found


def rows(claims: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write claims as lines of a table: a value with its interval is one line; the attacked speed-up follows the speed-up."""
    found = _rows({key: value for key, value in claims.items() if key not in _NOT_ROWS})
    attacked = claims.get("attacked_speedup")
    said = "not measured" if attacked is None else f"{attacked:.4g}"
    place = next((i for i, (name, _) in enumerate(found, start=1) if name == "latency: speedup"), None)
    if place is not None:
        found.insert(place, ("attacked speedup", f"{said}; under the slower of the attacks on accuracy and on cost"))
    for one in robust_accuracies(claims):
        if one.get("badge") not in (None, "proxy"):
            found.append((f"robust accuracy, badge `{one['badge']}`", _with_all(one)))
    base = claims.get("dense_base")
    if isinstance(base, Mapping):
        kept = ("clean_accuracy", "robust_accuracy", "macs", "size_bytes")
        measured = {key: value for key, value in base.get("measurement", {}).items() if key in kept}
        latency = base.get("measurement", {}).get("latency", {}).get("latency_ms")
        found += _rows({**measured, "latency_ms": latency}, "dense base: ")
    return found


def claim_lines(claims: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what is claimed: each robust accuracy with its badge, and the speed-up with what an attack leaves."""
    found = [
        f"robust, badge `{one['badge']}`: {_with_all(one)}" for one in robust_accuracies(claims) if one.get("badge")
    ]
    speedup = claims.get("latency", {}).get("speedup") if isinstance(claims.get("latency"), Mapping) else None
    if isinstance(speedup, Mapping):
        attacked = claims.get("attacked_speedup")
        left = "not measured" if attacked is None else f"{attacked:.2f} ×"
        found.append(f"speed-up {speedup['value']:.2f} ×, attacked {left}")
    return found


def _with_all(one: Mapping[str, Any]) -> str:
    if one.get("value") is None:
        return f"invalid, no figure ({'; '.join(one.get('reasons') or ())})"
    value, low, high = (100 * float(one[end]) for end in ("value", "low", "high"))
    seed = "" if one.get("seed") is None else f", seed {one['seed']}"
    images = f"{one['num_samples']} {one['split']} images" if one.get("split") else f"{one['num_samples']} images"
    speed = "" if one.get("attacked_speedup") is None else f"; attacked speed-up {one['attacked_speedup']:.2f} ×"
    return (
        f"{value:.1f} % (95 % interval {low:.1f} to {high:.1f} %) of {images}, {one['attack']}, eps"
        f" {one['eps']:.4g}{seed}{speed}"
    )


def _rows(claims: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in claims.items():
        if key.endswith("_hex") or value is None:
            continue
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
            scale, unit = (100, " %") if key.endswith("accuracy") or key == "difference_to_base" else (1, "")
            low, middle, high = (f"{scale * float(value[end]):.4g}" for end in ("low", "value", "high"))
            rest = ", ".join(
                f"{k.replace('_', ' ')} {_plain(v)}" for k, v in value.items() if k not in ("value", "low", "high")
            )
            found.append((name, f"{middle}{unit} (95 % interval {low} to {high}{unit}){f'; {rest}' if rest else ''}"))
        elif isinstance(value, Mapping):
            found += _rows(value, f"{name}: ")
        else:
            found.append((name, _plain(value)))
    return found


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(one) for one in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
