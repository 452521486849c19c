"""Problems whose whole truth is known, so that a search method can be scored without training anything.

`Lcbench`: a surrogate of neural networks on 34 tabular tasks, accuracy after each of 52 epochs against
the exact number of multiplications. `Nas201`: a table of 15,625 architectures, accuracy against a
measured latency. Both give a trial as the simulator takes it, and a scale on which 1 is the reference
point of the hypervolume and 0 is perfect.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from eed_search.core.errors import DataError
from eed_search.frontier.pareto import hypervolume, non_dominated

Mode = Literal["max", "min"]

BENCH_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "bench"
DEVELOPMENT_TASKS = ("126026", "167168", "189354", "168868")
SAMPLE_SIZE, SAMPLE_SEED = 20_000, 20_261_121
NUM_EPOCHS = 52
LEVELS = (3, 9, 27, NUM_EPOCHS)

# The surrogate's inputs and outputs in the order of its training; the order is YAHPO Gym's
# (Pfisterer et al. 2022, benchmarks/lcbench.py) and is not in the network's file.
_INPUTS = (
    "epoch",
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
_ACCURACY = 1  # of the outputs: time, validation accuracy, …
_NUM_FEATURES, _NUM_OUTPUTS = 50, 10
_BATCH = 4_000
_SHORTEST_MS = 0.1
_CHANCE_SHARE = 0.1


@dataclass(frozen=True)
class Scale:
    """Turns objectives into minimised numbers, 0 for the best and 1 for the reference point.

    Args:
        best: Of each objective, minimised (accuracy with its sign turned).
        worst: The reference point: what is worse in any objective adds nothing.
        reference: Hypervolume of the reference sample on this scale.
    """

    best: tuple[float, float]
    worst: tuple[float, float]
    reference: float

    def __call__(self, accuracy: Any, cost: Any) -> Float[np.ndarray, "points 2"]:
        """Scale points of (accuracy, cost)."""
        values = np.stack([-np.asarray(accuracy, dtype=float), np.asarray(cost, dtype=float)], axis=-1)
        best, worst = np.array(self.best), np.array(self.worst)
        return np.asarray((values - best) / (worst - best))

    def regret(self, accuracy: Any, cost: Any) -> float:
        """Give the share of the reference hypervolume that the points miss; below 0 if they beat it."""
        return 1.0 - hypervolume(np.atleast_2d(self(accuracy, cost))) / self.reference


class Lcbench:
    """YAHPO Gym's surrogate of LCBench on one task: accuracy against multiplications, over 52 epochs.

    Args:
        task: OpenML task id, such as `126026`.
        folder: Holds `yahpo_lcbench/`.

    Raises:
        DataError: If the files or the task are not there.

    Source:
        Zimmer, Lindauer, Hutter 2021 (LCBench), https://arxiv.org/abs/2006.13799; surrogate: Pfisterer et al. 2022
        (YAHPO Gym), https://arxiv.org/abs/2109.03670. The second objective is ours.
    """

    metrics: ClassVar[Mapping[str, Mode]] = {"accuracy": "max", "log_flops": "min"}
    resource: ClassVar[str] = "epoch"

    def __init__(self, task: str | int, folder: Path = BENCH_FOLDER) -> None:
        self.task = str(task)
        self._folder = Path(folder) / "yahpo_lcbench"
        encoding = json.loads(_read(self._folder / "encoding.json"))["OpenML_task_id"]
        space = json.loads(_read(self._folder / "config_space.json"))["hyperparameters"]
        choices = next(item["choices"] for item in space if item["name"] == "OpenML_task_id")
        if self.task not in choices:
            raise DataError(f"{self._folder}: no task {self.task}; there are {', '.join(choices)}")
        self._code = encoding[self.task]
        self._parameters = [item for item in space if item["name"] not in ("OpenML_task_id", "epoch")]
        self._curves: dict[tuple[float, ...], np.ndarray] = {}

    def space(self, trial: Any) -> dict[str, Any]:
        """Draw a configuration of the seven hyperparameters from an Optuna trial (define by run)."""
        config: dict[str, Any] = {}
        for item in self._parameters:
            suggest = trial.suggest_int if item["type"] == "uniform_int" else trial.suggest_float
            config[item["name"]] = suggest(item["name"], item["lower"], item["upper"], log=item["log"])
        return config

    def sample(self, size: int, seed: int) -> list[dict[str, Any]]:
        """Draw configurations from the space's own distribution, independently."""
        rng = np.random.default_rng(seed)
        columns = {item["name"]: _draw(item, rng, size) for item in self._parameters}
        return [{name: column[i].item() for name, column in columns.items()} for i in range(size)]

    def curve(self, config: Mapping[str, Any]) -> Float[np.ndarray, " 52"]:
        """Give the validation accuracy (a fraction) after each of the epochs 1 to 52; kept once computed."""
        key = tuple(float(config[name]) for name in _INPUTS[1:])
        if key not in self._curves:
            rows = np.empty((NUM_EPOCHS, len(_INPUTS)), dtype=np.float32)
            rows[:, 0] = np.arange(1, NUM_EPOCHS + 1)
            rows[:, 1:] = key
            self._curves[key] = self._predict(rows)
        return self._curves[key]

    def log_flops(self, config: Mapping[str, Any]) -> float:
        """Give log10 of the multiplications of one forward pass; exact and known before any training.

        Layers of 50, then `num_layers` falling linearly from `max_units` to 10, then 10; the products of
        neighbours are summed.
        """
        hidden = np.linspace(config["max_units"], _NUM_OUTPUTS, int(config["num_layers"]))
        widths = np.concatenate([[_NUM_FEATURES], hidden, [_NUM_OUTPUTS]])
        return float(np.log10(np.sum(widths[:-1] * widths[1:])))

    def known(self, config: Mapping[str, Any]) -> dict[str, float]:
        """Give the metrics that are known before training."""
        return {"log_flops": self.log_flops(config)}

    def evaluate(
        self, config: Mapping[str, Any], levels: Sequence[int] = LEVELS
    ) -> Iterator[tuple[float, dict[str, Any]]]:
        """Train in the simulator: a report at each of these epochs, at the cost of one unit for an epoch."""
        curve, log_flops, before = self.curve(config), self.log_flops(config), 0
        for epoch in levels:
            result = {"accuracy": float(curve[epoch - 1]), "log_flops": log_flops, "epoch": epoch}
            yield float(epoch - before), result
            before = epoch

    @cached_property
    def scale(self) -> Scale:
        """Scale and reference hypervolume, from 20,000 random configurations after 52 epochs.

        The best of each objective in the sample is 0. The reference point is the accuracy that one in ten
        configurations does not reach, so that failed trainings do not stretch the scale, and the highest cost.
        """
        configs = self.sample(SAMPLE_SIZE, SAMPLE_SEED)
        rows = np.array([[NUM_EPOCHS, *(config[name] for name in _INPUTS[1:])] for config in configs], dtype=np.float32)
        accuracy = self._predict(rows)
        cost = np.array([self.log_flops(config) for config in configs])
        return _scale(accuracy, cost)

    def _predict(self, rows: Float[np.ndarray, "rows 8"]) -> Float[np.ndarray, " rows"]:
        found = []
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            inputs = {"x_cont": part, "x_cat": np.full((len(part), 1), self._code, dtype=np.int32)}
            found.append(self._session.run(None, inputs)[0][:, _ACCURACY] / 100)
        return np.clip(np.concatenate(found).astype(np.float64), 0.0, 1.0)

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(
            _path(self._folder / "model.onnx"), sess_options=options, providers=["CPUExecutionProvider"]
        )


