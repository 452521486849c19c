"""The study as a view of the ledger: made again at any point it is the same, and proposes the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from eed_search.config.params import TrialParams
from eed_search.config.registry import BUILT_IN
from eed_search.config.spec import Choice, Constraints, GateSpec, Search, Space, Spec, Threat
from eed_search.core.errors import RunError
from eed_search.frontier.static_constraints import ArchitectureProfile, StaticConstraints
from eed_search.runs.ledger import Event, RunView, fold
from eed_search.runs.records import TrialRecord, to_json
from eed_search.search.outcome import record_of as judged
from eed_search.search.sampling.study import (
    STUDY_FILE,
    SWEPT,
    close_study,
    open_study,
    own_trials,
    rebuild_study,
)
from eed_search.search.sampling.trial_queue import TrialQueue
from tests.search import stub_pipeline

NUM_TRIALS = 13
FIRST = ({"num_members": 1}, {"num_members": 2, "member1.size": 0.5})


def spec_of(sampler: str = "tpe", trials: int = NUM_TRIALS, **search: Any) -> Spec:
    """A small search."""
    made = Search(trials=trials, sampler=sampler, startup_trials=4, first=FIRST, **search)  # type: ignore[arg-type]
    return Spec(name="s", threat=Threat(eps=0.1), search=made)


def record_of(number: int, params: dict[str, Any]) -> TrialRecord:
    """What the trial gives: follows from its parameters; some fail, some break a limit."""
    if number % 5 == 3:
        return TrialRecord(number, params, "failed", "diverged", "loss is nan")
    made = stub_pipeline.run(number, TrialParams.from_flat(params), None, stub_pipeline.Probe(), lambda text: None)
    violation = 0.5 if number % 7 == 6 else -0.5
    return judged(number, params, {"record": replace(made, constraints={"size": violation})})


class Ledger:
    """Writes events into a view, without a file."""

    def __init__(self) -> None:
        self.view = RunView(name="s")
        self.events: list[Event] = []

    def append(self, kind: Any, data: dict[str, Any], trial: int | None = None) -> None:
        event = Event(len(self.events) + 1, kind, trial, data, float(len(self.events)))
        self.events.append(event)
        fold(self.view, event)

    def proposal(self, number: int, params: dict[str, Any], drawn: dict[str, Any]) -> None:
        self.append("proposal", {"params": params, "drawn": drawn}, number)

    def result(self, record: TrialRecord) -> None:
        self.append("result", to_json(record), record.number)


def prefix(ledger: Ledger, num_events: int) -> RunView:
    """What a killed driver's ledger holds."""
    view = RunView(name="s")
    for event in ledger.events[:num_events]:
        fold(view, event)
    return view


def work(trial_queue: TrialQueue, ledger: Ledger, at_once: int = 1) -> None:
    """Run trials until the trial queue has none; with several at once, they end in the order of their start."""
    out = []
    while True:
        while (proposal := trial_queue.propose()) is not None:
            out.append(proposal)
        if not out:
            return
        proposal = out.pop(0)
        record = record_of(proposal.number, proposal.params)
        ledger.result(record)
        trial_queue.tell(record)


@contextmanager
def closing(study: optuna.Study) -> Iterator[optuna.Study]:
    """Close the study in the end."""
    try:
        yield study
    finally:
        close_study(study)


def undisturbed(folder: Path, spec: Spec, at_once: int = 1) -> tuple[Ledger, dict[int, Any]]:
    """A whole search, and what its study holds."""
    ledger = Ledger()
    folder.mkdir()
    with closing(open_study(folder / STUDY_FILE, "s", spec)) as study:
        work(TrialQueue(study, spec, max_concurrent=at_once, on_proposal=ledger.proposal), ledger)
        return ledger, contents(study)


def contents(study: optuna.Study) -> dict[int, Any]:
    """What a study holds of each trial."""
    return {t.number: (t.state, t.values, t.params, t.distributions, t.constraints) for t in study.trials}


FAST = {(3, "portfolio"), (1, "tpe"), (1, "nsga2")}


