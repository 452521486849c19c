"""Is a search that is killed again and again the same search? `kill -9` of its driver, then resume, many times.

    python benchmarks/kills.py [--kills 50] [--ray-kills 10] [--hits 20] [--seed 0] [--home DIR] [--out FILE.json]

A search with a trial that only computes (`tests/search/stub_pipeline.py`) runs once undisturbed. Then it runs
again, and its driver is killed at seeded random moments: after a random number of further ledger
events and a random delay, and one time in three at a random moment of its first seconds. It is resumed until the
kills are used up, and once more to its end. Most kills hit the search with its work done inside the driver's
process (`LocalWorkers`); `--ray-kills` of them hit real Ray. Ledger, Optuna's study on SQLite, MLflow on
SQLite and the stage of the report are real in both. `--hits` searches for more victims under Ray: the driver, a worker,
the raylet, the GCS and MLflow's server (which is started again) are killed in turn, in every phase: base, trials and their
rungs, baselines, finals, checks. What must hold of every killed search:

- each trial that was finished at some kill is finished at the end, with the same result;
- trials, parameters, reports at rungs, decisions, incumbents, results, frontier and final latencies are the undisturbed search's;
- each trial has one end in the ledger, whose events count without a gap;
- Optuna has each trial once, as the undisturbed study has it, and none RUNNING or WAITING;
- MLflow has the search once and each trial, baseline and base once, and nothing RUNNING;
- no process of a killed driver's Ray session is left;
- a driver whose raylet or GCS was killed ends by itself, with an error and its trials open.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal, Protocol

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.victims import (  # noqa: E402
    PHASES,
    VICTIMS,
    MlflowServer,
    Victim,
    calls,
    pid_in,
    ray_process,
)
from eed_search.config.params import ParamValue  # noqa: E402
from eed_search.core.errors import EedSearchError, RunError  # noqa: E402
from eed_search.frontier.estimate import estimate_frontier  # noqa: E402
from eed_search.runs.ledger import FILE_NAME, NO_RESULT, Ledger, RunView, read_run  # noqa: E402
from eed_search.runs.records import to_json  # noqa: E402
from eed_search.runs.run_lock import driver_of  # noqa: E402
from eed_search.system.cores import usable_cores  # noqa: E402

Where = Literal["local", "ray"]
RESULT = Path(__file__).parent / "results" / "kills.json"
SAMPLERS = ("portfolio", "tpe", "nsga2", "qmc", "random")
_LONGEST_S = 900.0
_PER_SEARCH = 10  # kills of one search before it may finish


# ---------------------------------------------------------------- one driver, as a process of its own


def drive(home: Path, name: str, where: Where, sampler: str, trials: int) -> None:
    """Launch a search, or resume it if its folder is there; the body of the processes that are killed."""
    from eed_search.config.spec import Baselines, Resources, Search, Spec, Threat, Tracking
    from eed_search.search import LocalWorkers, Silent
    from eed_search.search.driver import run
    from eed_search.search.resume import resume
    from tests.search import stub_pipeline

    workers = LocalWorkers() if where == "local" else None
    pipeline: Any = stub_pipeline
    if (home / name / "search_space.yaml").exists():
        resume(home / name, pipeline=pipeline, listener=Silent(), workers=workers)
        return
    shutil.rmtree(home / name, ignore_errors=True)  # killed between the folder and its first file
    # One trial at a time, also under Ray: only then does the order of the results not depend on the clock.
    first: tuple[dict[str, ParamValue], ...] = ({"num_members": 1}, {"num_members": 2})
    spec = Spec(
        name="kills",
        threat=Threat(eps=0.15),
        search=Search(
            trials=trials,
            startup_trials=4,
            sampler=sampler,
            first=first,
        ),
        baselines=Baselines(sizes=(0.5,)),
        resources=Resources(cpu=float(usable_cores())),
        tracking=Tracking(uri=os.environ.get("EED_KILLS_TRACKING")),
    )
    run(spec, home=home, name=name, pipeline=pipeline, listener=Silent(), workers=workers)


class Driver(Protocol):
    """A driver's process; `begun` is when it was started, in seconds since 1970."""

    begun: float
    pid: int

    def poll(self) -> int | None:
        """Give its exit code, negative for a signal; none while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code; raises `subprocess.TimeoutExpired`."""

    def kill(self) -> None:
        """Send SIGKILL."""


