"""`eed-search launch --dry-run`: what a search would cost and find, from a short measurement; starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eed_search.cli.check import image_lines, plugin_lines, summary
from eed_search.cli.console import as_text, say
from eed_search.cli.result import duration
from eed_search.cli.space_file import Changes, find, read
from eed_search.config import names, plugins
from eed_search.config.old_names import with_old_fields
from eed_search.config.spec import Spec
from eed_search.core.errors import RunError
from eed_search.runs.disk_space import free_bytes, shortage, size_of
from eed_search.search.racing.rung_scheduler import RUNGS
from eed_search.system.cores import usable_cores

if TYPE_CHECKING:
    from eed_search.forecast.calibration import UnitCosts
    from eed_search.forecast.expected_cost import Forecast, Span
    from eed_search.forecast.space_size import SpaceSize
    from eed_search.runs.data_facts import DataFacts
    from eed_search.runs.preview import Preview

_STORED = ("base", "baselines", "scores", "members")
_ASKING = "launch --dry-run --plugins"


def dry_run(
    file: Path | None, changes: Changes, *, home: Path, name: str | None, as_json: bool, import_plugins: bool = False
) -> None:
    """Say what a launch would do; write nothing below the home and start no search.

    A file whose user code is not imported gets a forecast only if none of that code's names are used in it.

    Args:
        file: The search-space file, or a packaged one's name; none takes the embedded digits.
        changes: What the command line changes in it.
        home: Where the search would lie.
        name: The search's name; none lets the search choose.
        as_json: Print one JSON object for other programs.
        import_plugins: Whether to run the user's code that the file names under `plugins:`.

    Raises:
        SpecError: With every mistake of the file, or if no trial fits on this machine.
        DataError: If the data are not there.
        RunError: If the name is not allowed or taken, or the home cannot be written to.
    """
    notes: list[str] = []
    spec = read(file, changes, note=notes.append if as_json else say, import_plugins=import_plugins)
    from eed_search.runs.preview import preview

    home = home.expanduser().resolve()
    there = preview(home, spec, name)
    from eed_search.search.execution.ray_glue import Machine  # loads no Ray

    cores = usable_cores()
    num_gpus = _num_gpus()
    spec, share = _with_gpus(spec, num_gpus, cores)
    notes += [share] if share else []
    slots = Machine(cores, num_gpus).slots(spec.resources)
    if not as_json:
        say(f"Dry run of {find(file)}: nothing is started, nothing is written")
        plugin = plugin_lines(spec, _ASKING) if spec.plugins else ()
        for line in (*summary(spec), *([share] if share else ()), *plugin):
            say(f"  {line}")
    told: dict[str, Any] = {"home": str(home), "run": asdict(there), "notes": notes}
    unknown = [] if plugins.are_loaded(spec.plugins) else names.unknown_names(spec.model_dump())
    if unknown:
        told["not_checked"] = unknown
        lines = [
            f"run       {_run_line(there, home)}",
            f"no forecast: it would run {', '.join(unknown)}; `{_ASKING}` does",
        ]
    else:
        seen = _look_ahead(spec, home, cores, slots, say if not as_json else lambda line: None)
        told = with_old_fields(told | seen.facts(home)) | {"data": seen.data.to_plain()}
        lines = seen.lines(home, there)
    if as_json:
        say(as_text(told, allow_nan=True))
    else:
        for line in lines:
            say(line)
    if refusal := there.refusal(home):
        raise RunError(refusal)


def _look_ahead(spec: Spec, home: Path, cores: int, slots: int, tell: Callable[[str], None]) -> _Outlook:
    """Measure, and reckon what the search costs; no user code of the file runs that is not imported yet."""
    from eed_search.data.sources import refuse_download
    from eed_search.forecast.cached_stages import find_cached
    from eed_search.forecast.calibration import calibrate
    from eed_search.forecast.expected_cost import forecast
    from eed_search.forecast.foreseen import draws
    from eed_search.forecast.space_size import all_members, plans_of, space_size
    from eed_search.pipeline.context import StageContext
    from eed_search.pipeline.training import check_sizes
    from eed_search.runs.run_folder import with_absolute_data
    from eed_search.storage.store import Store

    if not plugins.are_loaded(spec.plugins):
        spec = spec.model_copy(update={"plugins": ()})  # nothing of it is used
    spec = with_absolute_data(spec)
    refuse_download(spec.data)
    context = StageContext(spec, Store(home / "store", read_only=True), lambda text: None)
    check_sizes(context)
    assert context.data.facts is not None
    for line in image_lines(context.data.facts):
        tell(f"  {line}")
    tell("Measuring a few batches and latency rounds on this machine ...")
    proposals = draws(spec)
    everyone = all_members(spec)
    wanted = {plan for draw in proposals for plan in plans_of(draw.params, spec)}
    cached = find_cached(context, {*everyone, *wanted})
    units = calibrate(context, cores=cores)
    # Members that chance would ask for: those that a space holds may be thousands.
    held = {
        "base": (int(cached.base), 1),
        "baselines": (len(cached.baselines), len(spec.baselines.sizes) * len(spec.baselines.recoveries)),
        "scores": (len(cached.scores), len(units.scores_s)),
        "members": (len(cached.members), len(everyone) or len(wanted)),
    }
    found = forecast(spec, units, proposals, cached, slots)
    return _Outlook(spec, context.data.facts, space_size(spec), held, units, found)


def _with_gpus(spec: Spec, num_gpus: int, cores: int) -> tuple[Spec, str]:
    """Replace `resources.gpu: auto` by a number, as a launch would."""
    from eed_search.pipeline.gpu_share import share_gpus

    return share_gpus(spec, num_gpus, cores)


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


@dataclass(frozen=True)
class _Outlook:
    """What was measured, and what follows from it; `held`: by kind of stage, how many the store has, and of how many."""

    spec: Spec
    data: DataFacts
    space: SpaceSize
    held: dict[str, tuple[int, int]]
    units: UnitCosts
    found: Forecast

    def facts(self, home: Path) -> dict[str, Any]:
        """Put everything together for other programs; seconds and bytes, `low` and `high`."""
        spec, units, found = self.spec, self.units, self.found
        return {
            "trials": found.trials,
            "slots": found.slots,
            "rungs": list(RUNGS) if spec.search.racing else [],
            "space": asdict(self.space),
            "store": {name: {"there": there_, "of": of} for name, (there_, of) in self.held.items()},
            "stages": [asdict(stage) for stage in found.stages],
            "wall_s": {
                "base": asdict(found.base_s),
                "baselines and trials": asdict(found.trials_s),
                "revalidation": asdict(found.revalidation_s),
                "total": asdict(found.wall_s),
            },
            "time_budget_s": spec.search.time_budget_s,
            "disk_bytes": {
                "store": asdict(found.store_bytes),
                "run": found.run_bytes,
                "ledger": found.ledger_bytes,
                "free": free_bytes(home),
            },
            "units": asdict(units) | {"baseline_recipe": units.baseline_recipe.model_dump()},
        }

    def lines(self, home: Path, there: Preview) -> list[str]:
        """Say it all for a person, in 80 columns."""
        spec, found = self.spec, self.found
        return [
            "",
            f"space     {_space_line(spec, self.space)}",
            f"rungs     {_rungs_line(spec)}",
            f"run       {_run_line(there, home)}",
            f"store     {_store_line(self.held)}",
            "",
            f"work of one slot of {found.slots}, from {self.units.seconds:.0f} s of measurement:",
            f"  {'':<18}{'computed':>10}{'reused':>10}   {'time':<18}",
            *(
                f"  {one.stage:<18}{_range(one.computed, '{:.0f}'):>10}{one.reused:>10}   {_times(one.seconds):<18}".rstrip()
                for one in found.stages
                if one.computed.high or one.reused
            ),
            "",
            f"time      {_times(found.wall_s)} in all: base {_times(found.base_s)}; baselines and trials",
            f"          {_times(found.trials_s)}, {found.slots} at once; revalidation {_times(found.revalidation_s)}",
            *_time_notes(spec),
            f"disk      {_range(found.store_bytes * 1e-6, '{:.0f}')} MB in the store, {found.run_bytes / 1e6:.0f} MB beside it"
            f" (ledger {found.ledger_bytes / 1e6:.1f} MB); {size_of(free_bytes(home))} are free",
            *([f"          NOTE: {lack}"] if (lack := shortage(home, spec.search.trials)) else []),
        ]


def _space_line(spec: Spec, space: SpaceSize) -> str:
    if space.members is None:
        return "members of any size of a range, so without number"
    return (
        f"{space.members:,} members, {space.teams:,} {'pools' if spec.team.mode == 'pool' else 'teams'} of them,"
        " whatever the loss weights and the gate"
    )


def _rungs_line(spec: Spec) -> str:
    if not spec.search.racing:
        return "none: every trial runs to its end"
    return f"{' and '.join(RUNGS)}: one trial in {spec.search.eta} goes on at once, the others wait"


def _run_line(there: Preview, home: Path) -> str:
    if there.state == "free":
        return f"{there.name} (free) in {home}"
    if there.state == "no search":
        return f"{there.name}: {home / there.name} exists already and is no search; a launch would be refused"
    resume = f"; a resume would run {there.num_again} again and {max(0, there.num_trials - there.num_ended - there.num_again)} more"
    return (
        f"{there.name} is there already ({there.state}, {there.num_ended} of {there.num_trials} trials finished); a launch"
        f" would be refused{'' if there.state in ('running', 'finished') else resume}"
    )


def _store_line(held: dict[str, tuple[int, int]]) -> str:
    if not any(number for number, _ in held.values()):
        return "holds nothing of this search yet"
    return "holds " + ", ".join(f"{held[name][0]} of {held[name][1]} {name}" for name in _STORED if held[name][1])


def _time_notes(spec: Spec) -> list[str]:
    lines = [
        "          (low: the model asks for no new member and the races give up all they may;",
        "          high: new members as by chance, every trial to its end. Every image counts",
        "          as attacked to the last step; the start of Ray, some seconds, is not in it)",
    ]
    if spec.search.time_budget_s is not None:
        lines.append(f"          (no trial is begun after {duration(spec.search.time_budget_s)})")
    return lines


def _times(span: Span) -> str:
    low, high = duration(span.low), duration(span.high)
    return low if low == high else f"{low} to {high}"


def _range(span: Span, form: str) -> str:
    low, high = form.format(span.low), form.format(span.high)
    return low if low == high else f"{low}-{high}"
