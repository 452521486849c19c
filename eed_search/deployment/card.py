"""What a bundle says of itself: its claims as lines of a table, and its robust accuracies, each with its badge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BADGES = ("checked", "claim")  # what `eed-search attack` found, beside the search's own `proxy`
_MOST_NAMED = 12  # classes


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


def table(manifest: Mapping[str, Any], claims: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write what a person wants to know as lines of one table; what was not measured has no line.

    Args:
        manifest: The bundle's.
        claims: As exported.
    """
    names, rule = [_plain(name) for name in manifest["class_names"]], manifest["preprocessing"]
    shown = ", ".join(names if len(names) <= _MOST_NAMED else [*names[: _MOST_NAMED - 1], f"… {names[-1]}"])
    found = [
        ("answers", f"one of {len(names)} classes: {shown}"),
        (
            "takes",
            f"PNG and JPEG files, or arrays; {rule['colour']}, {rule['height']}×{rule['width']}: turned as EXIF says, scaled"
            f" ({rule['filter']}) {rule['resize']}, {rule['crop']} is cut out, pixels in 0..1",
        ),
        (
            "team",
            f"{len(manifest['members'])} network{'' if len(manifest['members']) == 1 else 's'}; {_stop(manifest)}",
        ),
    ]
    for one in robust_accuracies(claims):
        badge = one.get("badge") or "proxy"
        meaning = {"proxy": " It ranked the search's points; it is no claim."}.get(badge, "")
        found.append((f"robust accuracy, badge `{badge}`", f"{_with_all(one)}.{meaning}"))
    on = claims.get("difference_to_base_on")
    if isinstance(on, Mapping) and (than := _interval(claims.get("difference_to_base"), 100, " points")):
        attack = "attacked at tier 1" if on.get("source") == "checked" else "under the search's attack"
        found.append(
            (
                "against the dense base",
                f"{than} of robust accuracy on {on.get('num_images')} fresh images that chose nothing, {attack}",
            )
        )
    if clean := _interval(claims.get("clean_accuracy"), 100, " %"):
        found.append(("clean accuracy", f"{clean} of {claims['clean_accuracy'].get('num_samples', '?')} images"))
    latency = _latency(claims)
    if took := _interval(latency.get("latency_ms"), 1, " ms"):
        found.append(("latency", f"{took}, one image at a time{_machine(claims, manifest)}"))
    if speed := _interval(latency.get("speedup"), 1, " ×"):
        how = "one plain `session.run`" if latency.get("denominator") == "plain" else "run through this script"
        found.append(("speed-up", f"{speed} over the dense base ({how}); under attack {_under_attack(claims)}"))
    size, macs = claims.get("size_bytes"), claims.get("macs")
    if isinstance(size, int | float):
        work = ""
        if isinstance(macs, int | float):
            work = f"; {macs / 1e6:,.2f} million multiply-accumulates for an average image"
        found.append(("size", f"{size / 1e3:,.0f} kB{work}"))
    found.append(
        (
            "limits",
            "robust means: right for every change of each pixel by at most eps that the attacks found; nothing is said of other"
            " changes. The latency is that machine's.",
        )
    )
    return [(key, value.replace("|", "\\|").replace("\n", " ")) for key, value in found]


def _stop(manifest: Mapping[str, Any]) -> str:
    gate = manifest["gate"]
    if len(manifest["members"]) == 1:
        return "no gate"
    stop = {
        "threshold": f"its stop probability reaches {gate['threshold']:g}",
        "map": "no later one can win",
        "margin": f"the best class leads the second by {gate['threshold']:g} in the mean of their logits",
    }[gate["rule"]]
    return f"asked in order, the gate stops as soon as {stop}"


def _latency(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    return found if isinstance(found := claims.get("latency"), Mapping) else {}


def _under_attack(claims: Mapping[str, Any]) -> str:
    attacked = claims.get("attacked_speedup")
    return "not measured" if attacked is None else f"{attacked:.2f} ×"


def _machine(claims: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    machine = claims.get("machine")
    parts = [str(machine)] if machine else []
    if version := manifest.get("versions", {}).get("onnxruntime"):
        parts.append(f"onnxruntime {version}")
    if threads := claims.get("threads"):
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    return "".join(f", {part}" for part in parts)


def _interval(value: object, scale: float, unit: str) -> str:
    if not isinstance(value, Mapping) or not {"value", "low", "high"} <= value.keys():
        return ""
    middle, low, high = (f"{scale * float(value[end]):.4g}" for end in ("value", "low", "high"))
    return f"{middle}{unit} (95 % interval {low} to {high}{unit})"


def claim_lines(claims: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what is claimed: each robust accuracy with its badge, and the speed-up with what an attack leaves."""
    found = [
        f"robust, badge `{one['badge']}`: {_with_all(one)}" for one in robust_accuracies(claims) if one.get("badge")
    ]
    if isinstance(speedup := _latency(claims).get("speedup"), Mapping):
        found.append(f"speed-up {speedup['value']:.2f} ×, attacked {_under_attack(claims)}")
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


def _plain(name: object) -> str:
    """Write control characters out."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(name))