@pytest.mark.parametrize(
    ("at_once", "sampler"),
    [
        pytest.param(at_once, one, marks=[] if (at_once, one) in FAST else pytest.mark.whole)
        for at_once in (1, 3)
        for one in sorted(BUILT_IN["sampler"])
    ],
)
def test_a_resumed_search_proposes_what_the_undisturbed_one_does(tmp_path: Path, sampler: str, at_once: int) -> None:
    """Killed after any of some events: proposals, drawn values and the study's content are the same.

    With several trials at once this holds where the order of the events before and after is the same.
    """
    spec = spec_of(sampler, 8 if sampler == "gp" else NUM_TRIALS)  # its proposals take a second each
    whole, study_then = undisturbed(tmp_path / "whole", spec, at_once)
    cuts: tuple[int, ...] = (0, 3, 14, len(whole.events)) if at_once == 1 else (len(whole.events),)
    if sampler == "gp":
        cuts = cuts[-2:-1] or cuts
    for cut in cuts:
        ledger = Ledger()
        for event in whole.events[:cut]:
            ledger.append(event.kind, event.data, event.trial)
        view = ledger.view
        path = tmp_path / f"{cut}.sqlite"
        with closing(rebuild_study(view, spec, path)) as study:
            unfinished = {n: view.proposals[n] for n in view.unfinished()}
            trial_queue = TrialQueue(
                study, spec, unfinished=unfinished, max_concurrent=at_once, on_proposal=ledger.proposal
            )
            work(trial_queue, ledger)
            assert ledger.view.proposals == whole.view.proposals, cut
            assert ledger.view.drawn == whole.view.drawn, cut
            assert contents(study) == study_then, cut


def test_the_model_asks_for_no_team_twice(tmp_path: Path) -> None:
    """Only the gate threshold is a number here, and the sweep reads a team's other ones anyway: there are six trials."""
    fixed = {name: Choice(values=(1.0,)) for name in ("beta", "omega", "gamma")}
    space = Space(
        num_members=Choice(values=(2,)),
        score=Choice(values=("nis", "erm")),
        size=Choice(values=(0.5,)),
        subsets=Choice(values=("all",)),
        **fixed,
    )
    proposed = {}
    for sweep in (0, 3):
        spec = Spec(
            name="s",
            threat=Threat(eps=0.1),
            search=Search(trials=15, startup_trials=2, space=space),
            gate=GateSpec(sweep=sweep),
        )
        whole, _ = undisturbed(tmp_path / str(sweep), spec)
        proposed[sweep] = [
            frozenset((key, value) for key, value in params.items() if key != "gate_threshold")
            for _, params in sorted(whole.view.proposals.items())
        ]
    teams = proposed[3]
    assert len(set(teams)) == 6
    by_model = [number for number in range(2, 15) if number % 3 != 2]
    complete = max(teams.index(team) for team in teams)
    assert not [number for number in by_model if number < complete and teams[number] in teams[:number]]
    assert [number for number in by_model if proposed[0][number] in proposed[0][:number]]


def test_the_portfolio_asks_for_nothing_that_surely_breaks_a_limit(tmp_path: Path) -> None:
    """Neither at random nor by its model; two members of the larger form are beyond this limit, first proposals stay."""
    limits = Constraints(max_worst_case_slowdown=0.9)
    space = Space(num_members=Choice(values=(1, 2)), size=Choice(values=(0.25, 0.5)))
    first = ({"num_members": 2, "member1.size": 0.5, "member2.size": 0.5},)
    spec = Spec(
        name="s",
        threat=Threat(eps=0.1),
        search=Search(trials=16, startup_trials=6, space=space, constraints=limits, first=first),
    )
    known = StaticConstraints(spec, (ArchitectureProfile(0.25, 0.3, 1), ArchitectureProfile(0.5, 0.5, 2)), 1.0, 0.0)
    teams = {}
    for name, beforehand in (("known", known), ("unknown", None)):
        ledger = Ledger()
        with closing(open_study(tmp_path / f"{name}.sqlite", "s", spec)) as study:
            work(TrialQueue(study, spec, on_proposal=ledger.proposal, beforehand=beforehand), ledger)
        found = [TrialParams.from_flat(one) for _, one in sorted(ledger.view.proposals.items())]
        teams[name] = [sorted(member.size for member in one.members) for one in found]
    assert teams["known"][0] == [0.5, 0.5]
    assert [0.5, 0.5] not in teams["known"][1:]
    assert [0.5, 0.5] in teams["unknown"][1:]
    assert [0.25, 0.5] in teams["known"]


