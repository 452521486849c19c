"""Whole searches under a real Ray, with a pipeline that needs no torch."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
import pytest
import ray
from optuna.trial import TrialState

from eed_search.config.spec import Baselines, Resources, Search, Spec, Threat
from eed_search.core.errors import RunError, SpecError, TrialFailure
from eed_search.frontier.estimate import estimate_frontier
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.home_lock import LOCK_NAME
from eed_search.runs.ledger import FILE_NAME, Event, Ledger, RungRecord, RunView, read_run
from eed_search.runs.records import Interval, Reference, TrialRecord
from eed_search.runs.run_folder import claim
from eed_search.search import LocalWorkers, Silent, Status, run
from eed_search.search.driver import ray_workers
from eed_search.search.execution.monitor import Post
from eed_search.search.execution.ray_glue import PROBE, Machine
from eed_search.search.journal import NOW_FILE
from eed_search.search.racing.rung_scheduler import RUNGS
from eed_search.search.sampling.study import STUDY_FILE, SWEPT, close_study, own_trials
from eed_search.search.sampling.trial_queue import TrialQueue
from eed_search.search.trial_phase import MOST_LOSSES
from eed_search.system.processes import Worker
from tests.search import stub_pipeline
from tests.waiting import until

# Ray, MLflow and what they bring leave sockets and files to the garbage collector.
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FAULTS = {2: "raise", 4: "nan", 5: "exit", 6: "limit", 7: "missing", 9: "wrong"}
NUM_TRIALS = 12
ENDS = {"done": TrialState.COMPLETE, "infeasible": TrialState.PRUNED, "failed": TrialState.FAIL}


def spec_of(trials: int = NUM_TRIALS, *, racing: bool = False, **sections: Any) -> Spec:
    """Make a small search-space file; without a race, so that each trial comes to its own end."""
    first = ({"num_members": 1, "member1.size": 0.25}, {"num_members": 2, "member1.size": 0.5, "member2.size": 0.5})
    return Spec(
        name="stub", threat=Threat(eps=0.15), search=Search(trials=trials, first=first, racing=racing), **sections
    )


class Watcher(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.data: list[DataFacts] = []
        self.base: list[Reference] = []
        self.baselines: list[Reference] = []
        self.rungs: list[tuple[int, int, str]] = []
        self.results: list[TrialRecord] = []
        self.ticks: list[Status] = []

    def on_stage(self, text: str) -> None:
        self.stages.append(text)

    def on_data(self, facts: DataFacts) -> None:
        self.data.append(facts)

    def on_base(self, base: Reference) -> None:
        self.base.append(base)

    def on_baseline(self, baseline: Reference) -> None:
        self.baselines.append(baseline)

    def on_rung(self, number: int, report: RungRecord, view: RunView) -> None:
        self.rungs.append((number, report.rung, report.decision))

    def on_result(self, record: TrialRecord, view: RunView) -> None:
        assert view.trials[record.number] == record
        self.results.append(record)

    def on_tick(self, status: Status) -> None:
        self.ticks.append(status)


@dataclass
class Done:
    """A search that has ended, and all that it left."""

    view: RunView
    home: Path
    watcher: Watcher
    printed: str
    pids: dict[str, list[int]]
    events: list[Event] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.home / self.view.name

    def states(self) -> dict[int, TrialState]:
        study = optuna.load_study(study_name=self.view.name, storage=f"sqlite:///{self.folder / STUDY_FILE}")
        try:
            return {number: trial.state for number, trial in enumerate(own_trials(study))}
        finally:
            close_study(study)


@contextmanager
def printed_to(file: Any) -> Iterator[None]:
    """Send both streams to a file, those of child processes included."""
    before = [os.dup(number) for number in (1, 2)]
    sys.stdout.flush(), sys.stderr.flush()
    for number in (1, 2):
        os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for number, old in zip((1, 2), before, strict=True):
            os.dup2(old, number)
            os.close(old)


def children() -> list[str]:
    """Name the processes of Ray's that this one started."""
    names = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if int(rest.split()[1]) == os.getpid() and re.search("ray|gcs", name):
                names.append(name)
    return names


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """One search of twelve trials in which six go wrong, each in its own way."""
    home, pids = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("pids")
    watcher = Watcher()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile("w+") as file:
        patch.setenv("EED_STUB_FAULTS", json.dumps(FAULTS))
        patch.setenv("EED_STUB_PIDS", str(pids))
        with printed_to(file):
            view = run(spec_of(), home=home, name=None, pipeline=stub_pipeline, listener=watcher)
        file.seek(0)
        printed = file.read()
    left: dict[str, list[int]] = {}
    for path in sorted(pids.iterdir(), key=lambda path: int(path.name.split("-")[2])):
        what, pid, _ = path.name.split("-")
        left.setdefault(what, []).append(int(pid))
    with Ledger(home / view.name / "ledger.sqlite") as ledger:
        yield Done(view, home, watcher, printed, left, list(ledger.events()))


