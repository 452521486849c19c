"""Commands about what lies around the searches of a home, with their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eed_search.cli.options import DEFAULT_HOME, Debug, Home


def mlflow_server(
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="EED_SEARCH_DATABASE",
            metavar="URI",
            help="PostgreSQL, such as postgresql:///mlflow?host=/var/run/postgresql; SQLite in the home by default.",
            show_default=False,
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            "--artifacts",
            metavar="PATH",
            help="Folder or URI (s3://...) of the files; a folder in the home by default.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 5000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="HOST:PORT",
            help="Answer to this name too, for a proxy before it; repeatable.",
            show_default=False,
        ),
    ] = None,
    background: Annotated[
        bool, typer.Option("--background", help="Start it, or find it running, and return when it answers.")
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring an older MLflow's tables up to date; make a copy first.")
    ] = False,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Serve MLflow for every search of a home, and many people at once."""
    from eed_search.cli.mlflow_server import mlflow_server as body
    from eed_search.tracking.home_server import ServerOptions

    wanted = ServerOptions(home, database, artifacts, port, tuple(allow_host or ()), upgrade)
    body(wanted, background=background)


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Free what the plan names; without it nothing is freed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan, as without --yes.")] = False,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Say what a home holds, and free what no search needs."""
    from eed_search.cli.clean import clean as body

    if yes and dry_run:
        raise typer.BadParameter("--yes frees and --dry-run does not; give one", param_hint="--dry-run")
    body(home, yes=yes)


def doctor(
    cluster: Annotated[
        Path | None,
        typer.Option(
            "--cluster",
            metavar="FILE",
            help="Judge how safe a cluster file is instead, without network.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Say what is installed, what is missing, and the fix."""
    from eed_search.cli.doctor import doctor as body
    from eed_search.cli.doctor import doctor_of_cluster

    if cluster is not None:
        doctor_of_cluster(cluster, as_json=as_json)
    else:
        body(home, as_json=as_json)
