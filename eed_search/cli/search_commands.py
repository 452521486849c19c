"""Commands that begin a search, go on with it and end it, with their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eed_search.cli.options import (
    DEFAULT_HOME,
    Address,
    ClusterFile,
    DataPath,
    Debug,
    Home,
    Local,
    Run,
    Sets,
    StorageUrl,
    asked_where,
)

RunningRun = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Name of a search, or its folder; the one that runs by default.", show_default=False
    ),
]


def launch(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Search-space file, or the name of a packaged one; digits by default.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Name of the search; the file's name with a number by default.", show_default=False
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Number of trials; replaces search.trials.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Replaces seed.", show_default=False)] = None,
    data: DataPath = None,
    storage: StorageUrl = None,
    set_: Sets = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, reuse and write; start nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON for other programs.")] = False,
    plugins: Annotated[
        bool, typer.Option("--plugins", help="With --dry-run: import the file's plugins, which runs their code.")
    ] = False,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """Search: train the base, try teams, show the frontier."""
    from eed_search.cli.space_file import Changes

    changes = Changes(tuple(set_ or ()), data=data, trials=trials, seed=seed, storage=storage)
    if dry_run:
        from eed_search.cli.dry_run import dry_run as forecast

        forecast(file, changes, home=home, name=name, as_json=as_json, import_plugins=plugins)
        return
    if plugins:
        raise typer.BadParameter("goes with --dry-run; a launch imports them in any case", param_hint="--plugins")
    if as_json:
        raise typer.BadParameter("goes with --dry-run; `eed-search report --json` gives a result", param_hint="--json")
    from eed_search.cli.launch import launch as body

    body(file, changes, home=home, name=name, asked=asked_where(address, cluster, local))


def resume(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Name of a search, or its folder; the latest unfinished one by default.",
            show_default=False,
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Trials in all; extends a finished search.", show_default=False),
    ] = None,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Go on although file, data, code or processor changed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Take up a search that was cancelled.")] = False,
    storage: StorageUrl = None,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """Go on with a search that was interrupted."""
    from eed_search.cli.resume import resume as body

    asked = asked_where(address, cluster, local)
    body(run, home=home, trials=trials, allow_drift=allow_drift, force=force, asked=asked, storage=storage)


def recover(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="Name of a search, or its folder; the damaged one by default.", show_default=False
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Take back what is sound of a search's damaged or deleted ledger."""
    from eed_search.cli.recover import recover as body

    body(run, home=home)


def fetch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a search that the storage holds.")],
    storage: StorageUrl = None,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Bring a search from shared storage to this machine."""
    from eed_search.cli.fetch import fetch as body

    body(run, storage=storage, home=home)


def status(
    run: Run = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print again until it does not run any more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """Say how a search stands."""
    from eed_search.cli.status import status as body

    body(run, home=home, watch=watch, as_json=as_json, asked=asked_where(address, cluster, local))


def stop(
    run: RunningRun = None,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """End a search; what is finished is kept."""
    from eed_search.cli.stop import stop as body

    body(run, home=home, asked=asked_where(address, cluster, local))


def cancel(
    run: RunningRun = None,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """End a search at once, for good."""
    from eed_search.cli.stop import cancel as body

    body(run, home=home, asked=asked_where(address, cluster, local))


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Search-space file, or the name of a packaged one.")],
    data: DataPath = None,
    set_: Sets = None,
    plugins: Annotated[
        bool, typer.Option("--plugins", help="Import the file's plugins too, which runs their code.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Find every mistake of a search-space file; start nothing."""
    from eed_search.cli.check import check as body
    from eed_search.cli.space_file import Changes

    body(file, Changes(tuple(set_ or ()), data=data), import_plugins=plugins)
