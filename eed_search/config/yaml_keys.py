"""YAML in which no key is lost: the safe loader of every file that a person writes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key given twice (the last would win, unseen) and a list or table as a key."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Read a table.

        Raises:
            yaml.YAMLError: Names the key and its line.
        """
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                raise yaml.YAMLError(f"a list or table stands as a key, line {key.start_mark.line + 1}")
            if name in seen:
                raise yaml.YAMLError(f"the key {name!r} stands twice, line {key.start_mark.line + 1}")
            seen.add(name)
        return super().construct_mapping(node, deep)
