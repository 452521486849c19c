"""Spares a process torch's compiler, which nothing here uses: 1.5 to 2.5 s of its start and 71 MiB of its memory.

Torch marks what its compiler must leave alone by a wrapper that loads the compiler at the first call (`torch/_compile.py`).
Where that is a plain call in the end, the wrapper can be told beforehand; where torch has it otherwise, nothing changes.
"""

from __future__ import annotations

import sys
from typing import Any

from torch.utils import flop_counter

_KNOWN = "__dynamo_disable"  # where the wrapper keeps what it calls


def spare_compiler() -> None:
    """Let the counter of operations work without it."""
    if "torch._dynamo" in sys.modules:
        return
    for kind in [value for value in vars(flop_counter).values() if isinstance(value, type)]:
        for value in list(vars(kind).values()):
            _spare(value)


def _spare(function: Any) -> None:
    inner = getattr(function, "__wrapped__", None)
    code = getattr(getattr(function, "__code__", None), "co_filename", "")
    if inner is not None and code.endswith("_compile.py") and not hasattr(inner, _KNOWN):
        setattr(inner, _KNOWN, inner)
