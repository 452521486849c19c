"""Commands and options; each command's body lies in its own module and is imported when it runs.

So `eed-search --help` loads typer and nothing else: no torch, no Ray, no NumPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eed_search.cli.guard import GuardedGroup, remember_debug

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
Home = Annotated[Path, typer.Option("--home", envvar="EED_SEARCH_HOME", help="Folder that holds every search.")]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="PATH", help="Folder of the images; replaces data.path of the file.", show_default=False
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Replace one key of the file; repeatable.", show_default=False
    ),
]
Debug = Annotated[bool, typer.Option("--debug", callback=remember_debug, help="Show where an error came from.")]

DEFAULT_HOME = Path("runs")


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
    set_: Sets = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, reuse and write; start nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON for other programs.")] = False,
    debug: Debug = False,
) -> None:
    """Search: train the base, try teams, show the frontier."""
    from eed_search.cli.space_file import Changes

    changes = Changes(tuple(set_ or ()), data=data, trials=trials, seed=seed)
    if dry_run:
        from eed_search.cli.dry_run import dry_run as forecast

        forecast(file, changes, home=home, name=name, as_json=as_json)
        return
    if as_json:
        raise typer.BadParameter("goes with --dry-run; `eed-search report --json` gives a result", param_hint="--json")
    from eed_search.cli.launch import launch as body

    body(file, changes, home=home, name=name)


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
    debug: Debug = False,
) -> None:
    """Go on with a search that was interrupted."""
    from eed_search.cli.resume import resume as body

    body(run, home=home, trials=trials, allow_drift=allow_drift, force=force)


@app.command()
def status(
    run: Run = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print again until it does not run any more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Say how a search stands."""
    from eed_search.cli.status import status as body

    body(run, home=home, watch=watch, as_json=as_json)


RunningRun = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Name of a search, or its folder; the one that runs by default.", show_default=False
    ),
]


@app.command()
def stop(run: RunningRun = None, home: Home = DEFAULT_HOME, debug: Debug = False) -> None:
    """End a search; what is finished is kept."""
    from eed_search.cli.stop import stop as body

    body(run, home=home)


@app.command()
def cancel(run: RunningRun = None, home: Home = DEFAULT_HOME, debug: Debug = False) -> None:
    """End a search at once, for good."""
    from eed_search.cli.stop import cancel as body

    body(run, home=home)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Search-space file, or the name of a packaged one.")],
    data: DataPath = None,
    set_: Sets = None,
    debug: Debug = False,
) -> None:
    """Find every mistake of a search-space file; start nothing."""
    from eed_search.cli.check import check as body
    from eed_search.cli.space_file import Changes

    body(file, Changes(tuple(set_ or ()), data=data))


@app.command()
def report(
    run: Run = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Show a search's frontier again."""
    from eed_search.cli.report import report as body

    body(run, home=home, as_json=as_json)


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
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the bundle.")] = ...,  # type: ignore[assignment]
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Write one point as a bundle that runs without torch."""
    from eed_search.cli.export import export as body

    body(run, select=select, max_latency_ms=max_latency_ms, min_robust_accuracy=min_robust_accuracy, out=out, home=home)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle that export wrote.")],
    debug: Debug = False,
) -> None:
    """Check a bundle's files and replay its stored inputs."""
    from eed_search.cli.export import verify as body

    body(folder)


@app.command()
def attack(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A run's point (RUN:7.0, 7.0, knee, base), a bundle's folder, or your own model as module:callable.",
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
    from eed_search.cli.attack import Wanted
    from eed_search.cli.attack import attack as body

    body(target, Wanted(tier, eps, data, num_samples, seed, device, table, as_json), home=home)


@app.command()
def ui(
    run: Run = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 5000,
    home: Home = DEFAULT_HOME,
    debug: Debug = False,
) -> None:
    """Open a search's trials in MLflow, on this machine only."""
    from eed_search.cli.ui import ui as body

    body(run, port=port, home=home)


@app.command()
def doctor(home: Home = DEFAULT_HOME, debug: Debug = False) -> None:
    """Say what is installed, what is missing, and the fix."""
    from eed_search.cli.doctor import doctor as body

    body(home)