def test_it_finishes(done: Done) -> None:
    """It finishes."""
    assert (done.view.state, done.view.name) == ("finished", "stub-1")


def test_each_trial_ends_as_it_should(done: Done) -> None:
    """Each trial ends as it should."""
    ends = {number: (trial.outcome, trial.reason) for number, trial in done.view.trials.items()}
    assert ends == {
        number: {
            "raise": ("failed", "error"),
            "nan": ("failed", "diverged"),
            "exit": ("failed", "infrastructure"),
            "limit": ("infeasible", "max_latency_ms"),
            "missing": ("failed", "diverged"),
            "wrong": ("failed", "error"),
        }.get(FAULTS.get(number, ""), ("done", ""))
        for number in range(NUM_TRIALS)
    }


def test_a_failure_says_what_happened(done: Done) -> None:
    """A failure says what happened."""
    assert done.view.trials[2].message == "RuntimeError: the stub was told to raise"
    assert done.view.trials[4].message == "robust_accuracy is nan, not a finite number"
    assert done.view.trials[5].message.startswith("ActorDiedError: ")


def test_tracebacks_are_kept(done: Done) -> None:
    """Tracebacks are kept."""
    assert "in run" in (done.folder / "errors" / "trial-2.txt").read_text()
    assert {path.name for path in (done.folder / "errors").iterdir()} == {
        "trial-2.txt",
        "trial-5.txt",
        "baseline-25.txt",
    }


def test_optuna_was_told_the_same(done: Done) -> None:
    """Optuna was told the same."""
    assert done.states() == {number: ENDS[trial.outcome] for number, trial in done.view.trials.items()}


def test_the_ledger_is_in_sequence(done: Done) -> None:
    """The ledger is in sequence."""
    assert [event.seq for event in done.events] == list(range(1, len(done.events) + 1))
    kinds = [event.kind for event in done.events]
    assert (kinds[0], kinds[-1]) == ("run", "end")
    assert kinds.index("base") < kinds.index("proposal")
    assert max(i for i, kind in enumerate(kinds) if kind == "result") < kinds.index("latency")


def test_every_proposal_has_one_result_after_it(done: Done) -> None:
    """Every proposal has one result after it."""
    proposed = {event.trial: event.seq for event in done.events if event.kind == "proposal"}
    ended = [(event.trial, event.seq) for event in done.events if event.kind == "result"]
    assert sorted(number for number, _ in ended) == sorted(proposed) == list(range(NUM_TRIALS))  # type: ignore[type-var]
    assert all(seq > proposed[number] for number, seq in ended)


def test_the_view_is_what_a_later_reader_finds(done: Done) -> None:
    """The view is what a later reader finds."""
    assert read_run(done.folder) == done.view


def test_facts_are_complete(done: Done) -> None:
    """Facts are complete."""
    facts = done.view.facts
    assert (facts["num_classes"], facts["image_shape"], facts["reference_ms"]) == (10, [1, 8, 8], 1.0)
    assert {"versions", "machine", "command"} <= facts.keys()


def test_first_proposals_are_the_first_trials(done: Done) -> None:
    """First proposals are the first trials."""
    assert [done.view.proposals[i]["num_members"] for i in (0, 1)] == [1, 2]


def test_the_base_is_prepared_once_before_all_trials(done: Done) -> None:
    """The base is prepared once before all trials."""
    assert len(done.pids["prepare"]) == 1
    assert len(done.watcher.base) == 1


