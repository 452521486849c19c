"""What a launch would find in its home: the name it would take, and what lies there; nothing is written.

A ledger is read from a copy: SQLite leaves files of its own beside one that it only reads.
"""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.core.errors import RunError
from eed_search.runs.ledger import FILE_NAME, RunView, read_run
from eed_search.runs.ledger_file import MARK_NAME, is_lost
from eed_search.runs.run_folder import check_name
from eed_search.runs.run_lock import noted
from eed_search.system.private import temporary_folder

if TYPE_CHECKING:
    from eed_search.config.spec import Spec


@dataclass(frozen=True)
class Preview:
    """The name that a launch would take.

    Attributes:
        name: It, or the one that was asked for and is taken.
        state: `free`; else how the run of that name stands, `damaged`, or `no search`.
        num_ended: Trials of that run that are finished.
        num_again: Trials that a resume would run again.
        num_trials: Trials that its file asks for.
    """

    name: str
    state: str = "free"
    num_ended: int = 0
    num_again: int = 0
    num_trials: int = 0

    def refusal(self, home: Path) -> str:
        """Say why a launch would be refused and what to do instead; empty where it would not."""
        advice = {
            "free": "",
            "no search": "",
            "running": f"watch it with `eed-search status {self.name} --watch`, or ",
            "damaged": f"take back what is sound with `eed-search recover {self.name}`, or ",
            "finished": f"add trials with `eed-search resume {self.name} --trials N`, or ",
        }.get(self.state, f"resume it with `eed-search resume {self.name}`, or ")
        if self.state == "free":
            return ""
        return (
            f"--name {self.name}: {home / self.name} exists already ({self.state}); {advice}choose another --name."
            " Nothing was changed"
        )


def preview(home: Path, spec: Spec, name: str | None) -> Preview:
    """Say which name a launch would take, and what it would find there.

    Args:
        home: Resolved.
        spec: The search.
        name: As asked for; none takes the first free one.

    Raises:
        RunError: If the name is not allowed, or `home` cannot be written to.
    """
    check_name(Path(os.devnull), name)  # the rules for names only: nothing lies below there
    _check_writable(home)
    if name is None:
        free = (f"{spec.name}-{i}" for i in itertools.count(1))
        return Preview(next(one for one in free if not (home / one).exists()))
    folder = home / name
    if not folder.exists():
        return Preview(name)
    try:
        view = read_untouched(folder)
    except RunError:
        there = (folder / FILE_NAME).exists() or is_lost(folder / FILE_NAME)
        return Preview(name, "damaged" if there else "no search")
    state = view.state
    if state == "running":
        driver = noted(folder)
        state = "running" if driver is not None and driver.alive() else "interrupted"
    stopped = len(view.without_result())
    return Preview(
        name,
        state,
        len(view.trials) - stopped,
        len(view.unfinished()) + stopped,
        int(view.spec.get("search", {}).get("trials", 0)),
    )


def read_untouched(folder: Path) -> RunView:
    """Read a run's ledger from a copy of its files, so that nothing in its folder changes.

    Raises:
        RunError: If there is none, or it is damaged.
    """
    with temporary_folder("copy") as copy:
        # The mark first: it must name nothing that comes later. The log before the file would miss what is moved into it.
        for name in (MARK_NAME, FILE_NAME, f"{FILE_NAME}-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(folder / name, copy / name)
        try:
            return read_run(copy)
        except RunError as error:
            raise RunError(str(error).replace(str(copy), str(folder))) from error


def _check_writable(home: Path) -> None:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not there.is_dir():
        raise RunError(f"{home}: cannot be written (Not a directory); choose another --home")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"{home}: cannot be written (Permission denied); choose another --home")
