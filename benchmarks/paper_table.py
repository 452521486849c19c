"""The paper's table: the base, HARP, R-ADMM, CSTAR and EED at 80 % sparsity, masked and as networks that are really smaller.

    python benchmarks/paper_table.py [search_spaces/cifar10_resnet18.yaml] [--data FOLDER] [--home FOLDER] [--rows eed harp …]
                                     [--keep 0.2] [--num-samples 1000] [--device cuda] [--set key=value …]

Columns: right on clean test images, after PGD-20, after an AutoAttack-grade union, C&W's margin under L-inf, DeepFool (l2), all
through the gate and judged on the deployed answer; bytes that ship; and the true speed-up, timed at batch 1 in onnxruntime
against the dense base. A masked network keeps a fifth of the weights and is as slow as the dense one; a smaller
one keeps the share of channels (its square root) or of ranks that leaves about a fifth of the weights.

HARP here is the method `learned` (importance and each layer's share are learned under a budget), R-ADMM `radmm`, CSTAR
`cstar`, EED a team of three by different scores, jointly fine-tuned (beta 0.5, omega 10, gamma 4, gate 0.5: the paper's).

Every stage lies in the home's store and goes on from its checkpoint; judged rows lie in HOME/paper. A table that is cut
short and called again with the same words ends as one that was not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402

from eed_search import trial  # noqa: E402
from eed_search.config.loader import Override, load  # noqa: E402
from eed_search.config.params import MemberChoice, TrialParams  # noqa: E402
from eed_search.config.spec import Choice, Spec  # noqa: E402
from eed_search.core.seeds import canonical_json  # noqa: E402
from eed_search.data.splits import load_splits  # noqa: E402
from eed_search.deployment.gates import gate_of  # noqa: E402
from eed_search.ensemble.gate import RUNS_ALL, Gate, GatedEnsemble  # noqa: E402
from eed_search.evaluation.paper_table import paper_table  # noqa: E402
from eed_search.evaluation.target import Target  # noqa: E402
from eed_search.pipeline.context import StageContext, open_context  # noqa: E402
from eed_search.pipeline.team import find_networks  # noqa: E402
from eed_search.pipeline.training import dense_base  # noqa: E402
from eed_search.runs.records import Accuracy, TrialRecord, from_json, to_json  # noqa: E402

SCORES = ("nis", "erm", "bnsf")
COLUMNS = ("clean", "PGD-20", "AutoAttack-grade union", "C&W (L-inf)", "DeepFool (l2)")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title: For people.
        method: How members are made; empty for the base.
        members: Members of the team.
        masked: Whether what is removed stays as zeros.
        changes: Keys that differ from the file.
    """

    title: str
    method: str = ""
    members: int = 1
    masked: bool = False
    changes: Mapping[str, str] = field(default_factory=dict)


_WEIGHTS, _CHANNELS = {"members.granularity": "unstructured"}, {"members.granularity": "channel"}
ROWS = {
    "base": Row("dense base"),
    "harp-masked": Row("HARP, masked", "learned", masked=True, changes=_WEIGHTS),
    "harp": Row("HARP, channels", "learned", changes=_CHANNELS),
    "radmm-masked": Row("R-ADMM, masked", "radmm", masked=True, changes={"members.radmm.set": "irregular"}),
    "radmm": Row("R-ADMM, filters", "radmm", changes={"members.radmm.set": "filter"}),
    "cstar": Row("CSTAR, low rank", "cstar"),
    "eed-masked": Row("EED, masked", "prune", 3, masked=True, changes=_WEIGHTS),
    "eed": Row("EED, channels", "prune", 3, changes=_CHANNELS),
}


@dataclass(frozen=True)
class Judged:
    """What was found of one row.

    Attributes:
        columns: Right test images, by attack.
        size_bytes: What ships.
        speedup: Over the dense base, with its interval.
        members_run: Members that run for an average clean image.
    """

    columns: dict[str, Accuracy]
    size_bytes: int
    speedup: tuple[float, float, float]
    members_run: float


def share(row: Row, keep: float) -> float:
    """Give the size of a member that keeps this share of the weights."""
    return keep if row.masked or row.method == "cstar" else round(math.sqrt(keep), 4)


def params_of(row: Row, keep: float) -> TrialParams:
    """Give the one trial of a row."""
    members = tuple(MemberChoice(SCORES[i], share(row, keep), row.method) for i in range(row.members))
    weights = (0.5, 10.0, 4.0) if row.members > 1 else (0.0, 0.0, 0.0)
    return TrialParams(members, "all", "labels", "robust_first", *weights, 0.5)