def test_unfinished_trials_are_handed_out_first_and_once_written(tmp_path: Path) -> None:
    """The same number and parameters; the ledger keeps their proposal once."""
    spec = spec_of("random")
    whole, _ = undisturbed(tmp_path / "whole", spec, at_once=3)
    view = prefix(whole, 6)  # three proposals, a result, a proposal, a result
    assert view.unfinished() == [2, 3]
    told: list[int] = []
    with closing(rebuild_study(view, spec, tmp_path / STUDY_FILE)) as study:
        trial_queue = TrialQueue(
            study,
            spec,
            unfinished={n: view.proposals[n] for n in view.unfinished()},
            max_concurrent=3,
            on_proposal=lambda number, params, drawn: told.append(number),
        )
        handed = [trial_queue.propose() for _ in range(3)]
    assert [p.number for p in handed if p] == [2, 3, 4]
    assert [p.params for p in handed if p][:2] == [whole.view.proposals[2], whole.view.proposals[3]]
    assert told == [4]


def test_what_was_in_the_file_is_thrown_away(tmp_path: Path) -> None:
    """A study with zombies, and a journal of SQLite's that a kill has left."""
    spec = spec_of("random")
    path = tmp_path / STUDY_FILE
    with closing(open_study(path, "s", spec)) as study:
        study.ask(), study.ask()
    path.with_name(f"{path.name}-journal").write_bytes(b"left by a kill")
    with closing(rebuild_study(RunView(name="s"), spec, path)) as study:
        assert [trial.state for trial in study.trials] == [TrialState.WAITING] * len(FIRST)
    assert {file.name for file in tmp_path.iterdir()} == {STUDY_FILE}


@pytest.mark.parametrize(("kind", "told"), [("clean", 0.2), ("worst_case", 0.9)])
def test_optuna_is_told_the_latency_that_ranks(tmp_path: Path, kind: str, told: float) -> None:
    """Of the trial's own threshold and of swept ones; after a replay too."""
    measured = stub_pipeline.measurement(0.8, 0.2)
    slow = replace(measured, latency=replace(measured.latency, worst_case_ms=0.9))
    spec, ledger = spec_of(trials=1, latency_objective=kind), Ledger()
    study = open_study(tmp_path / STUDY_FILE, "s", spec)
    trial_queue = TrialQueue(
        study,
        spec,
        on_proposal=lambda number, params, drawn: ledger.append("proposal", {"params": params, "drawn": drawn}, number),
    )
    proposal = trial_queue.propose()
    assert proposal is not None
    record = TrialRecord(0, proposal.params, "done", measurement=slow)
    ledger.append("result", to_json(record), 0)
    trial_queue.tell(record)
    assert own_trials(study)[0].values == [0.8, told]
    close_study(study)
    again = rebuild_study(ledger.view, spec, tmp_path / STUDY_FILE)
    assert own_trials(again)[0].values == [0.8, told]
    close_study(again)


def test_a_study_made_again_holds_what_was_confirmed(tmp_path: Path) -> None:
    """A swept threshold was an upper bound while the trials ran; one that breaks a limit by what was confirmed is gone."""
    limits = Constraints(min_robust_accuracy=0.5)
    spec = spec_of().model_copy(update={"search": spec_of(constraints=limits).search})
    whole, before = undisturbed(tmp_path / "whole", spec)
    view = whole.view
    view.spec, view.base = spec.to_plain(), stub_pipeline.prepare(spec, tmp_path, lambda text: None).base
    ids = [f"{n}.1" for n, t in sorted(view.trials.items()) if t.swept][:2]
    found = {
        id_: replace(view.trials[int(id_[:-2])].swept[0].measurement, latency=stub_pipeline.latency(0.1)) for id_ in ids
    }
    kept, broken = (
        replace(m.robust_accuracy, value=value) for m, value in zip(found.values(), (0.6, 0.4), strict=True)
    )
    view.confirmed = {
        ids[0]: replace(found[ids[0]], robust_accuracy=kept),
        ids[1]: replace(found[ids[1]], robust_accuracy=broken),
    }
    view.proposed_before = dict.fromkeys(ids, NUM_TRIALS)
    with closing(rebuild_study(view, spec, tmp_path / "same.sqlite")) as study:
        assert contents(study) == before  # no trial follows
    more = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": NUM_TRIALS + 1})})
    with closing(rebuild_study(view, more, tmp_path / "again.sqlite")) as study:
        again = {t.user_attrs[SWEPT]: t.values for t in study.trials if SWEPT in t.user_attrs}
        others = len(study.trials)
    assert again[ids[0]] == [0.6, 0.1]
    assert ids[1] not in again
    assert others == len(before) - 1


