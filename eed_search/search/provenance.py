"""What a run was made from, as hashes: our code, the data's files, the machine; and what has changed since.

A resumed search must go on as the one that was begun. `Origin.now` is written down at the start;
`drift` compares.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from eed_search.config import plugins, registry
from eed_search.config.spec import Data, Spec
from eed_search.core.code import code_files as code_files
from eed_search.storage.store import sha256_of

_PACKAGES = ("eed-search", "torch", "onnxruntime", "ray", "optuna", "mlflow", "numpy")
_MOST_NAMED = 5


def origin(spec: Spec) -> dict[str, dict[str, str]]:
    """Hash what a run is made from.

    Returns:
        `code`, `data` and `plugins` (the user's own code), each from file name to `SHA-256:bytes`, in short.
    """
    return {"code": code_files(), "data": data_files(spec.data), "plugins": plugins.files(spec.plugins)}


def data_files(data: Data) -> dict[str, str]:
    """Hash the files that a source reads, by path below its folder; without reading an image."""
    place, patterns, digests = (
        registry.beside("source", data.source, key) for key in ("folder_of", "FILES", "digests")
    )
    root = (place(data) if place else None) or Path(data.path or "").expanduser()
    if digests is not None:
        return dict(digests(root))
    if patterns is None and data.path is None:
        return {}  # code that reads no folder: its own files are in `plugins`
    patterns = patterns or ("**/*",)
    files = [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
    return {str(path.relative_to(root)): _content(path) for path in files}


def _content(path: Path) -> str:
    return f"{sha256_of(path)[:16]}, {path.stat().st_size:,} bytes"


def versions() -> dict[str, str]:
    """Give the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine(num_cpus: float, num_gpus: float) -> dict[str, Any]:
    """Describe the machine that the latencies belong to."""
    return {"platform": platform.platform(), "processor": processor(), "num_cpus": num_cpus, "num_gpus": num_gpus}


@cache
def processor() -> str:
    """Give the processor's name, where the system tells it."""
    if sys.platform == "linux":
        with suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------- what has changed


def file_drift(what: str, before: Mapping[str, str], now: Mapping[str, str], *, contents: bool = False) -> list[str]:
    """Say which files differ, in one line or none.

    Args:
        what: How the line calls them.
        before: Hashes at the start; where there are none, nothing is known and nothing differs.
        now: Hashes now.
        contents: Whether to show the hashes too.
    """
    if not before or before == now:
        return []
    parts = []
    for verb, names in (
        ("changed", [n for n in before if n in now and before[n] != now[n]]),
        ("gone", [n for n in before if n not in now]),
        ("new", [n for n in now if n not in before]),
    ):
        shown = [
            f"{n} ({before[n]} → {now[n]})" if contents and verb == "changed" else n
            for n in sorted(names)[:_MOST_NAMED]
        ]
        more = len(names) - len(shown)
        if names:
            parts.append(f"{verb}: {', '.join(shown)}{f' and {more} more' if more else ''}")
    return [f"{what}: {'; '.join(parts)}"]


def spec_drift(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """Say which keys of a search-space file differ, one line each: `search.trials: 16 → 20`."""
    lines = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        where = f"{path}.{key}".lstrip(".")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += spec_drift(old, new, where)
        elif old != new:
            lines.append(f"{where}: {_shown(key, before)} → {_shown(key, now)}")
    return lines


def _shown(key: str, table: Mapping[str, Any]) -> str:
    return str(table[key]) if key in table else "(not there)"


def drift(
    facts: Mapping[str, Any], before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], spec: Spec
) -> list[str]:
    """Say what differs between a run's start and now: code, data, processor.

    Args:
        facts: What the run wrote down at its start.
        before: Its `origin` then.
        now: Its `origin` now.
        spec: The search.

    Returns:
        One line for each; none if it may go on as it was.
    """
    lines = []
    old = str(facts.get("versions", {}).get("eed-search", ""))
    new = versions().get("eed-search", "")
    if old and old != new:
        lines.append(f"eed-search: version {old} → {new}")
    lines += file_drift("eed-search's code", before.get("code", {}), now["code"])
    where = spec.data.path or spec.data.source
    lines += file_drift("plugins", before.get("plugins", {}), now.get("plugins", {}), contents=True)
    lines += file_drift(f"data ({where})", before.get("data", {}), now["data"], contents=True)
    was = str(facts.get("machine", {}).get("processor", ""))
    if was and was != processor():
        lines.append(f"processor: {was} → {processor()}; latencies would not compare")
    return lines


def version_notes(facts: Mapping[str, Any]) -> list[str]:
    """Name the libraries whose versions differ from those at the start; that is noted, not refused."""
    before, now = facts.get("versions", {}), versions()
    changed = [f"{n} {before[n]} → {now[n]}" for n in now if n in before and n != "eed-search" and before[n] != now[n]]
    return [f"resumed with other versions: {', '.join(changed)}"] if changed else []