class _Started(subprocess.Popen[bytes]):
    """A fresh Python, as a user starts it."""

    begun = 0.0


class Forked:
    """A driver forked from a process that has imported everything: seconds faster, and the same to a kill."""

    def __init__(self, process: ForkServerProcess) -> None:
        self.begun = time.time()
        self.pid = process.pid or 0
        self._process = process

    def poll(self) -> int | None:
        """Give its exit code, negative for a signal; none while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


def start(
    home: Path,
    name: str,
    where: Where,
    sampler: str,
    trials: int,
    fail_point: str = "",
    more: Mapping[str, str] | None = None,
) -> Driver:
    """Start a driver as a process of its own; `more` is added to its environment."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"{name}.log"
    env = {"EED_STUB_SECONDS": "0.05", "EED_STUB_FAULTS": FAULTS, "EED_SEARCH_FAILPOINT": fail_point}
    env |= more or {}
    if where == "local":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED_ONCE)
        process = context.Process(target=_drive_forked, args=(home, name, sampler, trials, env, log))
        process.start()
        return Forked(process)
    arguments = ["--drive", where, "--home", str(home), "--name", name, "--sampler", sampler, "--trials", str(trials)]
    with log.open("ab") as file:
        driver = _Started(
            [sys.executable, __file__, *arguments],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    driver.begun = time.time()
    return driver


FAULTS = json.dumps({3: "raise", 6: "nan", 9: "limit"})
IMPORTED_ONCE = [
    "benchmarks.kills",
    "eed_search.search.driver",
    "eed_search.search.resume",
    "eed_search.tracking.report",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.storages",
    "sklearn.gaussian_process",
    "tests.search.stub_pipeline",
]


def _drive_forked(home: Path, name: str, sampler: str, trials: int, env: dict[str, str], log: Path) -> None:
    """Be a driver, in a process that was forked for it."""
    os.environ |= env
    os.chdir(ROOT)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(guarded_drive(home, name, "local", sampler, trials))


def guarded_drive(home: Path, name: str, where: Where, sampler: str, trials: int) -> int:
    """Drive, and give the exit code that the command line would."""
    try:
        drive(home, name, where, sampler, trials)
    except EedSearchError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return 0


# ---------------------------------------------------------------- killing


@dataclass
class Kill:
    """One kill.

    Attributes:
        after_s: Seconds after the driver's start.
        events: Events in the ledger then.
        last: Kind of the last one; empty where there was no ledger.
        victim: Whose process was killed.
        phase: What the stub was doing; empty where the moment was random.
        resumed_s: Seconds from the next driver's start to its first event.
    """

    after_s: float
    events: int
    last: str
    resumed_s: float | None = None
    victim: Victim = "driver"
    phase: str = ""


@dataclass
class Searched:
    """One search and its kills.

    Attributes:
        where: In the driver's process, or under Ray.
        sampler: Who proposed.
        kills: Those it went through.
        problems: What does not hold, one line each.
        seconds: Time of it all.
    """

    where: Where
    sampler: str
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def kill_and_resume(
    home: Path, where: Where, sampler: str, trials: int, num_kills: int, dice: random.Random
) -> Searched:
    """Bring one search to its end through a number of kills, and compare it with the undisturbed one.

    Args:
        home: Where the killed search lies; the undisturbed one lies beside it and is made if absent.
        where: In the driver's process, or under Ray.
        sampler: Who proposes.
        trials: Of the search.
        num_kills: Kills before it may finish; fewer where it finishes before.
        dice: Draws the moments.
    """
    begin = time.monotonic()
    calm = undisturbed(home.parent, sampler, trials)
    found = Searched(where, sampler)
    ended: dict[int, Any] = {}
    dead: set[int] = set()
    folder = home / "run"
    while len(found.kills) < num_kills:
        before = num_events(folder)
        process = start(home, "run", where, sampler, trials)
        kill = _kill(process, folder, before, dice, where)
        if found.kills and found.kills[-1].resumed_s is None:
            found.kills[-1].resumed_s = _first_event_s(folder, before, process)
        if kill is None:
            break
        found.kills.append(kill)
        dead.add(process.pid)
        with suppress(RunError):
            view = read_run(folder)
            found.problems += _lost(ended, view, f"after kill {len(found.kills)}")
            # A trial that ended because its search was stopped has no result yet.
            ended |= {n: t for n, t in view.trials.items() if n not in view.without_result()}
    process = start(home, "run", where, sampler, trials)
    code = _finish(process, may_refuse=True)
    over = code == 7 and "is finished" in _tail(home / "run.log")  # before the last kill
    if code != 0 and not over:
        found.problems.append(f"the last driver ended with {code}: {_tail(home / 'run.log')}")
    else:
        found.problems += _lost(ended, read_run(folder), "at the end") + compare(calm, home)
        found.problems += [f"Ray's session {one} is left" for one in sessions_of(dead)]
    if driver_of(folder) is not None:
        found.problems.append("a driver still holds the lock")
    found.seconds = time.monotonic() - begin
    return found


def hit_and_resume(home: Path, sampler: str, trials: int, num_hits: int, dice: random.Random) -> Searched:
    """Bring one search under Ray to its end while one process after another is killed, whosever it is.

    Args:
        home: Where the search lies; the undisturbed one lies beside it and is made if absent.
        sampler: Who proposes.
        trials: Of the search.
        num_hits: Kills before it may finish; fewer where it finishes before.
        dice: Draws victims and phases.
    """
    begin = time.monotonic()
    calm = undisturbed(home.parent, sampler, trials)
    found = Searched("ray", sampler)
    pids, folder = home / "pids", home / "run"
    pids.mkdir(parents=True)
    order = [victim for _ in range(num_hits) for victim in dice.sample(VICTIMS, len(VICTIMS))][:num_hits]
    with MlflowServer(home / "mlflow") as server:
        more = {"EED_STUB_PIDS": str(pids), "EED_STUB_PHASE_SECONDS": "0.3", "EED_KILLS_TRACKING": server.url}
        process, ended, dead = start(home, "run", "ray", sampler, trials, more=more), {}, set[int]()
        for victim in order:
            phase = dice.choice(PHASES)
            if (call := _next_call(pids, phase, process)) is None:
                break  # it came to its end
            if not _hit(victim, call, process, server):
                continue
            found.kills.append(
                Kill(round(time.time() - process.begun, 2), num_events(folder), _last_kind(folder), None, victim, phase)
            )
            if victim in ("worker", "mlflow") and not _ends_of_itself(process):
                continue
            dead.add(process.pid)
            try:
                code = process.wait(_GONE_S)
            except subprocess.TimeoutExpired:
                found.problems.append(f"its driver went on for {_GONE_S:g} s without its {victim}")
                process.kill()
                code = process.wait()
            if code == 0:
                break
            if victim in ("raylet", "gcs") and code < 0:
                found.problems.append(f"its driver was ended by signal {-code} when its {victim} was lost")
            with suppress(RunError):
                view = read_run(folder)
                found.problems += _lost(ended, view, f"after kill {len(found.kills)}")
                ended |= {n: t for n, t in view.trials.items() if n not in view.without_result()}
            process = start(home, "run", "ray", sampler, trials, more=more)
        code = _finish(process, may_refuse=True)
        if code != 0:
            code = _finish(start(home, "run", "ray", sampler, trials, more=more), may_refuse=True)
        over = code == 7 and "is finished" in _tail(home / "run.log")
        if code != 0 and not over:
            found.problems.append(f"the last driver ended with {code}: {_tail(home / 'run.log')}")
        else:
            found.problems += _lost(ended, read_run(folder), "at the end") + compare(calm, home)
            found.problems += [f"Ray's session {one} is left" for one in sessions_of(dead)]
    found.seconds = time.monotonic() - begin
    return found


_GONE_S = 180.0


def _next_call(pids: Path, phase: str, process: Driver) -> Path | None:
    """Wait for a phase's next call, or for any where the search is past it; none where it ends before."""
    before = {path.name for path in pids.iterdir()}
    since = time.monotonic()
    while process.poll() is None:
        new = [
            path
            for path in calls(pids, phase if time.monotonic() - since < _PATIENCE_S else "*")
            if path.name not in before
        ]
        if new:
            return new[-1]
        time.sleep(0.01)
    return None


_PATIENCE_S = 12.0  # a search that is past a phase does not come to it again


def _hit(victim: Victim, call: Path, process: Driver, server: MlflowServer) -> bool:
    """Kill one process; False where it is gone already."""
    if victim == "mlflow":
        server.kill()
        time.sleep(1.0)
        server.start()
        return True
    if victim == "driver":
        process.kill()
        return True
    pid = pid_in(call) if victim == "worker" else ray_process(process.pid, victim)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _ends_of_itself(process: Driver) -> bool:
    """Whether a driver ends within seconds: the loss of a worker in the base's or the finals' phase may be one."""
    deadline = time.monotonic() + 3.0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.poll() is not None


def undisturbed(root: Path, sampler: str, trials: int) -> Path:
    """Run the search once without a kill, unless that was done before; gives its home."""
    calm = root / f"undisturbed-{sampler}-{trials}"
    if not (calm / "run").is_dir():
        _finish(start(calm, "run", "local", sampler, trials))
    return calm


def sessions_of(pids: set[int]) -> list[str]:
    """Find the temporary folders of Ray sessions that some processes have started."""
    found = []
    for owner in Path(tempfile.gettempdir()).glob("eed-*/owner.json"):
        with suppress(OSError, ValueError):
            if json.loads(owner.read_text())["pid"] in pids:
                found.append(str(owner.parent))
    return found


def _kill(process: Driver, folder: Path, before: int, dice: random.Random, where: Where) -> Kill | None:
    """Kill a driver at a random moment; none if it ended before."""
    start = time.monotonic()
    slow = 4.0 if where == "ray" else 1.0
    early = dice.random() < 1 / 3
    further, delay = dice.randint(1, 20), dice.uniform(0, 0.15)
    moment = dice.uniform(0, 4.0 * slow)
    while process.poll() is None and time.monotonic() - start < _LONGEST_S:
        if early and time.monotonic() - start >= moment:
            break
        if not early and num_events(folder) >= before + further:
            time.sleep(delay)
            break
        time.sleep(0.005)
    if process.poll() is not None:
        return None
    process.kill()
    process.wait()
    events = num_events(folder)
    return Kill(round(time.monotonic() - start, 2), events, _last_kind(folder))


def _finish(process: Driver, *, may_refuse: bool = False) -> int:
    try:
        code = process.wait(_LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    if code and not may_refuse:
        raise RuntimeError(f"a driver that nobody killed ended with {code}")
    return code


def num_events(folder: Path) -> int:
    """Count a ledger's events; 0 where there is none."""
    return int(_ask(folder, "SELECT coalesce(max(seq), 0) FROM event") or 0)


def _last_kind(folder: Path) -> str:
    return str(_ask(folder, "SELECT kind FROM event ORDER BY seq DESC LIMIT 1") or "")


def _first_event_s(folder: Path, before: int, process: Driver) -> float | None:
    at = _ask(folder, f"SELECT at FROM event WHERE seq = {before + 1}")
    return None if at is None else round(float(at) - process.begun, 2)


def _ask(folder: Path, question: str) -> Any:
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    with suppress(sqlite3.Error):
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            row = database.execute(question).fetchone()
        finally:
            database.close()
        return row[0] if row else None
    return None


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip().splitlines()[-1] if log.exists() else ""


# ---------------------------------------------------------------- comparing


def _lost(ended: dict[int, Any], view: RunView, when: str) -> list[str]:
    return [f"trial {n} was finished and is not, {when}" for n, trial in ended.items() if view.trials.get(n) != trial]


def compare(calm: Path, killed: Path) -> list[str]:
    """Say in what a killed search differs from the undisturbed one, and what is doubled or open."""
    one, other = read_run(calm / "run"), read_run(killed / "run")
    problems = []
    if other.state != "finished":
        problems.append(f"it is {other.state}")
    for what, was, is_ in (
        ("proposals", one.proposals, other.proposals),
        ("what Optuna drew", one.drawn, other.drawn),
        ("reports at rungs", one.reports, other.reports),
        ("decisions", decisions(calm), decisions(killed)),
        ("incumbents", one.incumbents, other.incumbents),
        ("results", one.trials, other.trials),
        ("baselines", one.baselines, other.baselines),
        ("base", one.base, other.base),
        ("final latencies", one.latencies, other.latencies),
        ("confirmed thresholds", one.confirmed, other.confirmed),
        ("checks on fresh images", one.fresh, other.fresh),
        ("looks at the frontier's candidates", one.validation_rounds, other.validation_rounds),
        (
            "frontier",
            [to_json(p) for p in estimate_frontier(one).front],
            [to_json(p) for p in estimate_frontier(other).front],
        ),
    ):
        if was != is_:
            problems.append(f"{what} differ from the undisturbed search's")
    with Ledger(killed / "run" / FILE_NAME) as ledger:
        events = list(ledger.events())
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        problems.append("the ledger's events do not count without a gap")
    # An end that was only the search's own stop is taken back by the resume.
    ends = Counter(e.trial for e in events if e.kind == "result" and e.data["reason"] not in NO_RESULT)
    problems += [f"trial {n} has {count} ends in the ledger" for n, count in ends.items() if count > 1]
    if (was := study_of(calm, one)) != (is_ := study_of(killed, other)):
        problems.append(f"Optuna's study differs: {len(was)} and {len(is_)} trials")
    problems += [f"Optuna: trial {n} is {t[0]}" for n, t in is_.items() if t[0] in ("RUNNING", "WAITING")]
    return problems + mlflow_problems(other)


def decisions(home: Path) -> list[tuple[int | None, int, str]]:
    """Read trial, rung and decision of every decision of the race, in order."""
    with Ledger(home / "run" / FILE_NAME) as ledger:
        return [(e.trial, e.data["rung"], e.data["decision"]) for e in ledger.events() if e.kind == "decision"]


def study_of(home: Path, view: RunView) -> dict[int, tuple[str, Any, Any, Any]]:
    """Read Optuna's study: state, values, parameters and constraints by number."""
    import optuna

    from eed_search.search.sampling.study import STUDY_FILE, close_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=view.name, storage=f"sqlite:///{home / 'run' / STUDY_FILE}")
    try:
        return {t.number: (t.state.name, t.values, t.params, t.constraints) for t in study.trials}
    finally:
        close_study(study)


def mlflow_problems(view: RunView) -> list[str]:
    """Say what MLflow lacks, has twice, or holds open."""
    from eed_search.tracking.mlflow_store import connect

    client = connect(view.tracker["uri"])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=10_000)
    has = Counter(run.data.tags.get("point", "the search") for run in runs)
    named = {"the search", "dense base", *view.confirmed}
    wanted = named | {c.name for c in view.baselines} | {f"{n}.0" for n in view.trials}
    problems = [f"MLflow has {point} {count} times" for point, count in has.items() if count > 1]
    problems += [f"MLflow lacks {point}" for point in sorted(wanted - has.keys())]
    problems += [f"MLflow has {point}, which is none" for point in sorted(has.keys() - wanted)]
    problems += [
        f"MLflow: {run.info.run_name} is {run.info.status}"
        for run in runs
        if run.info.status in ("RUNNING", "SCHEDULED")
    ]
    for run in runs:
        number = run.data.tags.get("trial")
        if number and run.data.tags["outcome"] != view.trials[int(number)].outcome:
            problems.append(f"MLflow: trial {number} is shown as {run.data.tags['outcome']}")
    return problems


