"""`eed-search attack`: an honest robust accuracy of a point, a bundle or a user's own model."""

from __future__ import annotations

import textwrap
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.cli.attack_one import AttackArguments, attack_one, read_eps, refuse_eps, reporter
from eed_search.cli.console import as_text, console, say
from eed_search.cli.homes import find_run, open_run
from eed_search.core.errors import InvalidResult, RunError, SpecError
from eed_search.core.pace import duration
from eed_search.frontier.attacked import was_certified
from eed_search.runs.attack_records import AttackResult, Check
from eed_search.runs.cost import Cost
from eed_search.runs.records import Accuracy, RobustAccuracy, to_json
from eed_search.runs.undertrained import nearly_none
from eed_search.system.cores import usable_cores
from eed_search.tracking.text import in_macs

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from eed_search.evaluation.target import Target
    from eed_search.pipeline.targets import AttackOptions

_WIDTH = 80


def attack(target: str, wanted: AttackArguments, *, home: Path) -> None:
    """Attack a target, check the result, print it.

    Args:
        target: `RUN:ID`, `ID`, `RUN:frontier`, a bundle's folder, or `module:callable`.
        wanted: The options.
        home: The folder that holds every search.

    Raises:
        SpecError: If an option is wrong.
        InvalidResult: If a sanity check failed; the result is printed before.
        RunError: If there is no such run or point, or it has had its claim with other settings.
        BundleError: If the bundle is missing or altered.
        ModelError: If the model cannot be judged.
        DataError: If the images are wrong or too few.
    """
    budget = _checked(target, wanted)
    from eed_search.pipeline.targets import AttackOptions  # loads torch

    device = _device(wanted.device)
    options = AttackOptions(2 if wanted.tier == 2 else 1, budget, wanted.data, wanted.num_samples, wanted.seed)
    if is_frontier(target, home):
        from eed_search.cli.attack_frontier import attack_frontier

        attack_frontier(target, wanted, options, home=home, device=device)
        return
    found = _find(target, options, home)
    refuse_eps(found.eps, "the search's eps" if budget is None else "--eps")
    if wanted.table == "paper":
        _paper(found, wanted, device)
        return
    result = attack_one(target, found, options, home=home, device=device)
    if wanted.as_json:
        say(as_text(to_json(result)))
    else:
        show(result)
    if result.badge == "invalid":
        failed = ", ".join(f"{check.number} ({check.name})" for check in result.checks if not check.passed)
        raise InvalidResult(
            f"{result.target}: the robust accuracy is invalid, check {failed} failed; what was seen stands above. Mend the"
            " model, or the attack if it is to blame, and attack again"
        )


def is_frontier(target: str, home: Path) -> bool:
    """Whether a target names all points of a run's frontier: `frontier`, or `RUN:frontier`."""
    run, _, id_ = target.rpartition(":")
    return id_ == "frontier" and (not run or _is_run(run, home))


def _is_run(run: str, home: Path) -> bool:
    """Whether a text names a run, or begins the name of one alone where it is no module of the user's."""
    with suppress(RunError):
        find_run(home, run, or_prefix=not Path(f"{run}.py").exists())
        return True
    return False


def _checked(target: str, wanted: AttackArguments) -> float | None:
    """Read the options that need no torch; every mistake at once."""
    problems = []
    if wanted.tier not in (1, 2):
        problems.append(f"--tier {wanted.tier}: allowed: 1 (checked) or 2 (claim, on test images)")
    if wanted.table not in (None, "paper"):
        problems.append(f"--table {wanted.table}: allowed: paper")
    if wanted.device not in ("cpu", "cuda"):
        problems.append(f"--device {wanted.device}: allowed: cpu, cuda")
    if not target.strip():
        problems.append("TARGET: is empty; give RUN:ID, ID, a bundle's folder, or module:callable")
    budget: float | None = None
    if wanted.eps is not None:
        try:
            budget = read_eps(wanted.eps)
            refuse_eps(budget, "--eps")
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return budget


def _find(target: str, options: AttackOptions, home: Path) -> Target:
    """Find what the user means."""
    from eed_search.pipeline import targets

    run, _, id_ = target.rpartition(":")
    is_run = _is_run(run, home)
    # `mine:base` may be a user's function as well: a run of that name goes first
    if targets.is_point(target) and (not run or id_[0].isdigit() or is_run):
        folder, view = open_run(home, run or None)
        return targets.from_run(folder.name, view, id_, home, options, reporter())
    if ":" in target and not Path(target).exists():
        return targets.from_module(target, options)
    if Path(target).is_dir():
        return targets.from_bundle(Path(target), options, reporter())
    raise SpecError(
        [
            f"{target}: is no point (RUN:7.0, 7.0, knee, fastest, most-robust, base, frontier), no bundle's folder and no"
            " module:callable; `eed-search report` lists the points of a run"
        ]
    )


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError(["--device cuda: torch sees no CUDA device; take cpu"])
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch knows of no quota
    return torch.device(name)