def test_workers_are_used_again(done: Done) -> None:
    """Twelve trials take one process for each slot, and one more for each that died."""
    assert len(done.pids["run"]) == NUM_TRIALS + MOST_LOSSES
    assert len(set(done.pids["run"])) <= int(done.view.facts["machine"]["num_cpus"]) + 1 + MOST_LOSSES


def test_the_finals_wait_for_no_new_process(done: Done) -> None:
    """Whoever prepared the search or trained a baseline is kept, with all that it has imported."""
    finals = {pid for what in ("confirm", "final", "recheck") for pid in done.pids[what]}
    assert finals <= set(done.pids["prepare"]) | set(done.pids["baseline"])


def test_a_lost_worker_is_a_reason_to_try_again(done: Done) -> None:
    """Trial 5 ends its process each time: it is tried three times; trials that fail by themselves once."""
    assert done.view.attempts == {number: 3 if number == 5 else 1 for number in range(NUM_TRIALS)}
    assert done.view.losses == {5: MOST_LOSSES}
    proposals = [event for event in done.events if event.kind == "proposal" and event.trial == 5]
    assert len(proposals) == 1


def test_one_probe_measures_for_all(done: Done) -> None:
    """One probe measures for all."""
    assert len(set(done.pids["probe"])) == 1
    assert len(done.pids["probe"]) == NUM_TRIALS - sum(f in ("raise", "exit", "wrong") for f in FAULTS.values())


def test_a_control_that_fails_becomes_a_note(done: Done) -> None:
    """A baseline that fails becomes a note."""
    assert [baseline.name for baseline in done.view.baselines] == ["scratch 50 % (labels)"]
    assert done.view.notes == ["baseline 25 % failed (RuntimeError: this baseline was told to fail)"]


def test_base_controls_and_contenders_get_final_latencies(done: Done) -> None:
    """Base and baselines one, what may be on the frontier one, and what is reported another that chose nothing."""
    reported = {point.id for point in estimate_frontier(done.view).front}
    wanted = {"dense base", "scratch 50 % (labels)", *reported}
    assert wanted <= done.view.latencies.keys()
    assert all(latency.method == "cascade" for latency in done.view.latencies.values())
    times = {id_: len(taken) for id_, taken in done.view.timings.items()}
    assert {times[id_] for id_ in reported} == {2}
    assert {number for id_, number in times.items() if id_ not in reported} == {1}
    assert sum(event.kind == "latency" for event in done.events) == sum(times.values())


def test_the_choice_is_in_the_ledger(done: Done) -> None:
    """As many looks as slices, and every one of them after what it rests on."""
    validation_rounds = [event for event in done.events if event.kind == "look"]
    assert [event.data["number"] for event in validation_rounds] == list(range(len(validation_rounds)))
    assert 1 <= len(validation_rounds) <= 2
    assert estimate_frontier(done.view).decided
    assert validation_rounds[0].seq > next(event.seq for event in done.events if event.kind == "latency")
    assert [event.kind for event in done.events if event.seq > validation_rounds[-1].seq and event.kind == "fresh"]


def test_swept_thresholds_on_the_frontier_are_confirmed_before_they_are_shown(done: Done) -> None:
    """Each got an attack of its own, which took 2 points from its bound, or it is not shown."""
    assert done.view.confirmed
    for id_, measured in done.view.confirmed.items():
        trial = done.view.trials[int(id_.partition(".")[0])]
        bound = trial.swept[0].measurement.robust_accuracy.value
        assert measured.robust_accuracy.value == pytest.approx(bound - 0.02)
    assert all(p.id.endswith(".0") or p.id in done.view.confirmed for p in estimate_frontier(done.view).front)