# ---------------------------------------------------------------- the campaign


def campaign(
    root: Path, *, kills: int, ray_kills: int, seed: int, trials: int = 24, hits: int = 0, say: Any = lambda line: None
) -> list[Searched]:
    """Kill searches until all kills are used up.

    Args:
        root: A folder for all of them.
        kills: In all.
        ray_kills: How many of them hit a search under Ray.
        seed: Of the moments.
        trials: Of each search.
        hits: Further kills under Ray, of any of its processes and of MLflow's server.
        say: Told of each search that came to its end.
    """
    dice = random.Random(seed)
    done: list[Searched] = []
    shares: tuple[tuple[Where, int], ...] = (("local", kills - ray_kills), ("ray", ray_kills))
    for where, number in shares:
        left = number
        while left > 0:
            sampler = SAMPLERS[len(done) % len(SAMPLERS)]
            searched = kill_and_resume(
                root / f"killed-{len(done)}",
                where,
                sampler,
                trials,
                min(left, _PER_SEARCH),
                dice,
            )
            left -= max(1, len(searched.kills))
            done.append(searched)
            say(_line(searched, Counter(kill.last or "before the ledger" for kill in searched.kills)))
    left = hits
    while left > 0:
        sampler = SAMPLERS[len(done) % len(SAMPLERS)]
        searched = hit_and_resume(root / f"hit-{len(done)}", sampler, trials, min(left, _PER_SEARCH), dice)
        left -= max(1, len(searched.kills))
        done.append(searched)
        say(_line(searched, Counter(f"{kill.victim} in {kill.phase}" for kill in searched.kills)))
    return done


