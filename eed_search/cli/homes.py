"""Where searches lie: a home holds one folder for each, and the latest is the default."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eed_search.core.errors import RunError, SpecError
from eed_search.runs.home import SPACE_FILE, check_home
from eed_search.runs.ledger import FILE_NAME, Ledger, RunView, read_run
from eed_search.runs.ledger_file import is_lost


@dataclass(frozen=True)
class Found:
    """A search of a home.

    Attributes:
        folder: Where it lies.
        view: What its ledger tells.
        state: `running`, `interrupted`, `stopped`, `finished`, `failed` or `cancelled`.
    """

    folder: Path
    view: RunView
    state: str

    @classmethod
    def at(cls, folder: Path) -> Found:
        """Read a search; of one that was killed before it had a ledger there is only what it was to be.

        Raises:
            RunError: If its ledger is not readable.
            SpecError: If it has none, and its search-space file is wrong by now.
        """
        from eed_search.runs.run_folder import only_begun
        from eed_search.runs.run_lock import run_state

        view = _as_begun(folder) if only_begun(folder) else read_run(folder)
        return cls(folder, view, run_state(folder, view))


def found_runs(home: Path) -> list[Found]:
    """Read the searches of a home, those without a ledger too, the latest started last; what cannot be read is left out."""
    found = []
    for folder in sorted([*run_folders(home), *_begun(home)], key=_started):
        with suppress(RunError, SpecError):
            found.append(Found.at(folder))
    return found


def find_by_state(home: Path, run: str | None, states: Container[str], what: str) -> Found:
    """Find the search that a command is meant for: the one that is named, or the latest in a fitting state.

    Args:
        home: The folder that holds every search.
        run: Its name, or its folder; none takes the latest that fits.
        states: What fits where none is named.
        what: How the message calls those, such as `running`.

    Raises:
        RunError: If there is none; says what there is.
    """
    if run is not None:
        return Found.at(find_run(home, run))
    there = found_runs(home)
    if not there:
        find_run(home, None)
    fitting = [one for one in there if one.state in states]
    if not fitting:
        names = [f"{one.folder.name} ({one.state})" for one in there[-10:]]
        names += [f"{folder.name} (damaged: `eed-search recover {folder.name}`)" for folder in damaged_runs(home)]
        shown = ", ".join(names) or "none that can be read"
        raise RunError(f"{home}: no search is {what}; there: {shown}. Name one of them")
    return fitting[-1]


def run_folders(home: Path) -> list[Path]:
    """List the searches of a home that have a ledger, or had one that is gone, the latest started last."""
    if not home.is_dir():
        return []
    return sorted(sorted(folder for folder in home.iterdir() if holds_search(folder)), key=_started)


def holds_search(folder: Path) -> bool:
    """Whether a folder is that of a search that has a ledger, or had one that is gone."""
    return (folder / FILE_NAME).is_file() or (folder.is_dir() and is_lost(folder / FILE_NAME))


def damaged_runs(home: Path) -> list[Path]:
    """List the searches of a home whose ledger is gone or damaged; one that only another version reads is neither."""
    return [folder for folder in run_folders(home) if _is_damaged(folder)]


def _is_damaged(folder: Path) -> bool:
    try:
        read_run(folder)
    except RunError as error:
        return "eed-search recover" in str(error)
    return False


def find_run(home: Path, run: str | None, *, or_prefix: bool = False) -> Path:
    """Find a search's folder; by its name also that of a search that was killed before it had a ledger.

    Args:
        home: The folder that holds every search.
        run: Its name, or its folder; none takes the latest that has a ledger, or else the latest.
        or_prefix: Whether the beginning of one name alone is enough, as for whoever only reads.

    Raises:
        RunError: If there is none, or several begin so; names those that are there.
        SpecError: If it lies where no search can.
    """
    from eed_search.runs.run_folder import only_begun

    folders = run_folders(home)
    if run is None:
        if not (folders := folders or _begun(home)):
            raise RunError(
                f"{home}: holds no search; start one with `eed-search launch`, or give its folder with --home"
            )
        return folders[-1]
    for folder in (home / run, Path(run)):
        if holds_search(folder) or only_begun(folder):
            check_home(folder.parent)
            return folder
    alike = [folder for folder in [*folders, *_begun(home)] if or_prefix and run and folder.name.startswith(run)]
    if len(alike) == 1:
        check_home(home)
        return alike[0]
    if alike:
        raise RunError(
            f"{run}: begins the names of {', '.join(folder.name for folder in alike[-10:])}; give more of one"
        )
    there = ", ".join(folder.name for folder in folders[-10:]) or "none"
    raise RunError(f"{run}: no such search in {home}; there: {there}. Give another name or --home")


def open_run(home: Path, run: str | None) -> tuple[Path, RunView]:
    """Find a search and read it; the beginning of one name alone is enough.

    Raises:
        RunError: If there is none, or its ledger is not readable.
    """
    folder = find_run(home, run, or_prefix=True)
    if not holds_search(folder):
        raise RunError(
            f"run {folder.name}: its driver was killed before anything was measured; `eed-search resume {folder.name}`"
            " begins it"
        )
    return folder, read_run(folder)


def _begun(home: Path) -> list[Path]:
    """List the searches of a home that were killed before they had a ledger, the latest started last."""
    from eed_search.runs.run_folder import only_begun

    return sorted((file.parent for file in home.glob(f"*/{SPACE_FILE}") if only_begun(file.parent)), key=_started)


def _started(folder: Path) -> float:
    """Give the time of the first event, or of the search-space file where there is none; an unreadable ledger is the oldest."""
    if not (folder / FILE_NAME).exists():
        there = folder / SPACE_FILE
        return (there if there.exists() else folder).stat().st_mtime
    try:
        with Ledger(folder / FILE_NAME) as ledger:
            return next((event.at for event in ledger.events()), 0.0)
    except (RunError, ValueError):
        return 0.0


def _as_begun(folder: Path) -> RunView:
    """Give the view of a search that has written its file and nothing else yet."""
    from eed_search.config.loader import load

    return RunView(spec=load(folder / SPACE_FILE).to_plain())
