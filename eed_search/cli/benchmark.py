"""`eed-search benchmark`: are pruned networks as robust as their base? From a file to tables and pictures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.cli.console import as_text, console, say
from eed_search.cli.progress import clock_time
from eed_search.cli.space_file import Changes, data_problems, find
from eed_search.core.errors import SpecError
from eed_search.core.pace import duration
from eed_search.runs.run_folder import check_name
from eed_search.transfer.spec import BenchmarkSpec, model_label
from eed_search.transfer.spec_file import load

if TYPE_CHECKING:
    from rich.table import Table

    from eed_search.transfer.run import Results

_WIDTH = 80


def benchmark(file: Path, changes: Changes, *, home: Path, name: str | None, as_json: bool) -> None:
    """Run a benchmark, or go on with it, and show what it found.

    Args:
        file: The benchmark file, or a packaged one's name.
        changes: What the command line changes in it.
        home: Everything that is written lies under it.
        name: Name of the benchmark; the file's by default.
        as_json: Print the results as JSON; progress goes to stderr.

    Raises:
        SpecError: With every mistake of the file; nothing was started.
        RunError: If the name belongs to something else, or the benchmark is running.
        ModelError: If nothing can be pruned.
        StoreError: If a file or MLflow cannot be written.
    """
    spec = read(file, changes)
    name = name or spec.name
    check_name(Path(os.devnull), name)  # the rules for names only: nothing lies below there
    out = (lambda line: print(line, file=sys.stderr, flush=True)) if as_json else say
    out(f"Benchmarking {find(file)}")
    for line in summary(spec):
        out(f"  {line}")
    results = _run(spec, home, name, out)
    if as_json:
        from eed_search.transfer.report import plain

        say(as_text(plain(results)))
    else:
        show(results, home / name)


def read(file: Path, changes: Changes) -> BenchmarkSpec:
    """Read and check a benchmark file with the command line's changes, and whether its data can be read.

    Raises:
        SpecError: With every mistake, one line each.
    """
    from eed_search.data.sources import readable  # here: loads NumPy

    overrides, problems = changes.overrides()
    path = find(file)
    try:
        spec = load(path, overrides)
    except SpecError as error:
        raise SpecError(problems + error.problems + data_problems(path, overrides, readable)) from error
    problems += [f"{path.name}: {problem}" for problem in readable(spec.data)]
    if problems:
        raise SpecError(problems)
    return spec


def summary(spec: BenchmarkSpec) -> list[str]:
    """Describe a benchmark in a few lines."""
    source = spec.data.source if spec.data.path is None else f"{spec.data.source} in {spec.data.path}"
    per_base = len(spec.schemes) * len(spec.ratios) * len(spec.finetuned)
    num_bases = len(spec.models) * len(spec.seeds)
    return [
        f"data      {source}, {spec.data.num_test or 'all'} test images",
        f"bases     {', '.join(map(model_label, spec.models))}, {spec.base.epochs:g} epochs; {len(spec.seeds)} seeds",
        f"networks  {num_bases * per_base}: {len(spec.schemes)} schemes, {len(spec.ratios)} ratios a base",
        f"attacks   {', '.join(attack.label for attack in spec.attacks)}; {len(spec.cases())} with their budgets",
        f"margin    {100 * spec.margin:g} points",
    ]


def _run(spec: BenchmarkSpec, home: Path, name: str, out: Callable[[str], None]) -> Results:
    from eed_search.tracking.nested import NestedRuns
    from eed_search.tracking.text import flatten
    from eed_search.transfer.report import write_report  # from here on torch and the rest are loaded
    from eed_search.transfer.run import run
    from eed_search.transfer.runs import children
    from eed_search.transfer.table import verdict_lines

    start = time.monotonic()

    def progress(text: str) -> None:
        out(f"[{clock_time(time.monotonic() - start)}] {text}")

    tracker = NestedRuns(spec.tracking, home, name, flatten(spec.to_plain()))
    tracker.start()
    try:
        results = run(spec, home=home, name=name, progress=progress)
        files = write_report(results, home / name)
    except BaseException as error:
        tracker.interrupted()
        if isinstance(error, KeyboardInterrupt):
            print("What is finished is kept: the same command goes on.", file=sys.stderr)
        raise
    tracker.finish(children(results.rows), files, verdict_lines(results))
    return results


def show(results: Results, folder: Path) -> None:
    """Print the verdict, the means by attack, and where the rest lies."""
    import textwrap

    from eed_search.transfer.report import CSV_NAME, HTML_NAME, MARKDOWN_NAME
    from eed_search.transfer.table import verdict_lines

    say()
    say(f"{results.spec.name}: {len(results.rows)} rows in {duration(results.seconds)}")
    for line in verdict_lines(results):
        for part in textwrap.wrap(line, _WIDTH, initial_indent="- ", subsequent_indent="  "):
            say(part)
    for finetuned in results.spec.finetuned:
        if any(mean.finetuned == finetuned for mean in results.means):
            say()
            say(
                f"Means over filter-pruned networks, {'fine-tuned' if finetuned else 'without fine-tuning'}; gaps in points"
            )
            console().print(means_table(results, finetuned))
    say("= comparable, ≠ not comparable, ? undecided, by the 90 % interval")
    say("– says nothing: nothing is left of either, or made for the base's own boundary")
    for what, why in results.left_out:
        say(f"left out: {what}: {why}")
    say()
    say(f"table     {folder / MARKDOWN_NAME}")
    say(f"rows      {folder / CSV_NAME}")
    say(f"heat map  {folder / HTML_NAME}")
    say(f"MLflow    experiment {results.spec.tracking.experiment}, shown by: eed-search mlflow-server")


def means_table(results: Results, finetuned: bool) -> Table:
    """Lay the means out for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from eed_search.transfer.table import mean_cells

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for title in ("attack", "ε", "base\n%", "T\n%", "static\ngap", "", "adaptive\ngap", ""):
        table.add_column(title, justify="left" if title in ("attack", "") else "right", no_wrap=True)
    short = {"comparable": "=", "not comparable": "≠", "undecided": "?"}  # floor and minimum-norm: –
    for mean in results.means:
        if mean.finetuned == finetuned:
            attack, eps, base, transfer, static, said_static, adaptive, said_adaptive = mean_cells(mean)
            gaps = static.partition(" (")[0], adaptive.partition(" (")[0]
            table.add_row(
                attack,
                eps,
                base,
                transfer,
                gaps[0],
                short.get(said_static, "–"),
                gaps[1],
                short.get(said_adaptive, "–"),
            )
    return table