def _line(searched: Searched, hits: Counter[str]) -> str:
    return (
        f"{searched.where:<6}{searched.sampler:<10}{len(searched.kills):>3} kills in {searched.seconds:5.0f} s;"
        f" {', '.join(f'{what} {n}' for what, n in hits.most_common())};"
        f" {'as undisturbed' if not searched.problems else '; '.join(searched.problems)}"
    )


def main() -> int:
    """Run the campaign, print it, and store it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills in all (50)")
    parser.add_argument("--ray-kills", type=int, default=10, help="how many of them under Ray (10)")
    parser.add_argument("--hits", type=int, default=20, help="further kills, of any process (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--trials", type=int, default=24, help="trials of each search (24)")
    parser.add_argument("--home", type=Path, help="folder for the searches; a temporary one by default")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for what was found")
    parser.add_argument("--drive", choices=["local", "ray"], help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--sampler", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        return guarded_drive(options.home, options.name, options.drive, options.sampler, options.trials)
    root = options.home or Path(tempfile.mkdtemp(prefix="eed-kills-"))
    done = campaign(
        root,
        kills=options.kills,
        ray_kills=options.ray_kills,
        seed=options.seed,
        trials=options.trials,
        hits=options.hits,
        say=lambda line: print(line, flush=True),
    )
    num_kills = sum(len(searched.kills) for searched in done)
    problems = [problem for searched in done for problem in searched.problems]
    stored = {
        "date": time.strftime("%Y-%m-%d"),
        "seed": options.seed,
        "trials": options.trials,
        "kills": num_kills,
        "passed": not problems,
        "machine": {"platform": platform.platform(), "num_cpus": usable_cores(), "load": os.getloadavg()},
        "searches": [asdict(searched) for searched in done],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"{num_kills} kills, {len(problems)} problems: {'passed' if not problems else 'FAILED'}; {options.out}")
    if options.home is None and not problems:
        shutil.rmtree(root, ignore_errors=True)
    return 0 if not problems else 1


if __name__ == "__main__":
    sys.exit(main())
