"""The search: Optuna proposes, Ray runs the trials, the ledger keeps what happened.

Names are loaded when they are first used, so that the command line can show its help without
Ray or Optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eed_search.search.driver import Pipeline, run
    from eed_search.search.listener import Listener, Silent, Status

__all__ = ["Listener", "Pipeline", "Silent", "Status", "run"]

_HOMES = {
    "Listener": "eed_search.search.listener",
    "Silent": "eed_search.search.listener",
    "Status": "eed_search.search.listener",
    "Pipeline": "eed_search.search.driver",
    "run": "eed_search.search.driver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
