"""ParetoRacing and StudySearcher for anybody's Ray Tune trainable: thin, over what `launch` runs itself.

Names are loaded when they are first used: ParetoRacing needs no Optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eed_search.tune.pareto_racing import ParetoRacing
    from eed_search.tune.study_searcher import StudySearcher

__all__ = ["ParetoRacing", "StudySearcher"]

_HOMES = {"ParetoRacing": "eed_search.tune.pareto_racing", "StudySearcher": "eed_search.tune.study_searcher"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
