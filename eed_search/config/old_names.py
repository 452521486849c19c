"""Old names of the public interface: each still works, and where a person wrote it, one line says the new one.

What moved inside the code has no entry here: only keys of files and fields of JSON, which others' files and scripts hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eed_search.core.errors import SpecError

KEYS = {"controls": "baselines"}
"""Sections of a search-space file: old name to new."""
FIELDS = {
    "baselines": "controls",
    "baseline": "control",
    "beats_baselines": "beats_controls",
    "uncertain": "may_belong",
    "validation_rounds": "looks",
    "baselines and trials": "controls and trials",
    "revalidation": "finals",
    "baseline_recipe": "control_recipe",
    "baseline_step_s": "control_step_s",
}
"""Fields of JSON output: new name to old; both are written until version 1."""


def with_new_keys(
    plain: Mapping[str, Any], source: str, note: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Rename a file's sections that are called by an old name, in their place.

    Args:
        plain: What the YAML holds; unchanged.
        source: How messages call the file.
        note: Told in one line of each that was renamed.

    Raises:
        SpecError: If a section is there under both of its names.
    """
    if twice := [(old, new) for old, new in KEYS.items() if old in plain and new in plain]:
        raise SpecError(
            [f"{source}: {old}: is the old name of {new}, which is there too; keep {new} alone" for old, new in twice]
        )
    for old in KEYS.keys() & plain.keys():
        note(f"{source}: {old} is called {KEYS[old]} now; the old name goes with version 1")
    return {KEYS.get(key, key): value for key, value in plain.items()}


def with_old_fields(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Copy JSON-ready facts, each renamed field there under its old name too."""
    copied = {key: _below(value) for key, value in facts.items()}
    return copied | {FIELDS[key]: value for key, value in copied.items() if key in FIELDS}


def _below(value: Any) -> Any:
    if isinstance(value, Mapping):
        return with_old_fields(value)
    return [_below(one) for one in value] if isinstance(value, list) else value
