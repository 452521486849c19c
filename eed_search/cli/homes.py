"""Where searches lie: a home holds one folder for each, and the latest is the default."""

from __future__ import annotations

from pathlib import Path

from eed_search.core.errors import RunError
from eed_search.core.ledger import FILE_NAME, Ledger, RunView, read_run


def run_folders(home: Path) -> list[Path]:
    """List the searches of a home, the latest started last."""
    if not home.is_dir():
        return []
    return sorted((ledger.parent for ledger in home.glob(f"*/{FILE_NAME}")), key=_started)


def find_run(home: Path, run: str | None) -> Path:
    """Find a search's folder.

    Args:
        home: The folder that holds every search.
        run: Its name, or its folder; none takes the latest.

    Raises:
        RunError: If there is none; names those that are there.
    """
    folders = run_folders(home)
    if run is None:
        if not folders:
            raise RunError(
                f"{home}: holds no search; start one with `eed-search launch`, or give its folder with --home"
            )
        return folders[-1]
    for folder in (home / run, Path(run)):
        if (folder / FILE_NAME).is_file():
            return folder
    there = ", ".join(folder.name for folder in folders[-10:]) or "none"
    raise RunError(f"{run}: no such search in {home}; there: {there}. Give another name or --home")


def open_run(home: Path, run: str | None) -> tuple[Path, RunView]:
    """Find a search and read it.

    Raises:
        RunError: If there is none, or its ledger is not readable.
    """
    folder = find_run(home, run)
    return folder, read_run(folder)


def _started(folder: Path) -> float:
    """Give the time of the first event; an unreadable ledger counts as the oldest."""
    try:
        with Ledger(folder / FILE_NAME) as ledger:
            return next((event.at for event in ledger.events()), 0.0)
    except (RunError, ValueError):
        return 0.0
