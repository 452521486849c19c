"""`eed-search fetch`: a search's ledger from shared storage, so that this machine can show, export or resume it."""

from __future__ import annotations

from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.result import command, where
from eed_search.core.errors import SpecError
from eed_search.runs.ledger import read_run
from eed_search.storage.shared_storage import Storage


def fetch(run: str, *, storage: str | None, home: Path) -> None:
    """Bring a search here and say what can be done with it.

    Args:
        run: Its name.
        storage: URL of the shared storage.
        home: The folder that is to hold the search.

    Raises:
        SpecError: If no storage is named.
        RunError: If the storage holds no such search.
        StoreError: If the storage cannot be reached, or the home cannot be written to.
    """
    folder = bring(run, storage, home)
    view = read_run(folder)
    say(f"{view.name}: {len(view.trials)} trials, {view.state}; its ledger lies in {folder}")
    say(f"show    {command('report')} {view.name}{where(home)}")
    say(f"go on   {command('resume')} {view.name}{where(home)}")


def bring(run: str | None, storage: str | None, home: Path) -> Path:
    """Bring the newest copy of a search into a home, unless what lies there is as new.

    Raises:
        SpecError: If no storage or no search is named.
        RunError: If the storage holds no such search.
        StoreError: If the storage cannot be reached, or the home cannot be written to.
    """
    from eed_search.runs.replicas import Copies

    if storage is None:
        raise SpecError(["--storage: names no storage; give its URL, such as s3://bucket/folder"])
    if run is None:
        raise SpecError(["RUN: is needed with --storage; `eed-search fetch` without a right name lists those there"])
    return Copies(Storage(storage), run).fetch(home.expanduser().resolve())
