"""What becomes of a search when something breaks: sixteen faults, each provoked for real, one row each.

    python benchmarks/chaos.py [--quick] [--only 3,10] [--home DIR] [--out FILE.md]

Each fault hits a search that `eed-search launch` has started as a process of its own: real Ray, Optuna on SQLite,
MLflow (a real server where it is the one that breaks), ledger, store and report. Only the trial is a stub
(`tests/search/stub_pipeline.py`), so that a search without a fault ends in seconds and always in the same way. A fault is
fine if the search came to the undisturbed result, or to what its row says, with nothing lost, doubled or left open.

Full disks are small file systems of their own (tmpfs): they need Linux and root. `--quick` takes less than three
minutes: trials run inside the driver's process where the fault does not concern a worker, and the faults that
must be waited for are left out. Exit code: 0 all are fine, 1 one is not, 3 one could not be provoked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import kills  # noqa: E402
from benchmarks.victims import MlflowServer, calls, pid_in  # noqa: E402
from eed_search.core.errors import RunError  # noqa: E402
from eed_search.runs.ledger import RunView, read_run  # noqa: E402
from eed_search.runs.records import TrialRecord  # noqa: E402
from eed_search.system.cores import usable_cores  # noqa: E402

TRIALS, NAME = 8, "run"
FILE = """
name: chaos
threat: {eps: 0.15}
search: {trials: %d, startup_trials: 4, sampler: tpe}
baselines: {sizes: [0.5]}
resources: {cpu: %d}
"""
_LONGEST_S = 600.0
_FROZEN_S = 45.0


class NotProvoked(Exception):
    """This machine cannot be given the fault; says why."""


@dataclass
class Scene:
    """A search that something happens to.

    Attributes:
        folder: Its own; the home lies below it.
        undisturbed: The home of the undisturbed search.
        quick: Trials run inside the driver's process.
    """

    folder: Path
    calm: Path
    quick: bool
    _started: list[Any] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The search's home."""
        return self.folder / "home"

    @property
    def run(self) -> Path:
        """The search's folder."""
        return self.home / NAME

    @property
    def view(self) -> RunView:
        """The search as its ledger tells it."""
        return read_run(self.run)

    @property
    def said(self) -> str:
        """All that its commands have printed."""
        return (self.folder / "said").read_text(encoding="utf-8", errors="replace")

    @property
    def complained(self) -> str:
        """All that they have printed on stderr."""
        return (self.folder / "complained").read_text(encoding="utf-8", errors="replace")

    def start(self, *words: str, ray: bool = False, env: Mapping[str, str] | None = None) -> Any:
        """Start a command of `eed-search` as a process of its own.

        Args:
            words: The command.
            ray: Under Ray, even where all is to be quick.
            env: What the stub is told.
        """
        given = {"EED_STUB_SECONDS": "0.05", **(env or {})}
        if self.quick and not ray:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["benchmarks.chaos", *kills.IMPORTED_ONCE, *_IMPORTED_TOO])
            process = context.Process(target=_be_command, args=(words, given, self.folder))
            process.start()
            started: Any = kills.Forked(process)
        else:
            from tests.cli.calling import STUBBED, environment

            with (self.folder / "said").open("ab") as said, (self.folder / "complained").open("ab") as complained:
                started = subprocess.Popen(
                    [sys.executable, "-c", STUBBED, *words],
                    cwd=self.folder,
                    env=environment(**given),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=complained,
                )
        self._started.append(started)
        return started

    def launch(self, *more: str, ray: bool = False, env: Mapping[str, str] | None = None) -> Any:
        """Start the search."""
        return self.start("launch", "chaos.yaml", "--home", "home", "--name", NAME, *more, ray=ray, env=env)

    def resume(self, *more: str, ray: bool = False, env: Mapping[str, str] | None = None) -> Any:
        """Take it up again."""
        return self.start("resume", NAME, "--home", "home", *more, ray=ray, env=env)

    def until_events(self, number: int, process: Any) -> None:
        """Wait until the ledger has so many events."""
        wait(lambda: kills.num_events(self.run) >= number or process.poll() is not None)

    def pid_of(self, what: str, nth: int) -> int:
        """Wait for the nth call of a stage of the stub, and name its process."""
        pids = self.folder / "pids"
        wait(lambda: len(calls(pids, what)) >= nth)
        return pid_in(calls(pids, what)[nth - 1])

    def as_calm(self) -> list[str]:
        """Say in what the search differs from the undisturbed one, and what is doubled or open."""
        return kills.compare(self.calm, self.home)

    def sound(self) -> list[str]:
        """Say what is doubled or open, of a search that need not be the undisturbed one."""
        view = self.view
        states = {number: trial[0] for number, trial in kills.study_of(self.home, view).items()}
        open_ = [f"Optuna: trial {n} is {state}" for n, state in states.items() if state in ("RUNNING", "WAITING")]
        return [*([] if view.state == "finished" else [f"it is {view.state}"]), *open_, *kills.mlflow_problems(view)]

    def others_done(self, *but: int) -> list[str]:
        """Say which other trials are not what they would have been."""
        calm = read_run(self.calm / NAME).trials
        return [
            f"trial {number} ended as {trial.outcome} ({trial.message})"
            for number, trial in self.view.trials.items()
            if number not in but
            and (trial.outcome == "failed") != (number in calm and calm[number].outcome == "failed")
        ]

    def end(self) -> None:
        """End what is left of the processes that were started."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()


_IMPORTED_TOO = ["eed_search.cli.app", "eed_search.cli.launch", "eed_search.cli.resume", "eed_search.cli.progress"]


def _be_command(words: tuple[str, ...], env: dict[str, str], folder: Path) -> None:
    """Be a command of `eed-search`, in a process that was forked for it, with trials inside of it."""
    os.environ |= env
    os.chdir(folder)
    for stream, name in ((1, "said"), (2, "complained")):
        with (folder / name).open("ab") as file:
            os.dup2(file.fileno(), stream)
    import eed_search
    from eed_search.cli import launch, main, resume
    from eed_search.search.execution.workers import LocalWorkers
    from tests.search import stub_pipeline

    @contextmanager
    def local(place: Any, node: Any) -> Any:
        yield LocalWorkers()

    sys.argv = ["eed-search", *words]
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    with (
        mock.patch.dict(sys.modules, {"eed_search.trial": stub_pipeline}),
        mock.patch.object(eed_search, "trial", stub_pipeline, create=True),
        mock.patch.object(launch, "workers_at", local),
        mock.patch.object(resume, "workers_at", local),
    ):
        main()


def wait(condition: Callable[[], Any]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + _LONGEST_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"what is waited for did not happen within {_LONGEST_S:g} s")
        time.sleep(0.01)


# ---------------------------------------------------------------- the faults


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        number: Its place in the table.
        name: What breaks.
        wanted: What must come of it.
        provoke: Does it; gives what is not as wanted, one line each.
        slow: Must be waited for: left out where all is to be quick.
    """

    number: int
    name: str
    wanted: str
    provoke: Callable[[Scene], list[str]]
    slow: bool = False


