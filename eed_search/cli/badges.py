"""The results of `eed-search attack` under a search's table: columns of their own for each badge."""

from __future__ import annotations

import textwrap

from eed_search.cli.console import console, say
from eed_search.tracking.badges import COLUMNS, badge_tables, other_lines
from eed_search.tracking.summary import RunSummary

_WIDTH = 80
_SHORT = {
    "robust %": "robust\n%",
    "any prefix %": "any\nprefix %",
    "static %": "static\n%",
    "clean %": "clean\n%",
    "attacked": "attacked\nspeed-up",
}


def show_badges(summary: RunSummary) -> None:
    """Print what was found, one table for each badge; nothing where nothing was attacked."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    for one in badge_tables(summary):
        table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for i, name in enumerate(COLUMNS):
            table.add_column(_SHORT.get(name, name), justify="right" if i else "left", no_wrap=i > 0)
        for row in one.rows:
            table.add_row(*map(Text, row))
        say(one.title)
        console().print(table)
        for note in one.notes:
            _wrapped(note)
        say()
    for line in other_lines(summary):
        _wrapped(line)


def _wrapped(text: str) -> None:
    for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False):
        say(line)
