"""Resume: what is finished is not done again, what has changed is refused, and how a run ended counts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from eed_search.config.spec import Baselines, Search, Spec, Threat
from eed_search.core.errors import RunError, SpecError
from eed_search.runs.home import SPACE_FILE
from eed_search.runs.ledger import FILE_NAME, Event, Ledger, RunView, read_run
from eed_search.runs.run_lock import driving
from eed_search.search import LocalWorkers, Silent, provenance
from eed_search.search.driver import run
from eed_search.search.resume import mark_cancelled, resume
from eed_search.tracking.mlflow_store import connect
from tests.runs.ledgers import cut as cut_ledger
from tests.runs.ledgers import rewritten
from tests.search import stub_pipeline

pytestmark = [  # MLflow and what it brings leave connections to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NUM_TRIALS = 5


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished search."""
    home = tmp_path_factory.mktemp("finished")
    spec = Spec(
        name="s",
        threat=Threat(eps=0.15),
        search=Search(trials=NUM_TRIALS, startup_trials=3, first=({"num_members": 1},), racing=False),
        baselines=Baselines(sizes=(0.5,)),
    )
    run(spec, home=home, name="s", pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers())  # type: ignore[arg-type]
    return home


@pytest.fixture
def cut(finished: Path, tmp_path: Path) -> Callable[[str, int], Path]:
    """Copy the search as it was when its driver was killed right after the nth event of a kind."""

    def copy(kind: str, nth: int = 1) -> Path:
        folder = shutil.copytree(finished, tmp_path / "home") / "s"
        last = [event.seq for event in events(folder) if event.kind == kind][nth - 1]
        cut_ledger(folder, last)
        return folder

    return copy


class Counting:
    """The stub, counting what is asked of it."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        function = getattr(stub_pipeline, name)

        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.calls[name] += 1
            return function(*arguments, **keywords)

        counted.__signature__ = signature(function)  # type: ignore[attr-defined]
        return counted


def go_on(folder: Path, pipeline: Any = stub_pipeline, **options: Any) -> RunView:
    """Resume in this process."""
    return resume(folder, pipeline=pipeline, listener=Silent(), workers=LocalWorkers(), **options)


def events(folder: Path) -> list[Event]:
    """All that a run's ledger holds."""
    with Ledger(folder / FILE_NAME) as ledger:
        return list(ledger.events())


def test_what_is_finished_is_not_done_again(cut: Any, finished: Path) -> None:
    """Three of five trials, the base and the baseline are there: two trials are run."""
    folder = cut("result", 3)
    pipeline = Counting()
    view = go_on(folder, pipeline)
    whole = read_run(finished / "s")
    assert (pipeline.calls["run"], pipeline.calls["baseline"]) == (NUM_TRIALS - 3, 0)
    assert view.state == "finished"
    assert (view.trials, view.proposals, view.latencies) == (whole.trials, whole.proposals, whole.latencies)
    assert view.num_resumes == 1
    assert [event.kind for event in events(folder)].count("base") == 1


def test_a_trial_under_way_is_run_again_as_it_was_proposed(cut: Any, finished: Path) -> None:
    """The same number, one attempt more, no second proposal."""
    folder = cut("attempt", 3)
    view = go_on(folder)
    assert view.attempts[2] == 2
    assert view.trials == read_run(finished / "s").trials
    assert [event.trial for event in events(folder) if event.kind == "proposal"] == list(range(NUM_TRIALS))