FAULTS: list[Fault] = []


def fault(name: str, wanted: str, *, slow: bool = False) -> Callable[[Callable[[Scene], list[str]]], Any]:
    """Enter a function as the next fault."""

    def enter(provoke: Callable[[Scene], list[str]]) -> Callable[[Scene], list[str]]:
        FAULTS.append(Fault(len(FAULTS) + 1, name, wanted, provoke, slow))
        return provoke

    return enter


def ended(process: Any, code: int = 0, what: str = "the search") -> list[str]:
    """Wait for a command's end, and say if it is another than wanted."""
    found = process.wait(_LONGEST_S)
    return [] if found == code else [f"{what} ended with {found}, not {code}"]


@fault("a worker is killed (kill -9)", "its trial runs again; the undisturbed result")
def worker_killed(scene: Scene) -> list[str]:
    """The process that runs the third trial is killed."""
    (scene.folder / "pids").mkdir()
    process = scene.launch(
        ray=True, env={"EED_STUB_PIDS": str(scene.folder / "pids"), "EED_STUB_PHASE_SECONDS": "0.15"}
    )
    os.kill(scene.pid_of("run", 3), signal.SIGKILL)
    problems = ended(process) + scene.as_calm()
    return problems + ([] if scene.view.losses else ["no worker was lost"])


def _bad_trial(scene: Scene, what: str, reason: str) -> list[str]:
    """Let the third trial go wrong in some way of its own."""
    process = scene.launch(env={"EED_STUB_FAULTS": json.dumps({2: what})})
    problems = ended(process) + scene.sound() + scene.others_done(2)
    trial: TrialRecord = scene.view.trials[2]
    if (trial.outcome, trial.reason) != ("failed", reason):
        problems.append(f"trial 2 ended as {trial.outcome} ({trial.reason})")
    if len(scene.view.trials) != TRIALS:
        problems.append(f"{len(scene.view.trials)} of {TRIALS} trials came to an end")
    return problems


