"""`eed-search launch`: the main job, from a search-space file to the frontier on the screen."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from eed_search.cli.check import summary
from eed_search.cli.console import say
from eed_search.cli.guard import INTERRUPTED
from eed_search.cli.space_file import Changes, find, read
from eed_search.core.errors import RunError


def launch(file: Path | None, changes: Changes, *, home: Path, name: str | None) -> None:
    """Run a search and show its result.

    Args:
        file: The search-space file, or a packaged one's name; none takes the embedded digits.
        changes: What the command line changes in it.
        home: Everything that the search writes lies under it.
        name: The search's name; none lets the search choose.

    Raises:
        SpecError: With every mistake of the file; nothing was started.
        RunError: If no trial gave a point.
    """
    spec = read(file, changes)
    say(f"Searching {find(file)}")
    for line in summary(spec):
        say(f"  {line}")

    from eed_search import trial  # from here on torch, Ray and the rest are loaded
    from eed_search.cli.progress import progress
    from eed_search.cli.result import command, show, where
    from eed_search.core.points import points
    from eed_search.search import run

    try:
        with progress() as listener:
            view = run(spec, home=home, name=name, pipeline=trial, listener=listener)
    except KeyboardInterrupt:  # the second one: the first lets the search end and return
        print(f"Stopped at once. What was finished is kept: {command('report')}{where(home)}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    say()
    show(view, home / view.name, home)
    if view.state == "stopped":
        raise typer.Exit(INTERRUPTED)
    if not points(view):
        raise RunError(
            f"run {view.name}: no trial gave a point; the lines above say why. Correct the file and launch it again"
        )
