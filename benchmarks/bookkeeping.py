"""What does keeping the books cost? A thousand trials that take no time, taken up again, and MLflow behind them.

    python benchmarks/bookkeeping.py [--trials 1000] [--more 30] [--racing] [--whole] [--smoke] [--home DIR] [--out FILE.json]

A ledger of so many trials is written as a killed driver would have left it (`tests/search/stub_pipeline.py`, one trial at
a time, drawn at random). Then a driver in a process of its own takes it up for some more trials, which the
portfolio's model proposes, and delivers all of them to MLflow in the home's own database. Beside it stands a driver that
launches the same search afresh, for as many trials as were added, and with `--whole` one that launches all of it. Printed:

- seconds from the start of the process to its first trial;
- trials a minute from then on, what the stub takes left in;
- seconds from the last trial's end until MLflow has everything, finals and report included, and the share of the last call
  (`close`), which waits for MLflow alone;
- the process' largest resident memory.

What must hold at 1,000 trials: the first trial at most 5 s later than in the fresh launch, MLflow complete at most 60 s
after the end, 500 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from eed_search.config.loader import to_text  # noqa: E402
from eed_search.config.params import TrialParams  # noqa: E402
from eed_search.config.spec import Baselines, Search, Spec, Threat  # noqa: E402
from eed_search.runs.events import RunDescribed  # noqa: E402
from eed_search.runs.home import SPACE_FILE  # noqa: E402
from eed_search.runs.ledger import FILE_NAME, RESUME, Event, Ledger  # noqa: E402
from eed_search.system.cores import usable_cores  # noqa: E402

RESULT = Path(__file__).parent / "results" / "bookkeeping.json"
NAME = "run"
LATER_S, COMPLETE_S, MEMORY_MIB = 5.0, 60.0, 500.0


@dataclass(frozen=True)
class Driven:
    """What one driver's process took.

    Attributes:
        what: `fresh`, `resume` or `whole`.
        trials: Of the search in the end.
        first_s: From the process' start to its first trial.
        per_minute: Trials begun a minute after the first.
        after_s: From the last trial's end to the driver's.
        close_s: Of that, what the wait for MLflow took.
        complete: Whether MLflow had everything then.
        memory_mib: Largest resident memory.
    """

    what: str
    trials: int
    first_s: float
    per_minute: float
    after_s: float
    close_s: float
    complete: bool
    memory_mib: float


def spec_of(trials: int, racing: bool, sampler: str = "portfolio") -> Spec:
    """The search."""
    search = Search(trials=trials, startup_trials=10, sampler=sampler, racing=racing)
    return Spec(name="books", threat=Threat(eps=0.15), search=search, baselines=Baselines(sizes=(0.5,)))


# ---------------------------------------------------------------- a ledger of many trials


def write_ledger(folder: Path, trials: int, racing: bool) -> None:
    """Write what a driver would have left that was killed when so many trials had been proposed."""
    from eed_search.runs.run_folder import with_absolute_data
    from eed_search.search import Silent, provenance
    from eed_search.search.journal import Journal
    from eed_search.search.racing.rung_scheduler import RungScheduler, with_earlier
    from eed_search.search.sampling.study import close_study, open_study
    from eed_search.search.sampling.trial_queue import TrialQueue
    from tests.search import stub_pipeline

    stub: Any = stub_pipeline
    spec = with_absolute_data(spec_of(trials, racing))
    folder.mkdir(parents=True)
    (folder / SPACE_FILE).write_text(to_text(spec), encoding="utf-8")
    setting = stub.prepare(spec, folder.parent / "store", lambda text: None)
    facts = {
        "versions": provenance.versions(),
        "machine": provenance.machine(1.0, 0.0),
        "num_classes": setting.num_classes,
        "image_shape": list(setting.image_shape),
        "reference_ms": 1.0,
        "data": stub.read_data(spec, None, None).to_plain(),
    }
    random = spec_of(trials, racing, "random")
    study = open_study(folder / "made.sqlite", NAME, random)
    with Ledger(folder / FILE_NAME, write=True) as ledger:
        journal = Journal(ledger, Silent(), trials, 1)
        of = provenance.origin(spec)
        journal.append(RunDescribed(NAME, spec.to_plain(), facts, uid=f"{NAME}-books", origin=of))
        journal.base(setting.base)
        journal.baseline(stub.baseline(0.5, setting, None, lambda text: None))
        trial_queue = TrialQueue(
            study,
            random,
            on_proposal=journal.proposal,
            racing=RungScheduler(spec.search.eta) if racing else None,
            on_resume=lambda number, rung: journal.decision(number, rung, RESUME),
            should_stop=lambda: len(journal.view.proposals) >= trials,
        )
        while (proposal := trial_queue.propose()) is not None:
            number, params = proposal.number, TrialParams.from_flat(proposal.params)
            journal.attempt(number)
            made = stub.run(number, params, setting, stub.Probe(), lambda text: None, proposal.rung)
            if proposal.rung is not None:
                journal.report(number, made)
                verdict = trial_queue.report(number, journal.view.reports[number][-1])
                journal.decision(number, proposal.rung, verdict)
                continue
            record = with_earlier(made, journal.view.reports.get(number, ()))
            journal.result(record)
            trial_queue.tell(record)
    close_study(study)
    (folder / "made.sqlite").unlink()


# ---------------------------------------------------------------- one driver, as a process of its own


def drive(home: Path, trials: int, racing: bool) -> None:
    """Launch the search, or take it up again if it is there; the body of the processes that are measured."""
    from eed_search.search import LocalWorkers, Silent
    from eed_search.search.driver import run
    from eed_search.search.journal import Journal
    from eed_search.search.resume import resume
    from tests.search import stub_pipeline

    waited = [0.0]
    close = Journal.close_tracker

    def timed(self: Journal, *arguments: Any, **options: Any) -> None:
        start = time.monotonic()
        close(self, *arguments, **options)
        waited[0] = time.monotonic() - start

    pipeline: Any = stub_pipeline
    with mock.patch.object(Journal, "close_tracker", timed):
        if (home / NAME / FILE_NAME).exists():
            resume(home / NAME, pipeline=pipeline, listener=Silent(), trials=trials, workers=LocalWorkers())
        else:
            spec = spec_of(trials, racing)
            run(spec, home=home, name=NAME, pipeline=pipeline, listener=Silent(), workers=LocalWorkers())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"close_s": waited[0], "memory_mib": memory}))


def measure(what: str, home: Path, trials: int, racing: bool) -> Driven:
    """Run one driver, and read in the ledger what it took."""
    before = _events(home)[-1].seq if (home / NAME / FILE_NAME).exists() else 0
    command = [sys.executable, __file__, "--drive", "--home", str(home), "--trials", str(trials)]
    begun = time.time()
    done = subprocess.run(
        [*command, *(["--racing"] if racing else [])], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    events = [event for event in _events(home) if event.seq > before]
    starts = [event.at for event in events if event.kind == "attempt"]
    last = max(event.at for event in events if event.kind in ("result", "decision"))
    return Driven(
        what=what,
        trials=trials,
        first_s=starts[0] - begun,
        per_minute=60 * (len(starts) - 1) / max(starts[-1] - starts[0], 1e-9),
        after_s=events[-1].at - last,
        close_s=told["close_s"],
        complete=any(event.kind == "tracker" and event.data.get("complete") for event in events),
        memory_mib=told["memory_mib"],
    )


def _events(home: Path) -> list[Event]:
    with Ledger(home / NAME / FILE_NAME) as ledger:
        return list(ledger.events())


# ---------------------------------------------------------------- the whole


def table(rows: Sequence[Driven]) -> str:
    """Write what was measured as lines of one width."""
    head = (
        f"{'':<8}{'trials':>7}{'first trial':>13}{'a minute':>10}{'after the last':>16}{'for MLflow':>12}{'memory':>10}"
    )
    lines = [
        f"{one.what:<8}{one.trials:>7}{one.first_s:>11.1f} s{one.per_minute:>10.0f}{one.after_s:>14.1f} s"
        f"{one.close_s:>10.1f} s{one.memory_mib:>6.0f} MiB{'' if one.complete else '   INCOMPLETE'}"
        for one in rows
    ]
    return "\n".join([head, *lines])


def problems(rows: Sequence[Driven]) -> list[str]:
    """Say what does not hold."""
    by_name = {one.what: one for one in rows}
    found = [f"{one.what}: MLflow lacks something" for one in rows if not one.complete]
    found += [f"{one.what}: MLflow took {one.close_s:.0f} s after the end" for one in rows if one.close_s > COMPLETE_S]
    found += [f"{one.what}: {one.memory_mib:.0f} MiB" for one in rows if one.memory_mib > MEMORY_MIB]
    later = by_name["resume"].first_s - by_name["fresh"].first_s
    if later > LATER_S:
        found.append(f"resume: its first trial begins {later:.1f} s later than in a fresh launch")
    return found


def main() -> int:
    """Measure, print, and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000, help="trials that are taken up again (1000)")
    parser.add_argument("--more", type=int, default=30, help="trials that follow (30)")
    parser.add_argument("--racing", action="store_true", help="race the trials")
    parser.add_argument("--whole", action="store_true", help="launch all trials afresh too")
    parser.add_argument("--smoke", action="store_true", help="a few trials, to see that it runs")
    parser.add_argument("--home", type=Path, help="folder for the searches; a temporary one by default")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for what was found")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.home, options.trials, options.racing)
        return 0
    if options.smoke:
        options.trials, options.more = 12, 3
    root = options.home or Path(tempfile.mkdtemp(prefix="eed-books-"))
    trials, more, racing = options.trials, options.more, options.racing
    write_ledger(root / "resume" / NAME, trials, racing)
    rows = [measure("fresh", root / "fresh", more, racing), measure("resume", root / "resume", trials + more, racing)]
    if options.whole:
        rows.append(measure("whole", root / "whole", trials, racing))
    print(table(rows))
    wrong = problems(rows)
    print("\n".join(wrong) or "all as it must be")
    stored = {
        "date": time.strftime("%Y-%m-%d"),
        "racing": racing,
        "machine": {"platform": platform.platform(), "num_cpus": usable_cores(), "load": os.getloadavg()},
        "drivers": [asdict(one) for one in rows],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(stored, indent=1) + "\n")
    if options.home is None:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
