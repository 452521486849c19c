"""The reference of a search-space file's keys: it is what the code says, and it says something of every key."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from eed_search.config.spec import Range, Spec
from tests.cli.calling import ROOT

MAKE: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "make_keys.py"))
WRITTEN = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")


def keys(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, str | None]]:
    """List every key below a section with its description."""
    for name, info in section.model_fields.items():
        yield f"{path}{name}", info.description
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from keys(info.annotation, f"{path}{name}.")


def test_the_page_is_what_its_script_writes() -> None:
    """After a change of a key: python docs/make_keys.py."""
    assert MAKE["page"]() == WRITTEN


def test_every_key_is_explained() -> None:
    """In one line, and no two ways of reading one."""
    found = [*keys(Spec), *keys(Range)]
    assert [path for path, about in found if not about or "\n" in about] == []


def test_every_key_stands_on_the_page() -> None:
    """By itself, or in the list of those that a training run shares with the base's."""
    for path, _ in keys(Spec):
        above, _, name = path.rpartition(".")
        section = WRITTEN.partition(f"## `{above}`\n")[2].partition("\n## ")[0]
        shared = ".attack" in path and not path.startswith("base.")
        assert shared or f"`{path}`" in WRITTEN or f"`{name}`" in section.partition("\n| ")[0], path


def test_every_packaged_file_stands_on_the_page() -> None:
    assert set(MAKE["PACKAGED"]) == {file.stem for file in (ROOT / "search_spaces").glob("*.yaml")}
    assert all(f"| `{name}` | " in WRITTEN for name in MAKE["PACKAGED"])