def _paper(target: Target, wanted: AttackArguments, device: torch.device) -> None:
    """Print the columns of the paper's tables."""
    from eed_search.evaluation.paper_table import paper_table

    row = paper_table(target, seed=wanted.seed, device=device, report=reporter())
    if wanted.as_json:
        say(as_text(to_json(row)))
        return
    say(f"{row.target}: {row.data}, {row.split} images; L-inf eps {row.eps:.4g}, seed {row.seed}; through the gate")
    say()
    table = _table("", "right %", "95 % interval", "n")
    for name, accuracy in row.columns.items():
        interval = f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"
        table.add_row(name, f"{100 * accuracy.value:.1f}", interval, str(accuracy.num_samples))
    console().print(table)
    _wrapped(
        f"DeepFool: right unless it changes the answer within l2 distance {row.l2:.3g}, the length of noise within eps."
    )
    if row.l2_median is not None:
        _wrapped(f"It changes an answer that is right at l2 distance {row.l2_median:.3g} (median).")
    _wrapped("No sanity checks ran: a table, not a claim; `--table` left out gives the checked figure.")


def show(result: AttackResult) -> None:
    """Print a result for people."""
    say(f"{result.target}: tier {result.tier}, badge `{result.badge}`")
    kind = {"fresh": "fresh images that no decision has seen", "test": "test images", "given": "images"}[result.split]
    say(f"{result.clean.num_samples} {kind} of {result.data}; L-inf eps {result.eps:.4g}, seed {result.seed}")
    say()
    console().print(_accuracies(result))
    if result.badge != "invalid" and nearly_none(result.robust):
        num = round(result.robust.value * result.robust.num_samples)
        _wrapped(f"Not robust: {num} of {result.robust.num_samples} images stay right under these attacks.")
    gap = 100 * (result.robust.value - result.any_prefix.value)
    if result.num_members > 1:
        _wrapped(
            f"RA: deployed forward, union of all attacks. any prefix: broken if any reachable prefix is; {gap:.1f}"
            " points rest on the gate. static: all members together, no gate."
        )
    _wrapped(_of_the_proof(result))
    say()
    console().print(_costs(result))
    if result.num_members > 1 and result.clean_cost.latency_ms is not None:
        _wrapped(
            "latency: from the time of each exit, where it was measured; else interpolated by MACs between the clean"
            " and the worst case. The attacked speed-up is that of the slower attack."
        )
    say()
    console().print(_attacks(result))
    by_the_way = [use for use in result.attacks if use.id == "S1" or use.id.startswith("P")]
    if num := sum(use.num_deployed_broken for use in by_the_way):
        _wrapped(
            f"Attacks on prefixes or on the cost broke {num} deployed answer{'s' if num > 1 else ''} besides: counted in RA."
        )
    say(
        f"{result.forward_passes / result.clean.num_samples:,.0f} forward and"
        f" {result.gradient_passes / result.clean.num_samples:,.0f} gradient passes an image, {duration(result.seconds)}"
    )
    say()
    for check in result.checks:
        _wrapped(f"check {check.number:2d} {_verdict(check)}  {check.name}: {check.seen}", indent=" " * 16)
    for note in result.notes:
        _wrapped(f"note: {note}")


def _of_the_proof(result: AttackResult) -> str:
    if not was_certified(result):
        return f"certified: {result.certified_by.replace('none: ', 'not tried: ', 1)}." if result.certified_by else ""
    if result.certified is not None and result.certified.value > 0:
        return f"certified: no image within eps can break these, whatever the attack; {result.certified_by}."
    return f"certified: trivial (0 %), the bounds say nothing about this network; {result.certified_by}."


def _verdict(check: Check) -> str:
    return "FAILED" if not check.passed else "ok    " if check.applies else "–     "


def _wrapped(text: str, indent: str = "") -> None:
    for line in textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False):
        say(line)


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0)
    return table


def _accuracies(result: AttackResult) -> Table:
    table = _table("", "right %", "95 % interval", "n")
    rows: list[tuple[str, Accuracy | RobustAccuracy]] = [("clean", result.clean), ("robust (RA)", result.robust)]
    if result.num_members > 1:
        rows += [("RA, any prefix", result.any_prefix), ("RA, static", result.static)]
    if result.certified is not None and was_certified(result):
        rows.append(("certified", result.certified))
    for name, accuracy in rows:
        interval = f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"
        table.add_row(name, f"{100 * accuracy.value:.1f}", interval, str(accuracy.num_samples))
    if result.certified_by and not was_certified(result):
        table.add_row("certified", "not tried", "–", "0")
    return table


def _costs(result: AttackResult) -> Table:
    rows: list[tuple[str, Cost | None]] = [
        ("clean", result.clean_cost),
        ("under the accuracy attack", result.attacked_cost),
        ("slowed down (S1)", result.slowed_cost),
        ("worst case", result.worst_cost),
    ]
    timed = result.clean_cost.latency_ms is not None
    table = _table("an average image", "members run", "MACs", *(("latency ms", "speed-up") if timed else ()))
    for name, cost in rows:
        if cost is None:
            continue
        cells = [name, f"{cost.members_run:.2f} of {result.num_members}", in_macs(cost.macs)]
        if timed and cost.latency_ms is not None and cost.speedup is not None:
            cells += [f"{cost.latency_ms:.3g}", f"{cost.speedup:.2f} ×"]
        table.add_row(*cells)
    return table


def _attacks(result: AttackResult) -> Table:
    table = _table("attack", "steps", "starts", "attacked", "broke")
    for use in result.attacks:
        numbers = ["–" if number is None else str(number) for number in (use.steps, use.restarts)]
        title = use.name if use.name.startswith(use.id) else f"{use.id} {use.name}"
        table.add_row(title, *numbers, str(use.num_attacked), str(use.num_broken))
    return table
