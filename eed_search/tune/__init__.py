"""ParetoRacing and StudySearcher for anybody's Ray Tune trainable: thin, over what `launch` runs itself.

Names are loaded when they are first used: ParetoRacing needs no Optuna.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eed_search.tune.pareto_racing import ParetoRacing
    from eed_search.tune.study_searcher import StudySearcher

__all__ = ["ParetoRacing", "StudySearcher"]

_PICKLED = {
    "eed_search.search.pareto_racing": "eed_search.tune.pareto_racing",
    "eed_search.search.study_searcher": "eed_search.tune.study_searcher",
    "eed_search.search.model": "eed_search.search.sampling.surrogate",
}
"""What Ray's checkpoints of earlier versions call our modules, for `Tuner.restore`: old name to new."""
_HOMES = {"ParetoRacing": "eed_search.tune.pareto_racing", "StudySearcher": "eed_search.tune.study_searcher"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    if name == "StudySearcher":  # it alone is pickled, by Ray and by itself
        for old, new in _PICKLED.items():
            sys.modules.setdefault(old, import_module(new))
    globals()[name] = value
    return value
