"""One thing that the doctor looked at: how it is, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`; `note`: it works, with a limit worth knowing; `wrong`: something will not work,
            or is not safe.
        what: What was looked at.
        text: What was found.
        fix: What to do; empty where nothing is to be done.
    """

    level: Level
    what: str
    text: str
    fix: str = ""
