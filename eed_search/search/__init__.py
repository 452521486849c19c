"""The search: Optuna proposes, Ray runs the trials, the ledger keeps what happened.

Names are loaded when they are first used, so that the command line can show its help without
Ray or Optuna.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eed_search.search.driver import run
    from eed_search.search.execution.workers import LocalWorkers, Pipeline, Workers
    from eed_search.search.listener import Listener, Silent, Status

__all__ = [
    "Listener",
    "LocalWorkers",
    "Pipeline",
    "Silent",
    "Status",
    "Workers",
    "run",
]

_HOMES = {
    "Listener": "eed_search.search.listener",
    "Silent": "eed_search.search.listener",
    "Status": "eed_search.search.listener",
    "LocalWorkers": "eed_search.search.execution.workers",
    "Pipeline": "eed_search.search.execution.workers",
    "Workers": "eed_search.search.execution.workers",
    "run": "eed_search.search.driver",
}


_MOVED = {"ParetoRacing": "eed_search.tune", "StudySearcher": "eed_search.tune"}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        text = f"eed_search.search.{name} is eed_search.tune.{name} now; the old name goes with version 1"
        warnings.warn(text, FutureWarning, stacklevel=2)
        return getattr(import_module(_MOVED[name]), name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
