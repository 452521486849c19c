"""Run a benchmark: for each seed and base, craft once, prune, replay, attack, time; then write it all down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from eed_search.config.spec import Model
from eed_search.core.errors import ModelError, RunError, TrialFailure
from eed_search.core.failpoints import fail_point
from eed_search.data.splits import load_splits
from eed_search.runs.home_lock import in_use
from eed_search.storage.store import Store, write_atomic
from eed_search.system.cores import usable_cores
from eed_search.system.modes import make_folder
from eed_search.transfer.bench import Bench, Crafted, Network
from eed_search.transfer.grid import Choice, Clock, Leave, choices
from eed_search.transfer.metrics import Answers
from eed_search.transfer.results import CLEAN, Mean, Observation, Row, Timed, make_means, make_rows
from eed_search.transfer.spec import MIN_CLASSES, BenchmarkSpec, Case, model_label
from eed_search.transfer.spec_file import to_text

FILE_NAME = "benchmark.yaml"
_LOCK = ".lock"
_WORD_S = 10.0  # between two words about one stage


@dataclass(frozen=True)
class Base:
    """One base network of one seed: its own accuracy.

    Attributes:
        model: Label.
        seed: The repetition.
        clean: Accuracy without an attack.
        under: Accuracy under its own inputs, by case.
        distances: Median l2 of successful inputs, by case; none where none was.
        inputs: Hash of the inputs, by case.
    """

    model: str
    seed: int
    clean: float
    under: dict[str, float]
    distances: dict[str, float | None]
    inputs: dict[str, str]


@dataclass(frozen=True)
class Results:
    """What a benchmark found.

    Attributes:
        spec: The file.
        rows: Every pruned network under every attack.
        means: Over the filter-pruned networks.
        bases: Every base of every seed.
        observations: Sample by sample; what rows and means were made from.
        left_out: What could not be done, and why.
        num_samples: Test images of a seed.
        seconds: Seconds of this process; earlier ones, where it was killed, are not counted.
    """

    spec: BenchmarkSpec
    rows: list[Row]
    means: list[Mean]
    bases: list[Base]
    observations: list[Observation] = field(repr=False)
    left_out: list[Leave]
    num_samples: int
    seconds: float


Progress = Callable[[str], None]
"""Takes one line that says how far the benchmark is."""


def run(spec: BenchmarkSpec, *, home: Path, name: str, progress: Progress) -> Results:
    """Run a benchmark, or go on with one that was interrupted.

    Args:
        spec: The file.
        home: Finished stages lie in its store; the benchmark's own folder is `home / name`.
        name: Name of the benchmark.
        progress: Told what is being done and how long the rest will take.

    Returns:
        All results. The same as those of an undisturbed run.

    Raises:
        RunError: If the name belongs to another benchmark or a search, or this one is running.
        ModelError: If no model suits the images, or nothing can be pruned.
        DataError: If the images cannot be read.
    """
    start = time.monotonic()
    with _held(home / name, spec):
        _set_threads(spec.threads)
        found = _Run(spec, home, progress).all()
        rows = make_rows(spec, found.observations)
        means = make_means(spec, rows, found.observations)
        left_out = list(dict.fromkeys(found.left_out))
        seconds = time.monotonic() - start
        return Results(spec, rows, means, found.bases, found.observations, left_out, found.num_samples, seconds)


class _Run:
    """Gathers observations seed by seed, base by base."""

    def __init__(self, spec: BenchmarkSpec, home: Path, progress: Progress) -> None:
        self.spec, self.progress = spec, progress
        self.store = Store(
            home / "store",
            on_altered=progress,
            on_wait=lambda stage: progress(f"waits for another process's {stage.partition('.')[0]}"),
        )
        self.device = device_of(spec.device)
        self.observations: list[Observation] = []
        self.bases: list[Base] = []
        self.left_out: list[Leave] = []
        self.num_samples = 0
        self._choices = choices(spec)
        per_model = len(spec.seeds) * len(self._choices)
        self._clock = Clock({model_label(model): per_model for model in spec.models})
        self._done, self._total = 0, per_model * len(spec.models)

    def all(self) -> _Run:
        """Do everything.

        Raises:
            ModelError: If nothing is left to do.
        """
        usable: list[Model] | None = None
        for seed in self.spec.seeds:
            data = load_splits(self.spec.data, seed)
            self.num_samples = len(data.test)
            if usable is None and data.facts is not None:
                self.progress(f"read {data.facts.line()}")
            bench = Bench(self.spec, seed, data, self.store, self.device, lambda text: None)
            if usable is None:
                usable = self._usable(bench)
            cases = self._cases(data.num_classes)
            for model in usable:
                self._base(bench, model, cases)
        if not self.observations:
            reasons = "; ".join(f"{what}: {why}" for what, why in dict.fromkeys(self.left_out))
            raise ModelError(f"no network could be pruned and judged: {reasons}")
        return self

    def _usable(self, bench: Bench) -> list[Model]:
        """Find the models that suit the images, before anything is trained."""
        usable = []
        for model in self.spec.models:
            try:
                bench.refuse(model)
                usable.append(model)
            except ModelError as error:
                self._leave(model_label(model), str(error), len(self.spec.seeds) * len(self._choices))
        if not usable:
            reasons = "; ".join(f"{what}: {why}" for what, why in self.left_out)
            raise ModelError(
                f"models: none of them can be benchmarked on these images: {reasons}. Take another model or data"
            )
        return usable

    def _cases(self, num_classes: int) -> list[Case]:
        cases = []
        for case in self.spec.cases():
            if case.attack.name == "autoattack" and num_classes < MIN_CLASSES:
                why = f"its targeted losses need at least {MIN_CLASSES} classes, the data have {num_classes}"
                self._leave(case.attack.label, why)
            else:
                cases.append(case)
        if not cases:
            raise ModelError(f"attacks: none is left for data of {num_classes} classes; take pgd20, say")
        return cases

    def _base(self, bench: Bench, model: Model, cases: Sequence[Case]) -> None:
        """One base with all its pruned networks."""
        label = model_label(model)
        where = f"{label} seed {bench.seed}"
        bench.report = self._now_and_then(where)
        try:
            base = bench.base(model)
        except TrialFailure as error:
            self._leave(where, f"the base's training failed: {error}", len(self._choices))
            return
        right = base.labels == bench.data.test.labels.numpy()
        self.progress(
            f"{where}: base {100 * float(right.mean()):.1f} % clean; crafts {len(cases)} sets of inputs on it"
        )
        crafted = {case.label: bench.crafted(base, case) for case in cases}
        self.bases.append(
            Base(
                label,
                bench.seed,
                float(right.mean()),
                {case: float(one.right.mean()) for case, one in crafted.items()},
                {case: one.l2 for case, one in crafted.items()},
                {case: one.sha256 for case, one in crafted.items()},
            )
        )
        for choice in self._choices:
            begin, uses = time.monotonic(), len(self.store.uses)
            try:
                observed = self._network(bench, model, choice, base, crafted, cases)
            except (ModelError, TrialFailure) as error:
                self._leave(f"{label} {choice.title}", str(error), 1)
                continue
            self._done += 1
            computed = any(not use.hit for use in self.store.uses[uses:])
            self._clock.done(label, time.monotonic() - begin, computed=computed)
            self.observations.append(observed)
            self.progress(
                f"{self._done} of {self._total}: {where} {choice.title}: {_figures(observed, cases)}{self._left()}"
            )
            fail_point("benchmark.network")

    def _network(
        self,
        bench: Bench,
        model: Model,
        choice: Choice,
        base: Network,
        crafted: dict[str, Crafted],
        cases: Sequence[Case],
    ) -> Observation:
        network = bench.pruned(model, choice, base)
        truth = bench.data.test.labels.numpy()
        base_clean, clean, agree = base.labels == truth, network.labels == truth, network.labels == base.labels
        answers = {CLEAN: Answers(base_clean, clean, agree, base_clean, clean, clean)}
        distances: dict[str, tuple[float | None, float | None]] = {}
        for case in cases:
            found = bench.replayed(network, crafted[case.label], case)
            answers[case.label] = Answers(
                base_clean, clean, agree, crafted[case.label].right, found.static, found.adaptive
            )
            distances[case.label] = (crafted[case.label].l2, found.l2)
        timed: Timed | None = None
        try:
            timed = bench.timed(network, base)
        except ModelError as error:
            self._leave(f"latency of {model_label(model)} {choice.title}", str(error))
        if network.left_dense:
            kept = ", ".join(network.left_dense)
            self._leave(
                f"layers of {model_label(model)} under {choice.scheme}", f"cannot be scored, stay dense: {kept}"
            )
        return Observation(
            model_label(model),
            choice,
            bench.seed,
            network.num_parameters,
            network.macs,
            base.num_parameters,
            base.macs,
            timed,
            network.left_dense,
            answers,
            {case: one.sha256 for case, one in crafted.items()},
            distances,
        )

    def _now_and_then(self, where: str) -> Callable[[str], None]:
        """Pass a stage's word on if none was passed on for some seconds."""
        spoke = time.monotonic()

        def report(text: str) -> None:
            nonlocal spoke
            if time.monotonic() - spoke >= _WORD_S:
                spoke = time.monotonic()
                self.progress(f"{where}: {text}")

        return report

    def _leave(self, what: str, why: str, networks: int = 0) -> None:
        if (what, why) not in self.left_out:
            self.progress(f"left out: {what}: {why}")
        self.left_out.append((what, why))
        self._total -= networks
        for model in {model_label(one) for one in self.spec.models}:
            if networks and what.split()[0] == model:
                self._clock.dropped(model, networks)

    def _left(self) -> str:
        left = self._clock.left_s()
        return "" if left is None or self._done == self._total else f"; about {_duration(left)} left"