def test_closing_leaves_nothing_running(tmp_path: Path) -> None:
    """Trials that were handed out, and those that wait to be handed out again."""
    spec = spec_of("random")
    whole, _ = undisturbed(tmp_path / "whole", spec, at_once=3)
    view = prefix(whole, 6)
    with closing(rebuild_study(view, spec, tmp_path / STUDY_FILE)) as study:
        trial_queue = TrialQueue(study, spec, unfinished={n: view.proposals[n] for n in view.unfinished()})
        trial_queue.propose()
        trial_queue.close()
        states = [trial.state for trial in own_trials(study)]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]


def test_a_lost_trial_comes_again_before_anything_new(tmp_path: Path) -> None:
    """And the search is not finished while one that is out may still be lost."""
    spec = spec_of("random", trials=2)
    with closing(open_study(tmp_path / STUDY_FILE, "s", spec)) as study:
        trial_queue = TrialQueue(study, spec, max_concurrent=2)
        first, second = trial_queue.propose(), trial_queue.propose()
        assert first
        assert second
        assert not trial_queue.finished
        trial_queue.again(first.number)
        again = trial_queue.propose()
        assert again == replace(first, attempt=2)
        for proposal in (first, second):
            trial_queue.tell(record_of(proposal.number, proposal.params))
        assert trial_queue.finished


def test_more_trials_than_before_go_on_where_it_ended(tmp_path: Path) -> None:
    """A finished search that is extended proposes what a longer one would have."""
    short, _ = undisturbed(tmp_path / "short", spec_of("tpe", 8))
    long, _ = undisturbed(tmp_path / "long", spec_of("tpe", 12))
    with closing(rebuild_study(short.view, spec_of("tpe", 12), tmp_path / STUDY_FILE)) as study:
        work(TrialQueue(study, spec_of("tpe", 12), on_proposal=short.proposal), short)
    assert short.view.proposals == long.view.proposals


def test_a_space_that_lost_a_value_is_refused(tmp_path: Path) -> None:
    """The finished trials could not be told to a sampler that never heard of it."""
    whole, _ = undisturbed(tmp_path / "whole", spec_of("random"))
    narrow = spec_of("random", space=Space(score=Choice(values=("nis",))))
    with pytest.raises(RunError, match=r"run s: trial \d+ does not fit the search space any more .* put search.space"):
        rebuild_study(whole.view, narrow, tmp_path / STUDY_FILE)


def test_a_ledger_without_a_proposal_is_refused(tmp_path: Path) -> None:
    """Numbers count without a gap."""
    view = RunView(name="s")
    whole, _ = undisturbed(tmp_path / "whole", spec_of("random"))
    fold(view, whole.events[2])  # proposal 1
    with pytest.raises(RunError, match="its ledger lacks proposal 0"):
        rebuild_study(view, spec_of("random"), tmp_path / STUDY_FILE)


def test_nothing_new_is_proposed_once_it_is_enough(tmp_path: Path) -> None:
    """Trials that are out go on; then the search is finished before its number of trials."""
    study = open_study(tmp_path / STUDY_FILE, "s", spec_of("random"))
    enough = False
    trial_queue = TrialQueue(study, spec_of("random"), max_concurrent=2, enough=lambda: enough)
    first, second = trial_queue.propose(), trial_queue.propose()
    assert first is not None
    assert second is not None
    enough = True
    trial_queue.tell(record_of(first.number, first.params))
    assert trial_queue.propose() is None
    assert not trial_queue.finished
    trial_queue.tell(record_of(second.number, second.params))
    assert trial_queue.finished
    close_study(study)