def test_swept_thresholds_stand_in_the_study(done: Done) -> None:
    """Each as a complete trial with the team's parameters and its own threshold."""
    study = optuna.load_study(study_name=done.view.name, storage=f"sqlite:///{done.folder / STUDY_FILE}")
    try:
        own, swept = own_trials(study), [trial for trial in study.trials if SWEPT in trial.user_attrs]
    finally:
        close_study(study)
    expected = {f"{n}.1" for n, trial in done.view.trials.items() if trial.outcome == "done" and trial.swept}
    assert expected
    assert {trial.user_attrs[SWEPT] for trial in swept} == expected
    for trial in swept:
        number = int(trial.user_attrs[SWEPT].partition(".")[0])
        point = done.view.trials[number].swept[0]
        assert trial.state == TrialState.COMPLETE
        assert trial.values[0] == point.measurement.robust_accuracy.value
        assert trial.params == own[number].params | {"gate_threshold": point.gate_threshold}


def test_base_controls_and_frontier_are_checked_on_fresh_images(done: Done) -> None:
    wanted = {"dense base", "scratch 50 % (labels)", *(point.id for point in estimate_frontier(done.view).front)}
    assert wanted <= done.view.fresh.keys()


def test_the_listener_hears_everything(done: Done) -> None:
    """The listener hears everything."""
    assert done.watcher.stages == ["data", "dense base", "baselines and trials", "finals", "report"]
    assert [facts.to_plain() for facts in done.watcher.data] == [DataFacts.of(done.view.facts["data"]).to_plain()]
    assert {record.number for record in done.watcher.results} == set(range(NUM_TRIALS))
    assert done.watcher.ticks[-1].num_trials == NUM_TRIALS
    assert any(status.eta_s is not None for status in done.watcher.ticks)


def test_nothing_is_printed(done: Done) -> None:
    """Nothing is printed."""
    assert done.printed == ""


def test_all_files_lie_under_home(done: Done) -> None:
    """All files lie under home."""
    assert {path.name for path in done.home.iterdir()} == {"stub-1", "mlflow.db", "mlartifacts", LOCK_NAME}
    assert {"ledger.sqlite", "study.sqlite", "search_space.yaml", "report"} <= {
        path.name for path in done.folder.iterdir()
    }


def test_nothing_of_ray_is_left(done: Done) -> None:
    """Nothing of Ray is left."""
    assert not ray.is_initialized()
    until(lambda: not children())


def test_mlflow_holds_every_trial(done: Done) -> None:
    """MLflow holds every trial."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=done.view.tracker["uri"])
    runs = client.search_runs([done.view.tracker["experiment_id"]])
    assert sum(found.data.tags.get("kind") == "trial" for found in runs) == NUM_TRIALS
    assert not [found for found in runs if found.info.status == "RUNNING"]


# ---------------------------------------------------------------- names, limits, ends


def test_a_taken_name_is_refused_and_nothing_changes(done: Done) -> None:
    """A taken name is refused and nothing changes."""
    before = (done.folder / "ledger.sqlite").read_bytes()
    with pytest.raises(
        RunError, match=r"--name stub-1: .* exists already \(finished\); take it to N trials in all with .* --trials N"
    ):
        run(spec_of(), home=done.home, name="stub-1", pipeline=stub_pipeline, listener=Silent())
    assert (done.folder / "ledger.sqlite").read_bytes() == before


@pytest.mark.parametrize("name", ["store", "a/b", "..", "", "x" * 65])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A name that is no folder is refused."""
    with pytest.raises(RunError, match="is not allowed; take up to 64 letters"):
        run(spec_of(), home=tmp_path, name=name, pipeline=stub_pipeline, listener=Silent())


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """It lies below a file."""
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"home: cannot be written \(.*\); choose another --home"):
        claim(tmp_path / "file" / "home", spec_of(), None)


def test_the_default_name_takes_the_first_free_number(tmp_path: Path) -> None:
    """Gaps are filled."""
    assert [claim(tmp_path, spec_of(), None).name for _ in range(2)] == ["stub-1", "stub-2"]
    shutil.rmtree(tmp_path / "stub-1")
    assert claim(tmp_path, spec_of(), None).name == "stub-1"


def test_a_trial_that_does_not_fit_the_machine_is_refused() -> None:
    """Both mistakes at once, each with what is there."""
    with pytest.raises(SpecError) as caught:
        Machine(num_cpus=2, num_gpus=0).slots(Resources(cpu=3, gpu=0.5))
    assert caught.value.problems == [
        "resources.cpu: 3 is more than this machine has (2); take at most 2, or another machine",
        "resources.gpu: 0.5 is more than this machine has (0); take at most 0, or another machine",
    ]


