"""Today's key of every stage: what users have in their stores must be found by later versions.

After a change that is meant, and says so: python -m tests.pins.keys
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eed_search.pipeline.stage import VERSIONS, versioned
from tests.cli.calling import ROOT
from tests.pins.keys import DATA, KEYS, data_keys, keys_of, space_names

PINNED: dict[str, dict[str, str]] = json.loads(KEYS.read_text(encoding="utf-8"))
_MOST_SHOWN = 8


@pytest.mark.parametrize("space", space_names())
def test_every_stage_keeps_its_key(space: str, tmp_path: Path) -> None:
    """A key changes only where the stage's result does; one that changes makes users compute it again."""
    found, settings = keys_of(space, tmp_path)
    changed = [label for label, key in found.items() if PINNED[space].get(label) != key]
    gone = [label for label in PINNED[space] if label not in found]
    assert not changed + gone, message(space, changed, gone, found, settings)


def message(space: str, changed: list[str], gone: list[str], found: dict[str, str], settings: dict[str, Any]) -> str:
    """Say which stages of a space have other keys, those that others are made from first."""
    lines = [f"{space}: {label}: was {PINNED[space].get(label, 'not pinned')}, is {found[label]}" for label in changed]
    lines += [f"{space}: {label}: was {PINNED[space][label]}, is not asked for" for label in gone]
    more = [f"and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else []
    now = settings.get(found[changed[0]]) if changed else None
    shown = [f"{changed[0]} depends on {json.dumps(now, sort_keys=True)}"] if now is not None else []
    advice = "If the results differ too, say so in the commit, and run: python -m tests.pins.keys"
    return "\n".join([*lines[:_MOST_SHOWN], *more, *shown, advice])


def test_every_stage_is_pinned() -> None:
    """Whatever the code keeps in a store, by its name with its version; and none is named anywhere else."""
    named = {
        name: file
        for file in (ROOT / "eed_search").rglob("*.py")
        for name in re.findall(r'"([a-z_]+\.[0-9]+)[/"]', file.read_text(encoding="utf-8"))
    }
    assert named == {}
    pinned = {key.partition("/")[0] for space in space_names() for key in PINNED[space].values()}
    assert {name for name in pinned if "." in name} == {versioned(name) for name in VERSIONS}


@pytest.mark.parametrize("space", DATA)
def test_real_images_keep_their_key(space: str) -> None:
    """The bytes read and how they are split: a part of every other key."""
    folder = DATA[space]
    if folder is not None and not folder.is_dir():
        pytest.skip("needs CIFAR-10 as npz beside the checkout, in ../shared/data/cifar10")
    assert data_keys(space) == PINNED["data"][space], f"{space}: the images, or their splits, are named otherwise"