def spec_of(row: Row, file: Path, overrides: Sequence[str]) -> Spec:
    """Read the file as a row wants it: its trial is given, so the space need only allow it."""
    texts = [*overrides, *(f"{key}={value}" for key, value in row.changes.items()), "team.mode=direct", "baselines.sizes=[]"]  # fmt: skip
    spec = load(file, [Override.parse(text) for text in texts])
    space = spec.search.space.model_copy(
        update={"method": Choice(values=(row.method or "prune",)), "size": Choice(values=(1.0,))}
    )
    return spec.model_copy(update={"search": spec.search.model_copy(update={"space": space})})


def judged(row: Row, spec: Spec, home: Path, args: argparse.Namespace) -> Judged:
    """Make a row's networks and judge them, or read what was found.

    Raises:
        SystemExit: If its trial failed.
    """
    setting = trial.prepare(spec, home / "store", say)
    found, params = setting.base.measurement, None
    if row.method:
        params = params_of(row, args.keep)
        record = trial.run(0, params, setting, trial.make_probe(setting), say)
        assert isinstance(record, TrialRecord)
        if record.measurement is None:
            raise SystemExit(f"\r{row.title}: {record.outcome}: {record.message}")
        found = record.measurement
    asked = {"artifact": found.artifact, "gate": params.gate_threshold if params else None}
    asked |= {"num_samples": args.num_samples, "eps": spec.threat.eps, "seed": args.seed}
    file = home / "paper" / f"{hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:24]}.json"
    if file.is_file():
        return from_json(Judged, json.loads(file.read_text(encoding="utf-8")))
    context = open_context(spec, home / "store", say, whole_machine=True)
    target = _target(row, context, found.artifact, params, args)
    device = torch.device(args.device)
    table = paper_table(target, seed=args.seed, device=device, report=say)
    latency = trial.final_latencies([(found.artifact, params)], [0], setting, say)[0].speedup
    made = Judged(table.columns, found.size_bytes, (latency.value, latency.low, latency.high), found.mean_members_run)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(to_json(made)), encoding="utf-8")
    part.replace(file)
    return made


def _target(
    row: Row, context: StageContext, artifact: str, params: TrialParams | None, args: argparse.Namespace
) -> Target:
    spec = context.spec
    test = load_splits(spec.data, spec.seed).test
    some = test.subset(torch.arange(min(args.num_samples or len(test), len(test)))).floats()
    networks = [one.model.eval() for one in context.read_members(find_networks(context, artifact, params))]
    gate = gate_of(spec.gate, params.gate_threshold if params else RUNS_ALL)
    return Target(
        name=row.title,
        team=GatedEnsemble(networks, gate if len(networks) > 1 else Gate(RUNS_ALL)).eval(),
        split=some,
        split_name="test",
        data=spec.data.source,
        num_classes=context.data.num_classes,
        eps=spec.threat.eps,
        base=dense_base(context)[0].eval() if params else None,
    )


def line(title: str, found: Judged) -> str:
    """Write one row of the table."""
    shares = " | ".join(f"{100 * found.columns[name].value:.1f}" for name in COLUMNS)
    value, low, high = found.speedup
    return (
        f"| {title} | {shares} | {found.size_bytes / 1e6:.2f} | {value:.2f} ({low:.2f}..{high:.2f}) |"
        f" {found.members_run:.2f} |"
    )


def say(text: str) -> None:
    """Show progress on the error stream."""
    print(f"\r{text[:118]:<118}", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("search_spaces/cifar10_resnet18.yaml"))
    parser.add_argument("--data", type=Path, help="folder of npz files, in place of the file's source")
    parser.add_argument("--home", type=Path, default=Path("runs/paper"), help="folder of store and results")
    parser.add_argument(
        "--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--keep", type=float, default=0.2, help="share of the weights that stays (0.2)")
    parser.add_argument("--num-samples", type=int, help="test images; all by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the attacks")
    parser.add_argument("--device", default="cpu", help="where the table's attacks run: cpu, or cuda")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    if not 0 < args.keep < 1:
        parser.error(f"--keep {args.keep:g}: give a share of the weights, above 0 and below 1")
    given = [f"data.path={args.data}", "data.source=npz"] if args.data else []
    print("|  | " + " | ".join(COLUMNS) + " | MB | speed-up | members run |")
    print("|" + " --- |" * (len(COLUMNS) + 4))
    for name in args.rows:
        row = ROWS[name]
        found = judged(row, spec_of(row, args.file, [*given, *args.sets]), args.home, args)
        print("\r" + line(row.title, found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