@pytest.mark.parametrize(
    ("cpu", "gpu", "slots"), [(1, 0, 8), (0.5, 0, 16), (3, 0, 2), (1, 0.25, 8), (0, 0.5, 4), (8, 2, 1), (0, 0, 8)]
)
def test_slots_are_what_fits_at_once(cpu: float, gpu: float, slots: int) -> None:
    """The scarcer of the two counts."""
    assert Machine(num_cpus=8, num_gpus=2).slots(Resources(cpu=cpu, gpu=gpu)) == slots


@pytest.mark.whole
def test_an_interrupt_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trial 1 would sleep for ten minutes; the interrupt comes when trial 0 is done."""

    class Interrupts(Watcher):
        def on_result(self, record: TrialRecord, view: RunView) -> None:
            super().on_result(record, view)
            if len(self.results) == 1:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setenv("EED_STUB_FAULTS", json.dumps({1: "sleep"}))
    handler = signal.getsignal(signal.SIGINT)
    watcher = Interrupts()
    spec = spec_of(baselines=Baselines(sizes=()))
    view = run(spec, home=tmp_path, name="stopped", pipeline=stub_pipeline, listener=watcher)
    assert (view.state, view.reason, view.trials[0].outcome) == ("stopped", "Ctrl-C", "done")
    assert all(trial.outcome in ("done", "pruned") for trial in view.trials.values())
    assert len(view.trials) < NUM_TRIALS
    assert view.num_trials()["running"] == 0
    assert (tmp_path / "stopped" / "report" / "frontier.json").is_file()
    states = Done(view, tmp_path, watcher, "", {}).states()
    assert TrialState.RUNNING not in states.values()
    assert states[0] == TrialState.COMPLETE
    assert signal.getsignal(signal.SIGINT) == handler


class Posts(Protocol):
    """What the workers have said."""

    def __call__(self) -> dict[str, Post]:
        """Give the last line of each."""


Hangs = Callable[[Posts, RunView], object]
"""Says from the workers' lines and the ledger whether what is to hang does so, and nobody has ended it."""


def run_until_hung(spec: Spec, home: Path, hangs: Hangs) -> RunView:
    """Search by a clock that stands still, so that nobody is late, but while something hangs.

    Then it moves on by a quarter of the limit at each look: as many looks end what hangs on any machine.
    """
    now_s = 1000.0

    def clock() -> float:
        nonlocal now_s
        if (home / "s" / FILE_NAME).exists() and hangs(there.posts, read_run(home / "s")):
            assert spec.search.trial_timeout_s
            now_s += spec.search.trial_timeout_s / 4
        return now_s

    with ray_workers(clock) as there:
        return run(spec, home=home, name="s", pipeline=stub_pipeline, listener=Silent(), workers=there)


def failed(view: RunView) -> bool:
    return any(trial.outcome == "failed" for trial in view.trials.values())