@pytest.mark.whole
def test_the_reference_latency_stays_that_of_the_start(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base takes twice as long now: finished trials were measured against the first time; it is said."""
    folder = cut("result", 2)
    before = read_run(folder).base
    prepare = stub_pipeline.prepare

    def slower(spec: Any, store_root: Any, report: Any) -> Any:
        made = prepare(spec, store_root, report)
        base = replace(made.base, measurement=stub_pipeline.measurement(0.84, 2.0, "base.1/b"))
        return replace(made, base=base)

    monkeypatch.setattr(stub_pipeline, "prepare", slower)
    view = go_on(folder)
    assert view.base == before
    assert any("at the resume the dense base took 2 ms, at the start 1 ms" in note for note in view.notes)


def test_a_kill_in_the_final_phase_needs_no_trial_again(cut: Any) -> None:
    """All trials and latencies are there: only the report and the end are missing."""
    folder = cut("end")
    with rewritten(folder) as database:
        database.execute("DELETE FROM event WHERE kind = 'end'")
    pipeline = Counting()
    shutil.rmtree(folder / "report")
    assert go_on(folder, pipeline).state == "finished"
    assert pipeline.calls["run"] == 0
    assert (folder / "report" / "frontier.json").is_file()


def test_a_finished_run_is_refused_with_what_can_be_done(finished: Path) -> None:
    """Nothing is left; more trials extend it."""
    with pytest.raises(RunError, match=r"run s: is finished, with 5 trials: .* resume s --trials 10`, or look at it"):
        go_on(finished / "s")
    assert read_run(finished / "s").state == "finished"


@pytest.mark.whole
def test_a_run_that_its_time_budget_ended_is_finished(cut: Any) -> None:
    """Fewer trials than its file allows: it is opened again by more time or more trials only."""
    folder = cut("result", 3)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("tracker", {"complete": True})
        ledger.append("end", {"state": "finished", "reason": ""})
    with pytest.raises(RunError, match="run s: is finished, with 3 trials"):
        go_on(folder)
    assert len(go_on(folder, trials=NUM_TRIALS + 1).trials) == NUM_TRIALS + 1


def test_more_trials_extend_a_finished_run(cut: Any) -> None:
    """The file says so afterwards; what was there stays."""
    folder = cut("end")
    before = read_run(folder)
    view = go_on(folder, trials=NUM_TRIALS + 2)
    assert view.num_trials()["done"] == NUM_TRIALS + 2
    assert {n: view.trials[n] for n in before.trials} == before.trials
    assert view.spec["search"]["trials"] == NUM_TRIALS + 2
    assert yaml.safe_load((folder / SPACE_FILE).read_text())["search"]["trials"] == NUM_TRIALS + 2


def test_fewer_trials_than_there_are_is_refused(cut: Any) -> None:
    """A trial cannot be taken back."""
    with pytest.raises(RunError, match=r"--trials 2: run s has proposed 3 already; give at least that many"):
        go_on(cut("result", 3), trials=2)


# ---------------------------------------------------------------- what changed


def edit(folder: Path, old: str, new: str) -> None:
    """Change a run's own file."""
    path = folder / SPACE_FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_changed_file_is_refused_with_the_difference(cut: Any) -> None:
    """Nothing is written to the ledger."""
    folder = cut("result", 3)
    edit(folder, "eps: 0.15", "eps: 0.2")
    before = events(folder)
    with pytest.raises(
        RunError, match=r"something changed since:\n  search_space.yaml: threat.eps: 0.15 → 0.2\nPut it back"
    ):
        go_on(folder)
    assert events(folder) == before


def test_a_change_that_is_accepted_is_written_down(cut: Any) -> None:
    """The ledger, the notes and the settings say so, and the next resume compares with it."""
    folder = cut("result", 3)
    edit(folder, "eps: 0.15", "eps: 0.2")
    view = go_on(folder, allow_drift=True)
    assert view.spec["threat"]["eps"] == 0.2
    assert "resumed although changed: search_space.yaml: threat.eps: 0.15 → 0.2" in view.notes
    (event,) = (event for event in events(folder) if event.kind == "resume")
    assert event.data["drift"] == ["search_space.yaml: threat.eps: 0.15 → 0.2"]
    go_on(folder, trials=NUM_TRIALS + 1)


@pytest.mark.whole
def test_how_long_a_search_lasts_may_change(cut: Any) -> None:
    """Trials, time budget and time-out are no part of what a result depends on."""
    folder = cut("result", 3)
    edit(folder, f"trials: {NUM_TRIALS}", f"trials: {NUM_TRIALS + 1}")
    edit(folder, "time_budget_s: null", "time_budget_s: 3600.0")
    assert go_on(folder).num_trials()["done"] == NUM_TRIALS + 1


def test_changed_code_is_refused_by_its_file(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own modules, by hash."""
    folder = cut("result", 3)
    now = provenance.code_files()
    monkeypatch.setattr(provenance, "code_files", lambda: now | {"trial.py": "another"})
    with pytest.raises(RunError, match=r"eed-search's code: changed: trial\.py"):
        go_on(folder)
    assert go_on(folder, allow_drift=True).state == "finished"


def test_changed_data_are_refused_with_both_hashes(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content counts, not the time stamp."""
    folder = cut("result", 3)
    monkeypatch.setattr(provenance, "data_files", lambda data: {"digits.csv.gz": "0000, 3 bytes"})
    with pytest.raises(RunError, match=r"data \(digits\): changed: digits\.csv\.gz \(.* bytes → 0000, 3 bytes\)"):
        go_on(folder)


def test_a_file_that_is_gone_is_written_again(cut: Any) -> None:
    """The ledger knows every setting."""
    folder = cut("result", 3)
    text = (folder / SPACE_FILE).read_text()
    (folder / SPACE_FILE).unlink()
    assert go_on(folder).state == "finished"
    assert (folder / SPACE_FILE).read_text() == text


def test_a_file_with_mistakes_is_refused(cut: Any) -> None:
    """As at a launch."""
    folder = cut("result", 3)
    edit(folder, "eps: 0.15", "eps: 8")
    with pytest.raises(SpecError, match=r"search_space.yaml: threat.eps: 8 is outside"):
        go_on(folder)


@pytest.mark.whole
def test_another_library_is_noted_only(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ours, and the store's keys hold what they must."""
    folder = cut("result", 3)
    now = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: now | {"torch": "9.9"})
    assert any(note.startswith("resumed with other versions: torch ") for note in go_on(folder).notes)


# ---------------------------------------------------------------- how it ended


def test_a_run_that_is_driven_is_refused(cut: Any) -> None:
    """Two drivers would both write."""
    folder = cut("result", 3)
    with driving(folder), pytest.raises(RunError, match=r"run s: still runs \(process \d+\)"):
        go_on(folder)


def test_trials_that_a_stop_ended_run_again(cut: Any, finished: Path) -> None:
    """They count as pruned while the search is stopped; then they get their result."""
    folder = cut("attempt", 4)
    mark = {"number": 3, "params": read_run(folder).proposals[3], "outcome": "pruned", "reason": "stopped"}
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("result", mark, 3)
        ledger.append("end", {"state": "stopped", "reason": "stop"})
    assert read_run(folder).stopped_trials() == [3]
    view = go_on(folder)
    assert view.trials == read_run(finished / "s").trials
    assert view.state == "finished"


def test_a_cancelled_run_needs_force(cut: Any) -> None:
    """And MLflow shows nothing of it as RUNNING."""
    folder = cut("result", 3)
    mark_cancelled(folder)
    view = read_run(folder)
    assert (view.state, view.requests, view.num_trials()["running"]) == ("cancelled", ["cancel"], 0)
    client = connect(view.tracker["uri"])
    assert client.search_runs([view.tracker["experiment_id"]], "attributes.status = 'RUNNING'") == []
    with pytest.raises(RunError, match=r"was cancelled after 3 trials; .* --force"):
        go_on(folder)
    assert go_on(folder, force=True).state == "finished"


@pytest.mark.whole
def test_what_mlflow_missed_is_completed(cut: Any) -> None:
    """The search is finished, MLflow was away: no trial is run, MLflow gets the rest."""
    folder = cut("end")
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        ledger.append("tracker", {"complete": False, "cursor": 3})
    home = folder.parent
    for file in home.glob("mlflow.db*"):
        file.unlink()
    pipeline = Counting()
    view = go_on(folder, pipeline)
    assert pipeline.calls == {}
    assert view.tracker["complete"] is True
    runs = connect(view.tracker["uri"]).search_runs([view.tracker["experiment_id"]])
    assert len(runs) == 1 + 1 + 1 + NUM_TRIALS + len(view.confirmed)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_run_that_was_killed_before_its_first_event_begins(tmp_path: Path, finished: Path) -> None:
    """There is a folder and a file, and no more."""
    folder = tmp_path / "s"
    folder.mkdir()
    shutil.copy(finished / "s" / SPACE_FILE, folder / SPACE_FILE)
    view = go_on(folder)
    assert (view.name, view.state, view.num_resumes) == ("s", "finished", 0)
    assert view.trials == read_run(finished / "s").trials


def test_time_between_drivers_does_not_count(cut: Any) -> None:
    """A search that slept for a day was at work for seconds."""
    folder = cut("result", 3)
    with rewritten(folder) as database:
        database.execute("UPDATE event SET at = at - 86400")
    assert go_on(folder).seconds < 3600
