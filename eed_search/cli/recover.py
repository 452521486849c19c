"""`eed-search recover`: take back what is sound of a ledger that was altered, cut off, or deleted."""

from __future__ import annotations

from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.homes import damaged_runs, find_run
from eed_search.cli.result import command, where
from eed_search.core.errors import RunError
from eed_search.runs.ledger_recovery import recover as take_back
from eed_search.runs.run_lock import locked


def recover(run: str | None, *, home: Path) -> None:
    """Make a search's ledger whole up to the last sound event, and say what is lost.

    Args:
        run: Its name, or its folder; none takes the one in the home whose ledger is damaged.
        home: The folder that holds every search.

    Raises:
        RunError: If it still runs, there is no such search, or nothing of it is sound.
        StoreError: If its folder cannot be written.
    """
    if run is None:
        damaged = damaged_runs(home)
        if not damaged:
            say(f"{home}: every ledger there can be read; nothing to recover")
            return
        if len(damaged) > 1:
            raise RunError(f"{home}: several ledgers are damaged: {', '.join(one.name for one in damaged)}; name one")
        run = str(damaged[0])
    folder = find_run(home, run).resolve()
    with locked(folder):
        done = take_back(folder)
    name, there = folder.name, where(home)
    if not done.source:
        say(f"{name}: its ledger is sound ({done.kept} events); nothing to recover, nothing was changed")
        return
    say(f"{name}: {done.kept} of {done.total} events are sound, taken from {done.source} ({done.problem})")
    say(f"lost    {done.lost or 'nothing'}")
    if done.lost:
        say("        what they had finished is read from the store, not trained again")
    if done.aside is not None:
        say(f"kept    the damaged ledger, as {done.aside}")
    say(f"next    {command('resume')} {name}{there}")
