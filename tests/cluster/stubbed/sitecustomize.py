"""On PYTHONPATH of a cluster's nodes: `eed_search.trial` is the stub that trains nothing. All else is real."""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

_STUB = Path(__file__).parents[2] / "search" / "stub_pipeline.py"


class _Stub(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "eed_search.trial":
            return importlib.util.spec_from_file_location(name, _STUB)
        return None


sys.meta_path.insert(0, _Stub())
