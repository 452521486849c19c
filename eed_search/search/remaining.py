"""What a run still lacks, and what keeps it from more: pure functions of its view and its file."""

from __future__ import annotations

from eed_search.config.spec import Spec
from eed_search.frontier.points import stalled
from eed_search.runs.ledger import RunView
from eed_search.search.revalidation import next_step


def work_left(view: RunView, spec: Spec) -> bool:
    """Whether a run lacks a base, a baseline, a trial or something of its finals."""
    proposed, ended = len(view.proposals), len(view.trials)
    return bool(
        view.base is None
        or baselines_to_train(view, spec)
        or ended < proposed
        or to_reopen(view, spec)
        or (proposed < spec.search.trials and not held_up(view, spec))
        or next_step(view) is not None
    )


def to_reopen(view: RunView, spec: Spec) -> list[int]:
    """Number the trials whose end says nothing about them, and that go on: those of a stop; with more time, those that waited."""
    return sorted([*view.stopped_trials(), *([] if _time_is_over(view, spec) else view.out_of_time())])


def held_up(view: RunView, spec: Spec) -> str:
    """Say which key keeps a run from proposing anything more, and why; nothing where none does."""
    search = spec.search
    if _time_is_over(view, spec):
        return f"search.time_budget_s {search.time_budget_s:g}: {view.seconds:.0f} s are used"
    if stalled(view, search.patience):
        return f"search.patience {search.patience}: so many trials in a row added nothing to the hypervolume"
    return ""


def ended_early(view: RunView, spec: Spec) -> str:
    """Say which key keeps a run from the trials that it lacks, as `held_up` does; nothing where nothing is lacking."""
    lacks = len(view.proposals) < spec.search.trials or view.out_of_time()
    return held_up(view, spec) if lacks and not to_reopen(view, spec) else ""


def _time_is_over(view: RunView, spec: Spec) -> bool:
    budget = spec.search.time_budget_s
    return budget is not None and view.seconds >= budget


def baselines_to_train(view: RunView, spec: Spec) -> list[float]:
    """List the sizes of the baselines that a run lacks."""
    there = {baseline.size for baseline in view.baselines}
    return [size for size in spec.baselines.sizes if size not in there]
