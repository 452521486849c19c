"""Commands that show, ship, attack and compare what searches found, with their options."""

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
    asked_where,
)


def _fraction(text: str) -> float:
    """Read `0.8`, `80%` or `80 %` as the fraction 0.8."""
    number, sign, rest = text.partition("%")
    try:
        value = float(number) / (100 if sign else 1)
    except ValueError:
        value = -1.0
    if rest.strip() or not 0 <= value <= 1:
        raise typer.BadParameter(f"{text!r} is not an accuracy; write 0.8 or 80%")
    return value


def report(
    run: Run = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write page, table and JSON into this new folder, as far as the search is.")
    ] = None,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """Show a search's frontier again."""
    from eed_search.cli.report import report as body

    body(run, home=home, as_json=as_json, out=out, asked=asked_where(address, cluster, local))


def export(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="New folder for the bundle, or a storage URL.")],
    run: Run = None,
    select: Annotated[
        str, typer.Option("--select", metavar="POINT", help="knee, fastest, most-robust, or a point's id such as 7.0.")
    ] = "knee",
    max_latency_ms: Annotated[
        float | None,
        typer.Option("--max-latency-ms", min=0, help="Choose among points at most this slow.", show_default=False),
    ] = None,
    min_robust_accuracy: Annotated[
        float | None,
        typer.Option(
            "--min-robust-accuracy",
            parser=_fraction,
            metavar="SHARE",
            help="Choose among points at least this robust: 0.8 or 80%.",
            show_default=False,
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """Write one point as a bundle that runs without torch."""
    from eed_search.cli.export import export as body

    body(
        run,
        select=select,
        max_latency_ms=max_latency_ms,
        min_robust_accuracy=min_robust_accuracy,
        out=out,
        home=home,
        asked=asked_where(address, cluster, local),
    )


def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A bundle that export wrote: a folder or a URL.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a runtime.py that eed-search has never written.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Check a bundle's files and replay its stored inputs."""
    from eed_search.cli.export import verify as body

    body(folder, strict=strict)


def attack(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A run's point (RUN:7.0, knee, base), RUN:frontier for all, a bundle's folder, or your own model as module:callable.",
        ),
    ],
    tier: Annotated[
        int, typer.Option("--tier", help="1: fresh images, badge checked; 2: test images, badge claim.")
    ] = 1,
    eps: Annotated[
        str | None,
        typer.Option("--eps", metavar="EPS", help="L-inf budget on [0, 1]: 8/255 or 0.03.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="PATH", help="FILE.npz with images and labels, or the data's folder.", show_default=False
        ),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help="Most images to attack.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed for everything random.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    table: Annotated[
        str | None,
        typer.Option("--table", metavar="NAME", help="paper: the columns of the paper's tables.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Attack a classifier and check the result; goes on after a kill."""
    from eed_search.cli.attack import attack as body
    from eed_search.cli.attack_one import AttackArguments

    body(target, AttackArguments(tier, eps, data, num_samples, seed, device, table, as_json), home=home)


def benchmark(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Benchmark file, or a packaged one: benchmark_digits.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the benchmark; the file's by default.", show_default=False)
    ] = None,
    home: Home = DEFAULT_HOME,
    data: DataPath = None,
    set_: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    debug: Debug = False,
) -> None:
    """Replay a base's adversarial inputs on its pruned versions; goes on after a kill."""
    from eed_search.cli.benchmark import benchmark as body
    from eed_search.cli.space_file import Changes

    body(file, Changes(tuple(set_ or ()), data=data), home=home, name=name, as_json=as_json)


def ui(
    run: Run = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 5000,
    home: Home = DEFAULT_HOME,
    address: Address = None,
    cluster: ClusterFile = None,
    local: Local = False,
    debug: Debug = False,
) -> None:
    """Open a search's trials in MLflow, on this machine only."""
    from eed_search.cli.ui import ui as body

    body(run, port=port, home=home, asked=asked_where(address, cluster, local))