def device_of(wanted: str) -> torch.device:
    """Give the device that the file asks for.

    Raises:
        RunError: If it asks for CUDA where there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("device: cuda: this machine has no CUDA device that torch sees; take auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _set_threads(wanted: int | None) -> None:
    cores = usable_cores()
    given = os.environ.get("OMP_NUM_THREADS", "")
    most = int(given) if given.isdigit() and int(given) else cores
    torch.set_num_threads(min(wanted or cores, cores, most))


@contextmanager
def _held(folder: Path, spec: BenchmarkSpec) -> Iterator[None]:
    """Make the benchmark's folder, or take it up again; one process at a time."""
    from filelock import FileLock, Timeout

    text = to_text(spec)
    if (folder / "ledger.sqlite").exists():
        raise RunError(f"{folder}: holds a search; give the benchmark another --name")
    make_folder(folder.parent)
    make_folder(folder)
    try:
        with in_use(folder.resolve().parent), FileLock(folder / _LOCK, timeout=0):
            known = folder / FILE_NAME
            if not known.exists():
                write_atomic(known, text.encode())
                try:
                    yield
                except ModelError:
                    known.unlink(missing_ok=True)  # nothing was found: the name stays free
                    raise
                return
            if (before := known.read_text(encoding="utf-8")) != text:
                raise RunError(
                    f"{folder}: holds a benchmark of other settings ({_changed(before, text)}); give this one another --name:"
                    " finished stages are shared anyway"
                )
            yield
    except Timeout as error:
        raise RunError(f"{folder}: another process runs this benchmark; wait for it, or give another --name") from error


def _changed(before: str, now: str) -> str:
    """Say where two files differ first."""
    for old, new in zip(before.splitlines(), now.splitlines(), strict=False):
        if old != new:
            return f"{old.strip()} is now {new.strip()}"
    return "lines were added"


def _figures(one: Observation, cases: Sequence[Case]) -> str:
    """A network's clean accuracy, and what the last attack does to it."""
    clean = one.answers[CLEAN].clean
    case = next((c for c in reversed(cases) if c.eps), cases[-1])
    found = one.answers[case.label]
    return (
        f"clean {100 * float(np.mean(clean)):.1f} %; {case.label}: base {100 * float(np.mean(found.base)):.1f},"
        f" static {100 * float(np.mean(found.static)):.1f}, adaptive {100 * float(np.mean(found.adaptive)):.1f} %"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
