"""`eed-search report`: a search's result again, for people or as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.elsewhere import elsewhere, flags
from eed_search.cli.homes import open_run
from eed_search.cluster.where import Wish
from eed_search.search.lock import run_state


def report(run: str | None, *, home: Path, as_json: bool, wish: Wish) -> None:
    """Print a search's result.

    Raises:
        RunError: If there is no such search.
    """
    if there := elsewhere(wish, home):
        there.ask(["report", *([run] if run else []), *flags(as_json=as_json)])
        return
    folder, view = open_run(home, run)
    view = replace(view, state=run_state(folder, view))  # a killed search says no end of itself
    if as_json:
        from eed_search.tracking.report import as_json as facts

        say(json.dumps(facts(view), indent=1, ensure_ascii=False, allow_nan=False))
        return
    from eed_search.cli.result import show

    show(view, folder, home)