@fault("a trial raises an exception", "failed (error); all others as ever")
def exception(scene: Scene) -> list[str]:
    """A RuntimeError."""
    return _bad_trial(scene, "raise", "error")


@fault("the disk is full under ledger and study", "one line, code 6, no trial blamed; with room the undisturbed result")
def full_disk(scene: Scene) -> list[str]:
    """A file fills the home's file system while trials run."""
    small_disk(scene.home, "48m")
    process = scene.launch(env={"EED_STUB_SECONDS": "0.2"})
    scene.until_events(26, process)
    filler = scene.home / "filler"
    _fill(filler)
    return _until_room(scene, process, filler.unlink)


@fault("the driver is killed (kill -9)", "`resume` gives the undisturbed result; no process of it is left")
def driver_killed(scene: Scene) -> list[str]:
    """While trials run."""
    process = scene.launch()
    scene.until_events(30, process)
    process.kill()
    process.wait()
    left = kills.sessions_of({process.pid})
    problems = ended(scene.resume()) + scene.as_calm()
    return problems + [f"Ray's session {one} is left" for one in left if Path(one).exists()]


@fault("a metric is NaN", "failed (diverged), told to Optuna as failed")
def metric_nan(scene: Scene) -> list[str]:
    """The robust accuracy."""
    return _bad_trial(scene, "nan", "diverged")


@fault("an objective is missing", "failed (diverged), told to Optuna as failed")
def metric_missing(scene: Scene) -> list[str]:
    """All of the measurement."""
    return _bad_trial(scene, "missing", "diverged")


@fault("a metric is infinite", "failed (diverged), told to Optuna as failed")
def metric_infinite(scene: Scene) -> list[str]:
    """The robust accuracy."""
    return _bad_trial(scene, "infinite", "diverged")


_HURRY = ("--set", "search.trial_timeout_s=8", "--set", "search.time_budget_s=600")


@fault("a trial never returns, under a time budget", "failed (timeout), with its stacks; the search ends", slow=True)
def never_returns(scene: Scene) -> list[str]:
    """It sleeps for an hour."""
    process = scene.launch(*_HURRY, ray=True, env={"EED_STUB_FAULTS": json.dumps({2: "sleep"})})
    return ended(process) + _timed_out(scene)


@fault(
    "a worker is stopped (SIGSTOP), under a time budget",
    "failed (timeout), said to be stopped; the search ends",
    slow=True,
)
def worker_stopped(scene: Scene) -> list[str]:
    """The process that runs the third trial."""
    (scene.folder / "pids").mkdir()
    process = scene.launch(
        *_HURRY, ray=True, env={"EED_STUB_PIDS": str(scene.folder / "pids"), "EED_STUB_PHASE_SECONDS": "0.3"}
    )
    os.kill(scene.pid_of("run", 3), signal.SIGSTOP)
    problems = ended(process) + _timed_out(scene)
    told = [*scene.view.notes, *(trial.message for trial in scene.view.trials.values())]
    return problems + ([] if any("stopped" in line for line in told) else ["nothing says that it was stopped"])


def _timed_out(scene: Scene) -> list[str]:
    late = {n: t for n, t in scene.view.trials.items() if t.reason == "timeout"}
    problems = scene.sound() + scene.others_done(*late)
    return problems + ([] if len(late) == 1 else [f"{len(late)} trials ended by timeout"])


@fault("the disk is full under the store", "one line, code 6, no trial blamed; with room the undisturbed result")
def full_store(scene: Scene) -> list[str]:
    """What the trials keep fills a file system of its own."""
    stored = {"EED_STUB_STORED": "1500"}
    small_disk(scene.home / "store", "5m")
    process = scene.launch(env=stored)
    return _until_room(scene, process, lambda: small_disk(scene.home / "store", "100m", again=True), stored)