class Nas201:
    """NAS-Bench-201: every architecture's accuracy and its latency on one device, and so the exact front.

    Rows with a latency below 0.1 ms are left out: networks cut off by `none`, at chance accuracy.

    Args:
        latency_column: Such as `lat_ms_pixel2` or `lat_ms_1080ti_1`.
        accuracy_column: In per cent in the file.
        folder: Holds `nasbench201_acc_cost_latency.csv.gz`.

    Attributes:
        arch: Of each row, as NATS-Bench writes it.
        accuracy: Fractions.
        latency_ms: Milliseconds.
        front: True for the rows that no other row dominates.

    Raises:
        DataError: If the file or a column is not there.

    Source:
        Dong, Yang 2020, https://arxiv.org/abs/2001.00326; latencies: Lee et al. 2021 (HELP), https://arxiv.org/abs/2106.08630.
    """

    metrics: ClassVar[Mapping[str, Mode]] = {"accuracy": "max", "latency_ms": "min"}
    operations: ClassVar[tuple[str, ...]] = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

    def __init__(
        self, latency_column: str, *, accuracy_column: str = "cifar10_test_acc", folder: Path = BENCH_FOLDER
    ) -> None:
        path = Path(_path(Path(folder) / "nasbench201_acc_cost_latency.csv.gz"))
        with gzip.open(path, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        for column in (latency_column, accuracy_column):
            if column not in rows[0]:
                raise DataError(f"{path}: no column {column}; there are {', '.join(rows[0])}")
        rows = [row for row in rows if float(row[latency_column]) >= _SHORTEST_MS]
        self.arch = tuple(row["arch"] for row in rows)
        self.accuracy = np.array([float(row[accuracy_column]) / 100 for row in rows])
        self.latency_ms = np.array([float(row[latency_column]) for row in rows])
        self.front = non_dominated(np.stack([-self.accuracy, self.latency_ms], axis=1))
        self._row = {arch: row for row, arch in enumerate(self.arch)}

    @cached_property
    def scale(self) -> Scale:
        """Scale and hypervolume of the exact front; the reference point as for `Lcbench`."""
        return _scale(self.accuracy, self.latency_ms)

    def space(self, trial: Any) -> dict[str, str]:
        """Draw an architecture, edge by edge, from an Optuna trial (define by run)."""
        return {f"edge_{edge}": trial.suggest_categorical(f"edge_{edge}", self.operations) for edge in range(6)}

    def row(self, config: Mapping[str, str]) -> int | None:
        """Find the row of an architecture; none if it was left out."""
        edges = iter([config[f"edge_{edge}"] for edge in range(6)])
        nodes = ["|" + "".join(f"{next(edges)}~{source}|" for source in range(node)) for node in (1, 2, 3)]
        return self._row.get("+".join(nodes))


def _scale(accuracy: Float[np.ndarray, " points"], cost: Float[np.ndarray, " points"]) -> Scale:
    best = (-float(accuracy.max()), float(cost.min()))
    worst = (-float(np.quantile(accuracy, _CHANCE_SHARE)), float(cost.max()))
    scale = Scale(best, worst, reference=1.0)
    return Scale(best, worst, reference=hypervolume(scale(accuracy, cost)))


def _draw(item: Mapping[str, Any], rng: np.random.Generator, size: int) -> np.ndarray:
    low, high = item["lower"], item["upper"]
    if item["type"] == "uniform_int":
        # As Optuna draws integers: each whole number stands for half a unit on both sides.
        low, high = low - 0.5, high + 0.5
    drawn = np.exp(rng.uniform(np.log(low), np.log(high), size)) if item["log"] else rng.uniform(low, high, size)
    if item["type"] == "uniform_int":
        return np.clip(np.rint(drawn), item["lower"], item["upper"]).astype(np.int64)
    return np.clip(drawn, item["lower"], item["upper"])


def _path(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: not there; give the folder that holds the benchmark's files (--bench FOLDER)")
    return str(path)


def _read(path: Path) -> str:
    return Path(_path(path)).read_text()
