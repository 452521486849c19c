"""The names of torchvision's classifiers, read from its files: a check loads neither torch nor torchvision."""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from eed_search.core.names import TORCHVISION

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


def unknown(name: str) -> list[str]:
    """Say that a model is none of torchvision's classifiers, with the closest one.

    Args:
        name: As `model.name` gives it.

    Returns:
        One line; none for a known one, and for any other kind of model.
    """
    wanted, known = name.removeprefix(TORCHVISION), classifiers()
    if not name.startswith(TORCHVISION) or wanted in known:
        return []
    if not known:
        return [f"model.name: {name} needs torchvision, which is not installed"]
    close = difflib.get_close_matches(wanted, known, n=1)
    hint = f"did you mean {TORCHVISION}{close[0]}? " if close else ""
    return [f"model.name: {name} is none of torchvision's classifiers; {hint}known: {', '.join(known)}"]