@pytest.mark.whole
def test_a_trial_that_hangs_is_ended_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After half the limit it is said, after the whole limit its process is ended; the search goes on."""
    monkeypatch.setenv("EED_STUB_FAULTS", json.dumps({0: "sleep"}))
    search = Search(trials=3, racing=False, trial_timeout_s=6)
    stacks = tmp_path / "s" / "errors" / "trial-0-stacks.txt"

    def hangs(posts: Posts, view: RunView) -> object:
        return view.unfinished() == [0] and stacks.exists() and "in run" in stacks.read_text()

    view = run_until_hung(
        Spec(name="s", threat=Threat(eps=0.15), search=search, baselines=Baselines(sizes=())), tmp_path, hangs
    )
    assert {n: (t.outcome, t.reason) for n, t in view.trials.items()} == {
        0: ("failed", "timeout"),
        1: ("done", ""),
        2: ("done", ""),
    }
    assert "after: members; ended. If it was only slow, raise search.trial_timeout_s" in view.trials[0].message
    assert view.attempts[0] == 1
    assert any(note.startswith("trial 0: no progress for ") for note in view.notes)
    assert "in run" in stacks.read_text()


@pytest.mark.whole
def test_a_worker_that_somebody_stopped_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it stands, in the note at half the limit, and as the reason of its end; its process does not stay."""
    monkeypatch.setenv("EED_STUB_FAULTS", json.dumps({0: "sleep"}))
    search = Search(trials=3, racing=False, trial_timeout_s=6)
    workers: list[Worker] = []
    shown: list[str] = []

    def hangs(posts: Posts, view: RunView) -> object:
        if view.unfinished() != [0] or (post := posts().get("trial 0")) is None or post.process is None:
            return False
        if not workers:
            workers.append(post.process)
            os.kill(post.process.pid, signal.SIGSTOP)
        with suppress(FileNotFoundError):
            now = json.loads((tmp_path / "s" / NOW_FILE).read_text(encoding="utf-8"))
            shown.append(now["stages"].get("trial 0", ""))
        return bool(shown) and "stopped" in shown[-1]

    view = run_until_hung(
        Spec(name="s", threat=Threat(eps=0.15), search=search, baselines=Baselines(sizes=())), tmp_path, hangs
    )
    pid = workers[0].pid
    assert f"members (its process {pid} is stopped, `kill -CONT {pid}` lets it go on)" in shown
    assert (view.trials[0].outcome, view.trials[0].reason) == ("failed", "timeout")
    assert f"after: members; its process {pid} was stopped by a signal" in view.trials[0].message
    assert any(note.startswith("trial 0: no progress") and "is stopped, `kill -CONT" in note for note in view.notes)
    assert [view.trials[n].outcome for n in (1, 2)] == ["done", "done"]
    until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.slow
def test_a_worker_that_stands_still_past_the_time_budget_does_not_keep_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit for trials nothing else would end it; a resume with more time takes the trial up."""
    monkeypatch.setenv("EED_STUB_FAULTS", json.dumps({0: "sleep"}))
    search = Search(trials=2, racing=False, trial_timeout_s=None, time_budget_s=3600)
    spec = Spec(name="s", threat=Threat(eps=0.15), search=search, baselines=Baselines(sizes=()))
    stopped: list[int] = []
    now_s = 1000.0

    def clock() -> float:
        nonlocal now_s
        post = there.posts().get("trial 0")
        if post and post.process and not stopped and read_run(tmp_path / "s").unfinished() == [0]:
            stopped.append(post.process.pid)
            os.kill(post.process.pid, signal.SIGSTOP)
        now_s += 10 if stopped else 0
        return now_s

    monkeypatch.setattr(TrialQueue, "late", property(lambda self: bool(stopped)))
    with ray_workers(clock) as there:
        view = run(spec, home=tmp_path, name="s", pipeline=stub_pipeline, listener=Silent(), workers=there)
    assert view.state == "finished"
    assert view.out_of_time() == [0]
    assert view.trials[0].message.startswith("its process stood still when search.time_budget_s was over; a resume")
    assert all(trial.outcome == "done" for number, trial in view.trials.items() if number)
    until(lambda: not Path(f"/proc/{stopped[0]}").exists())


def short_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str) -> Spec:
    """A search of three trials in which the first call of a function hangs."""
    monkeypatch.setenv("EED_STUB_HANGS", f"{hangs}:{tmp_path / 'hung'}")
    search = Search(trials=3, racing=False, sampler="random", trial_timeout_s=10)
    return Spec(name="s", threat=Threat(eps=0.15), search=search, baselines=Baselines(sizes=()))


@pytest.mark.whole
def test_a_measurement_that_hangs_keeps_no_other_trial_from_its_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one probe measures for all: it is ended with the trial that it hung for, and starts again."""
    spec = short_of(tmp_path, monkeypatch, "probe")

    def hangs(posts: Posts, view: RunView) -> object:
        return PROBE in posts() and (tmp_path / "hung").exists() and not failed(view)

    view = run_until_hung(spec, tmp_path, hangs)
    assert Counter(trial.outcome for trial in view.trials.values()) == {"done": 2, "failed": 1}
    assert [trial.reason for trial in view.trials.values() if trial.outcome == "failed"] == ["timeout"]


