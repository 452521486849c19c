"""The names of torchvision's classifiers, read from its files: a check loads neither torch nor torchvision."""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

TORCHVISION = "torchvision:"
"""Before the name of one of torchvision's classifiers, as a model."""

_BUILDER = re.compile(r"^@register_model\((?:name=\"(\w+)\")?\).*?^def (\w+)\(", re.MULTILINE | re.DOTALL)


@cache
def classifiers() -> tuple[str, ...]:
    """Name torchvision's classifiers; none where it is not installed."""
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return ()
    folder = Path(found.submodule_search_locations[0]) / "models"
    files = sorted(folder.glob("*.py"))  # segmentation, detection and video have folders of their own
    return tuple(
        sorted(named or function for file in files for named, function in _BUILDER.findall(file.read_text("utf-8")))
    )


def problem(name: str) -> str:
    """Say what is wrong with `torchvision:NAME` as a model, with the closest name that there is.

    Returns:
        One line; empty for a classifier of torchvision's.
    """
    wanted, known = name.removeprefix(TORCHVISION), classifiers()
    if not known:
        return f"{name!r} needs torchvision, which is not installed"
    if wanted in known:
        return ""
    close = difflib.get_close_matches(wanted, known, n=1)
    hint = f"did you mean {TORCHVISION}{close[0]}?" if close else f"known: {', '.join(known)}"
    return f"{name!r} is none of torchvision's classifiers; {hint}"
