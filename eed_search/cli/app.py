"""The command line's table of contents; each command's body lies in its own module and is imported when it runs.

So `eed-search --help` loads typer and nothing else: no torch, no Ray, no NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from eed_search.cli.guard import GuardedGroup
from eed_search.cli.home_commands import clean, doctor, mlflow_server
from eed_search.cli.options import Debug
from eed_search.cli.result_commands import attack, benchmark, export, report, ui, verify
from eed_search.cli.search_commands import cancel, check, fetch, launch, recover, resume, status, stop

_COMMANDS: tuple[Callable[..., None], ...] = (
    *(launch, resume, recover, fetch, status, stop, cancel, check),
    *(report, export, verify, attack, benchmark, ui),
    *(mlflow_server, clean, doctor),
)
"""In the order in which `--help` lists them."""

app = typer.Typer(
    cls=GuardedGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: whole option names in 80 columns, in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find compact, adversarially robust, fast image classifiers automatically.",
    epilog="Start with: eed-search launch",
)


def _version(value: bool) -> None:
    if value:
        from eed_search import __version__

        typer.echo(f"eed-search {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    pass


for _command in _COMMANDS:
    app.command(_command.__name__.replace("_", "-"))(_command)
