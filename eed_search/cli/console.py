"""How lines reach the screen: plain text that can be copied, whole words in 80 columns."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """The console for tables and progress; 80 columns where the output is not a terminal."""
    from rich.console import Console

    return Console(highlight=False)


def say(line: str = "") -> None:
    """Print one line as it is: never wrapped, so that paths and commands can be copied; shown at once."""
    print(line, flush=True)


def is_terminal() -> bool:
    """Say whether a person sees the output as it is written."""
    return sys.stdout.isatty()
