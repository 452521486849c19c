"""Commands and options; each command's body lies in its own module and is imported when it runs.

So `eed-search --help` loads typer and nothing else: no torch, no Ray, no NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eed_search.cli.guard import GuardedGroup, remember_debug
from eed_search.runs.home import check_home

if TYPE_CHECKING:
    from eed_search.cluster.where import WhereAsked

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


def _asked(address: str | None, cluster: Path | None, local: bool) -> WhereAsked:
    from eed_search.cluster.where import WhereAsked

    given = [name for name, one in (("--address", address), ("--cluster", cluster), ("--local", local)) if one]
    if len(given) > 1:
        raise typer.BadParameter(f"{given[0]} and {given[1]} name two places; give one", param_hint=given[1])
    return WhereAsked(address, cluster, local)


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


@app.command()
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

    body(file, changes, home=home, name=name, asked=_asked(address, cluster, local))


@app.command()
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

    asked = _asked(address, cluster, local)
    body(run, home=home, trials=trials, allow_drift=allow_drift, force=force, asked=asked, storage=storage)


@app.command()
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


@app.command()
def fetch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a search that the storage holds.")],
    storage: StorageUrl = None,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Bring a search from shared storage to this machine."""
    from eed_search.cli.fetch import fetch as body

    body(run, storage=storage, home=home)


@app.command()
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

    body(run, home=home, watch=watch, as_json=as_json, asked=_asked(address, cluster, local))


RunningRun = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Name of a search, or its folder; the one that runs by default.", show_default=False
    ),
]


@app.command()
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

    body(run, home=home, asked=_asked(address, cluster, local))


@app.command()
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

    body(run, home=home, asked=_asked(address, cluster, local))


@app.command()
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


@app.command()
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

    body(run, home=home, as_json=as_json, out=out, asked=_asked(address, cluster, local))


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


@app.command()
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
        asked=_asked(address, cluster, local),
    )


@app.command()
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


@app.command()
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
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
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


@app.command()
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


@app.command()
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

    body(run, port=port, home=home, asked=_asked(address, cluster, local))


@app.command("mlflow-server")
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


@app.command()
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


@app.command()
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
