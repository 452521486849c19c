"""`eed-search attack RUN:frontier`: every point of the frontier at one tier, then the frontier of that badge alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eed_search.cli.attack_one import AttackArguments, attack_one, refuse_eps, reporter
from eed_search.cli.badges import show_badges
from eed_search.cli.console import as_text, say
from eed_search.cli.homes import open_run
from eed_search.core.errors import InvalidResult, RunError, SpecError
from eed_search.frontier.attacked import result_facts
from eed_search.frontier.estimate import estimate_frontier
from eed_search.runs.attack_records import AttackResult
from eed_search.tracking.badges import badge_facts
from eed_search.tracking.summary import summarise
from eed_search.tracking.text import per_cent

if TYPE_CHECKING:
    import torch

    from eed_search.pipeline.targets import AttackOptions


def attack_frontier(
    target: str, wanted: AttackArguments, options: AttackOptions, *, home: Path, device: torch.device
) -> None:
    """Attack every point of a run's reported frontier, fastest first; a kill costs what a single attack's does.

    Args:
        target: `RUN:frontier`, or `frontier` for the newest run.
        wanted: The options.
        options: The same for targets.
        home: The folder that holds every search.
        device: Where to compute.

    Raises:
        SpecError: If `--table` is given.
        RunError: If there is no frontier, or a point has had its claim with other settings.
        InvalidResult: If a sanity check failed on any point; all results are printed before.
    """
    from eed_search.pipeline import targets

    if wanted.table is not None:
        raise SpecError([f"--table {wanted.table}: goes with one point; name it, such as {target[:-8]}knee"])
    run = target.rpartition(":")[0]
    folder, view = open_run(home, run or None)
    front = estimate_frontier(view).front
    if not front:
        raise RunError(f"run {view.name}: has no finished trial, so there is no frontier to attack")
    found: dict[str, AttackResult] = {}
    for point in front:
        one = targets.from_run(folder.name, view, point.id, home, options, reporter())
        refuse_eps(one.eps, "the search's eps" if wanted.eps is None else "--eps")
        found[point.id] = attack_one(f"{folder}:{point.id}", one, options, home=home, device=device)
        if not wanted.as_json:
            _line(point.id, found[point.id])
    summary = summarise(open_run(home, run or None)[1])
    if wanted.as_json:
        told = {"results": {id_: result_facts(one) for id_, one in found.items()}, **badge_facts(summary)}
        say(as_text(told))
    else:
        say()
        show_badges(summary)
    invalid = [id_ for id_, one in found.items() if one.badge == "invalid"]
    if invalid:
        raise InvalidResult(
            f"{folder.name}: invalid on {', '.join(invalid)}; `eed-search attack {folder.name}:{invalid[0]}` shows which"
            " check failed. Mend the model, or the attack if it is to blame, and attack again"
        )


def _line(id_: str, one: AttackResult) -> None:
    robust = "no figure" if one.badge == "invalid" else f"robust {per_cent(one.robust)} of {one.robust.num_samples}"
    say(f"{id_}: {robust}, badge `{one.badge}`, eps {one.eps:.4g}, seed {one.seed}")
