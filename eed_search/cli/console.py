"""How lines reach the screen: plain text that can be copied, whole words in 80 columns."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from eed_search.cli.streams import encodes_all
from eed_search.core.texts import visible

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """The console for tables and progress; 80 columns where the output is not a terminal."""
    from rich.console import Console

    return Console(highlight=False)


def say(line: str = "") -> None:
    """Print one line: never wrapped, so that paths and commands can be copied; shown at once; nothing in it steers."""
    print(visible(line), flush=True)


def as_text(plain: Any, *, indent: int | None = 1, allow_nan: bool = False) -> str:
    """Write what other programs read as JSON: exactly, whatever standard output can encode."""
    return json.dumps(plain, indent=indent, ensure_ascii=not encodes_all(), allow_nan=allow_nan)


def is_terminal() -> bool:
    """Say whether a person sees the output as it is written."""
    return sys.stdout.isatty()
