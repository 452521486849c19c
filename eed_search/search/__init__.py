"""The search: Optuna proposes, Ray runs the trials, the ledger keeps what happened.

Names are loaded when they are first used, so that the command line can show its help without
Ray or Optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eed_search.search.driver import run
    from eed_search.search.listener import Listener, Silent, Status
    from eed_search.search.pareto_racing import ParetoRacing
    from eed_search.search.study_searcher import StudySearcher
    from eed_search.search.workers import LocalWorkers, Pipeline, Workers

__all__ = [
    "Listener",
    "LocalWorkers",
    "ParetoRacing",
    "Pipeline",
    "Silent",
    "Status",
    "StudySearcher",
    "Workers",
    "run",
]

_HOMES = {
    "Listener": "eed_search.search.listener",
    "Silent": "eed_search.search.listener",
    "Status": "eed_search.search.listener",
    "LocalWorkers": "eed_search.search.workers",
    "Pipeline": "eed_search.search.workers",
    "Workers": "eed_search.search.workers",
    "ParetoRacing": "eed_search.search.pareto_racing",
    "StudySearcher": "eed_search.search.study_searcher",
    "run": "eed_search.search.driver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