@pytest.mark.parametrize(
    ("hangs", "note"),
    [("recheck", "check on fresh images"), ("final", "final latency")],
)
@pytest.mark.slow
def test_a_final_that_hangs_becomes_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str, note: str
) -> None:
    """And the search goes on, as after one that failed."""
    spec = short_of(tmp_path, monkeypatch, hangs)

    def hang(posts: Posts, view: RunView) -> object:
        return (tmp_path / "hung").exists() and not any(f"no {note}" in one for one in view.notes)

    view = run_until_hung(spec, tmp_path, hang)
    assert view.state == "finished"
    assert view.fresh
    assert view.latencies
    wanted = rf".*: no {note}, .* \(no progress for \d+ s after: starting; ended\. If it was only slow, raise"
    assert [one for one in view.notes if re.match(wanted, one)]


def test_a_final_latency_of_nothing_is_noted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ranks by it would take its logarithm; the search's figure stands."""
    final_latency = stub_pipeline._final_latency

    def none_for_points(artifact: str, params: Any, factor: float) -> Any:
        found = final_latency(artifact, params, factor)
        return found if params is None else dataclasses.replace(found, latency_ms=Interval(0.0, 0.0, 0.0))

    monkeypatch.setattr(stub_pipeline, "_final_latency", none_for_points)
    spec = spec_of(3, baselines=Baselines(sizes=()))
    view = run(
        spec, home=tmp_path, name="s", pipeline=stub_pipeline, listener=Silent(), workers=LocalWorkers()
    )  # fmt: skip
    assert view.state == "finished"
    assert view.latencies.keys() == {"dense base"}
    assert any(
        note.endswith("no final latency, the search's figure stands (latency_ms is 0, not above 0)")
        for note in view.notes
    )


@pytest.mark.slow
def test_a_base_that_hangs_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EED_STUB_PREPARE", "sleep")
    spec = spec_of(baselines=Baselines(sizes=()))
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trial_timeout_s": 3.0})})

    def hangs(posts: Posts, view: RunView) -> object:
        return (base := posts().get("dense base")) and base.text == "training"

    with pytest.raises(TrialFailure, match=r"^dense base: no progress for \d+ s after: training; ended\. .* raise"):
        run_until_hung(spec, tmp_path, hangs)
    assert read_run(tmp_path / "s").state == "failed"


@pytest.mark.whole
def test_a_base_that_fails_ends_the_search_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that fails ends the search with its reason."""
    monkeypatch.setenv("EED_STUB_PREPARE", "no data")
    with pytest.raises(TrialFailure, match="the base went wrong: no data"):
        run(spec_of(), home=tmp_path, name="broken", pipeline=stub_pipeline, listener=Silent())
    assert read_run(tmp_path / "broken").state == "failed"
    with Ledger(tmp_path / "broken" / "ledger.sqlite") as ledger:
        assert list(ledger.events())[-1].data["reason"] == "the base went wrong: no data"
    assert not ray.is_initialized()


@pytest.mark.whole
def test_a_race_under_ray(tmp_path: Path) -> None:
    """Every trial stops at both rungs on its way, waits or goes on as the ledger says, and comes to an end."""
    watcher = Watcher()
    view = run(
        spec_of(8, racing=True, baselines=Baselines(sizes=())),
        home=tmp_path,
        name=None,
        pipeline=stub_pipeline,  # type: ignore[arg-type]
        listener=watcher,
    )
    assert view.state == "finished"
    assert sorted(view.trials) == list(range(8))
    assert {trial.outcome for trial in view.trials.values()} <= {"done", "pruned"}
    assert view.num_trials()["done"] >= 2
    for number, trial in view.trials.items():
        reports = view.reports[number]
        assert [report.rung for report in reports] == list(range(len(reports)))
        assert all(report.decision in ("continue", "resume") for report in reports[:-1])
        assert (trial.outcome == "done") == (len(reports) == len(RUNGS) and reports[-1].decision != "pause")
        assert trial.seconds == pytest.approx(0.1 * len(reports) + (0.2 if trial.outcome == "done" else 0))
    assert sum(1 for _, _, decision in watcher.rungs if decision == "pause") >= 1
    assert len(watcher.rungs) == sum(map(len, view.reports.values()))