def _until_room(
    scene: Scene, process: Any, make_room: Callable[[], None], env: Mapping[str, str] | None = None
) -> list[str]:
    problems = ended(process, 6)
    lines = scene.complained.splitlines()
    if len(lines) != 1 or not re.search("No space left on device|disk is full", lines[0]):
        problems.append(f"stderr: {lines[:3]}")
    if "Traceback" in scene.said:
        problems.append("a traceback was printed")
    make_room()
    blamed = [n for n, t in scene.view.trials.items() if t.outcome in ("failed", "pruned") and t.reason != "stopped"]
    if blamed:
        problems.append(f"trials {blamed} were blamed")
    return problems + ended(scene.resume(env=env), what="the resume") + scene.as_calm()


@fault("the study's file is damaged", "made again from the ledger; the undisturbed result")
def damaged_study(scene: Scene) -> list[str]:
    """Noise in its middle, after the driver was killed."""
    process, path = scene.launch(env={"EED_STUB_SECONDS": "0.3"}), scene.run / "study.sqlite"
    scene.until_events(30, process)
    wait(path.exists)  # it follows the search in the background
    process.kill()
    process.wait()
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = os.urandom(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    return ended(scene.resume()) + scene.as_calm()


@fault("MLflow's server is killed", "the search goes on; MLflow is complete in the end", slow=True)
def mlflow_killed(scene: Scene) -> list[str]:
    """And started again after five seconds."""
    server = MlflowServer(scene.folder / "mlflow")
    process = scene.launch("--set", f"tracking.uri={server.url}", env={"EED_STUB_SECONDS": "0.5"})
    scene.until_events(30, process)
    server.kill()
    problems = ["it still answered"] if server.answers() else []
    time.sleep(5.0)
    server.start()
    with server:
        return problems + ended(process) + scene.sound() + scene.others_done()


@fault("MLflow's server freezes for 45 s", "the search goes on; one run for each trial", slow=True)
def mlflow_frozen(scene: Scene) -> list[str]:
    """SIGSTOP, later SIGCONT, to all of its processes."""
    server = MlflowServer(scene.folder / "mlflow")
    with server:
        process = scene.launch("--set", f"tracking.uri={server.url}", env={"EED_STUB_SECONDS": "0.3"})
        scene.until_events(30, process)
        server.signal(signal.SIGSTOP)
        problems = ["it still answered"] if server.answers() else []
        time.sleep(_FROZEN_S)
        server.signal(signal.SIGCONT)
        return problems + ended(process) + scene.sound() + scene.others_done()


@fault("killed right after a result was shown", "what was shown is in ledger, Optuna and MLflow")
def shown_then_killed(scene: Scene) -> list[str]:
    """The driver is killed as soon as its output says that four trials are done."""
    process = scene.launch()
    shown = re.compile(r"trial (\d+) done")
    wait(lambda: len(set(shown.findall(scene.said))) >= 4 or process.poll() is not None)
    process.kill()
    process.wait()
    numbers = {int(number) for number in shown.findall(scene.said)}
    lost = numbers - scene.view.trials.keys()
    problems = [f"trials {sorted(lost)} were shown as done and are not in the ledger"] if lost else []
    return problems + ended(scene.resume()) + scene.as_calm()


@fault("two launches of one name", "one wins, the other is refused with code 7")
def two_launches(scene: Scene) -> list[str]:
    """At the same moment."""
    both = [scene.launch(), scene.launch()]
    codes = sorted(process.wait(_LONGEST_S) for process in both)
    problems = [] if codes == [0, 7] else [f"they ended with {codes}"]
    return problems + scene.as_calm()


@fault("one bit of stored weights flips", "found by its hash, set aside, made again, and said")
def flipped_bit(scene: Scene) -> list[str]:
    """Between two searches of one home that need the same stage."""
    stored = {"EED_STUB_STORED": "20"}
    problems = ended(scene.launch(env=stored))
    weights = next((scene.home / "store" / "stored.1").glob("*/tensors.safetensors"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    problems += ended(
        scene.start("launch", "chaos.yaml", "--home", "home", "--name", "second", env=stored), what="the second search"
    )
    second = read_run(scene.home / "second")
    if {n: t.measurement for n, t in second.trials.items()} != {n: t.measurement for n, t in scene.view.trials.items()}:
        problems.append("the second search's results are others")
    if not any("altered" in note for note in second.notes):
        problems.append("nothing says that it was altered")
    if not list((scene.home / "store" / "stored.1").glob("*.altered-1")):
        problems.append("it was not set aside")
    return problems


# ---------------------------------------------------------------- small disks


def small_disk(folder: Path, size: str, *, again: bool = False) -> None:
    """Mount a small file system, in this process's own mount namespace; or change its size."""
    if not _alone():
        raise NotProvoked("a small file system needs Linux and root")
    folder.mkdir(parents=True, exist_ok=True)
    options = f"remount,size={size}" if again else f"size={size}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        raise NotProvoked(f"no small file system can be mounted here ({mounted.stderr.strip()})")


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _alone() -> bool:
    """Whether this process has a mount namespace of its own: what it mounts, nobody else sees."""
    return os.environ.get("EED_CHAOS_ALONE") == str(os.getpid())


def _go_alone() -> None:
    """Go on in a mount namespace of its own, where that can be had."""
    if _alone() or os.geteuid() != 0 or shutil.which("unshare") is None:
        return
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return
    os.environ["EED_CHAOS_ALONE"] = str(os.getpid())  # `exec` keeps the number
    os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])


# ---------------------------------------------------------------- all of them


@dataclass(frozen=True)
class Row:
    """What became of a fault.

    Attributes:
        fault: Which.
        problems: What is not as wanted; none if it is fine.
        not_provoked: Why it could not be provoked; empty if it was.
        seconds: That it took.
    """

    fault: Fault
    problems: tuple[str, ...]
    not_provoked: str
    seconds: float

    @property
    def word(self) -> str:
        """Say it in a word or two."""
        return f"not provoked: {self.not_provoked}" if self.not_provoked else "; ".join(self.problems) or "fine"


def provoke(faults: list[Fault], root: Path, *, quick: bool, say: Callable[[str], None] = print) -> list[Row]:
    """Run the undisturbed search, then each fault.

    Args:
        faults: Which.
        root: A folder for all of them.
        quick: Trials run inside the driver's process where the fault does not concern a worker.
        say: Told of each in a line.
    """
    calm = _scene(root / "calm", root, quick)
    if problems := ended(calm.launch(), what="the undisturbed search"):
        raise RuntimeError(f"{problems[0]}: {calm.complained}")
    rows = []
    for one in faults:
        begin, problems, why = time.monotonic(), [], ""
        scene = _scene(root / f"{one.number:02d}", calm.home, quick)
        with ExitStack() as stack:
            stack.callback(scene.end)
            try:
                problems = one.provoke(scene)
            except NotProvoked as error:
                why = str(error)
            except (RunError, TimeoutError, KeyError, OSError) as error:
                problems = [f"{type(error).__name__}: {error}"]
        rows.append(Row(one, tuple(problems), why, time.monotonic() - begin))
        say(f"{one.number:>2} {one.name}: {rows[-1].word} ({rows[-1].seconds:.0f} s)")
    return rows


def _scene(folder: Path, calm: Path, quick: bool) -> Scene:
    folder.mkdir(parents=True)
    (folder / "chaos.yaml").write_text(FILE % (TRIALS, usable_cores()), encoding="utf-8")
    for name in ("said", "complained"):
        (folder / name).touch()
    return Scene(folder, calm, quick)


def table(rows: list[Row]) -> str:
    """Write the rows as a page of the documentation."""
    num = sum(row.word == "fine" for row in rows)
    lines = [
        "# What becomes of a search when something breaks",
        "",
        "Made by `make chaos`: each fault is provoked for real on a search of"
        f" {TRIALS} short trials under Ray, then the result is compared with the undisturbed search's, event by event, in the"
        " ledger, in Optuna's study and in MLflow.",
        "",
        f"{num} of {len(rows)} are fine; {time.strftime('%Y-%m-%d')}, {platform.machine()}, {usable_cores()} cores.",
        "",
        "| | what breaks | what must come of it | what came | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.fault.number} | {row.fault.name} | {row.fault.wanted} | {row.word} | {row.seconds:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Provoke the faults, print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="in less than three minutes")
    parser.add_argument("--only", default="", help="numbers of faults, such as 3,10")
    parser.add_argument("--home", type=Path, help="folder for the searches; a temporary one by default")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    _go_alone()
    only = {int(number) for number in options.only.split(",") if number}
    faults = [one for one in FAULTS if (one.number in only if only else not (options.quick and one.slow))]
    root = options.home or Path(tempfile.mkdtemp(prefix="eed-chaos-"))
    rows = provoke(faults, root.resolve(), quick=options.quick, say=lambda line: print(line, flush=True))
    text = table(rows)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    bad = any(row.problems for row in rows)
    if options.home is None and not bad:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if bad else 3 if any(row.not_provoked for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
