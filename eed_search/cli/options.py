"""Options that several commands take, and how the values of some are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eed_search.cli.guard import remember_debug
from eed_search.runs.home import check_home

if TYPE_CHECKING:
    from eed_search.cluster.where import WhereAsked

Run = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Name of a search, or its folder; the latest by default.", show_default=False),
]
Home = Annotated[
    Path,
    typer.Option("--home", envvar="EED_SEARCH_HOME", callback=check_home, help="Folder that holds every search."),
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="PATH", help="Folder of the images; replaces data.path of the file.", show_default=False
    ),
]
StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="EED_SEARCH_STORAGE",
        help="Shared storage: file:///..., s3://... or gs://...; replaces storage.url.",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Replace one key of the file; repeatable.", show_default=False
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="A running Ray: http://HOST:PORT of its dashboard, or auto on one of its nodes.",
        show_default=False,
    ),
]
ClusterFile = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        metavar="FILE",
        help="The running cluster of this file; ray_cluster.yaml by default, where it was brought up.",
        show_default=False,
    ),
]
Local = Annotated[bool, typer.Option("--local", help="On this machine, whatever cluster there is.")]
Debug = Annotated[bool, typer.Option("--debug", callback=remember_debug, help="Show where an error came from.")]
DEFAULT_HOME = Path("runs")


def asked_where(address: str | None, cluster: Path | None, local: bool) -> WhereAsked:
    """Put together where a command is to act; at most one place may be named."""
    from eed_search.cluster.where import WhereAsked

    given = [name for name, one in (("--address", address), ("--cluster", cluster), ("--local", local)) if one]
    if len(given) > 1:
        raise typer.BadParameter(f"{given[0]} and {given[1]} name two places; give one", param_hint=given[1])
    return WhereAsked(address, cluster, local)
