"""What is each way to make a member worth? One member of every method, beside `prune` and the from-scratch baseline.

    python benchmarks/members.py [search_spaces/digits.yaml] [--home FOLDER] [--size 0.25] [--set key=value ...]

Members alone, without a joint fine-tune, on the validation images: clean and PGD accuracy, kept share of what
ships, latency against the dense base, seconds of the member's own training. Three groups, each at an equal share:

- channels: `prune` (by its own recipe, and again for as many epochs as `radmm` takes in all), `radmm` with set
  `filter`, `learned`, the network of the same form from scratch;
- low rank: `cstar` with as many bytes as the channel member;
- masks: `prune` and `learned` unstructured, `radmm` with sets `irregular` and `column`, the same share of weights as the
  channel member (their latency is the dense network's).

Finished stages are read from the home's store, so the table can be made in pieces.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from torch import nn  # noqa: E402

from eed_search import trial  # noqa: E402
from eed_search.compression.member import Member  # noqa: E402
from eed_search.config.loader import Override, load  # noqa: E402
from eed_search.config.params import MemberChoice, Recovery  # noqa: E402
from eed_search.config.plans import plan_members  # noqa: E402
from eed_search.config.registry import BUILT_IN  # noqa: E402
from eed_search.config.spec import Choice, Spec  # noqa: E402
from eed_search.core.statistics import paired_difference  # noqa: E402
from eed_search.ensemble.gate import Gate  # noqa: E402
from eed_search.evaluation.robust import RobustEvaluation  # noqa: E402
from eed_search.models import signature  # noqa: E402
from eed_search.pipeline.context import StageContext, open_context  # noqa: E402
from eed_search.pipeline.latency import latency_ratio  # noqa: E402
from eed_search.pipeline.robustness import robust_evaluation  # noqa: E402
from eed_search.pipeline.stage import artifact_name  # noqa: E402
from eed_search.pipeline.training import baseline_stage, dense_base, member  # noqa: E402
from eed_search.runs.records import Accuracy  # noqa: E402
from eed_search.tracking.text import per_cent  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    name: str
    member: Member
    key: str
    seconds: float


def with_members(spec: Spec, **changes: Any) -> Spec:
    """Change section `members` of a search-space file."""
    return spec.model_copy(update={"members": spec.members.model_copy(update=changes)})


def rows(spec: Spec, home: Path, size: float, recovery: Recovery) -> Iterator[Row]:
    """Make every network; the baselines follow those that are physically smaller."""

    def made(method: Any, kept: float, name: str, **changes: Any) -> Row:
        shop = open_context(with_members(spec, **changes), home / "store", say)
        base, _ = dense_base(shop)
        (plan,) = plan_members([MemberChoice("nis", kept, method)], "all", recovery)
        found = member(shop, plan, base)
        return Row(name, found.member, found.key, shop.store.load(artifact_name("member", found.key)).seconds)

    pruned = made("prune", size, f"prune, {100 * size:g} % of channels", granularity="channel")
    yield pruned
    finetune, before = spec.members.finetune, spec.members.radmm.epochs
    longer = finetune.model_copy(update={"epochs": finetune.epochs + before})
    yield made("prune", size, f"prune, {longer.epochs:g} epochs", finetune=longer)
    yield made("radmm", size, "radmm filter", radmm=spec.members.radmm.model_copy(update={"set": "filter"}))
    yield made("learned", size, "learned channels")
    shop = open_context(spec, home / "store", say)
    base, _ = dense_base(shop)
    share = round(pruned.member.size_bytes / Member(base).size_bytes, 3)
    yield made("cstar", share, f"cstar, {100 * share:g} % of bytes")
    for recipe in spec.baselines.recoveries:
        stored = baseline_stage(shop, size, recipe, base).made_in(shop.store)
        yield Row(f"from scratch ({recipe})", shop.read_members(stored)[0], stored.key, stored.seconds)
    yield made("prune", share, f"prune, {100 * share:g} % of weights", granularity="unstructured")
    yield made("learned", share, "learned weights", granularity="unstructured")
    for kind in ("irregular", "column"):
        yield made("radmm", share, f"radmm {kind}", radmm=spec.members.radmm.model_copy(update={"set": kind}))


def say(text: str) -> None:
    """Show progress on the error stream."""
    print(f"\r{text[:118]:<118}", end="", file=sys.stderr, flush=True)


def table(spec: Spec, home: Path, size: float, recovery: Recovery) -> None:
    """Make, judge and print every network."""
    setting = trial.prepare(spec, home / "store", say)
    probe = trial.make_probe(setting)
    shop = open_context(spec, home / "store", say)
    base, base_key = dense_base(shop)
    dense = robust_evaluation(shop, [base], base_key, Gate(), name="the dense base")
    print(f"{'':<28} clean          robust         minus the base's     kept    speed-up        seconds")
    shown(Row("dense base", Member(base), base_key, setting.base.seconds), dense, dense, base, shop, probe)
    for row in rows(spec, home, size, recovery):
        judged = robust_evaluation(shop, [row.member.model], row.key, Gate(), name=row.name)
        shown(row, judged, dense, base, shop, probe)


def shown(
    row: Row, judged: RobustEvaluation, dense: RobustEvaluation, base: nn.Module, shop: StageContext, probe: Any
) -> None:
    """Print one line."""
    ratio = latency_ratio(shop, row.member.model, probe, signature(base, shop.data.image_shape)).ratio
    value, low, high = paired_difference(judged.robust_right, dense.robust_right)
    print(
        f"\r{row.name:<28} {per_cent(Accuracy.of(judged.clean_right)):<14} {per_cent(Accuracy.of(judged.robust_right)):<14}"
        f" {100 * value:+5.1f} ({100 * low:+.1f}..{100 * high:+.1f})".ljust(81)
        + f"{100 * row.member.size_bytes / Member(base).size_bytes:6.1f} %"
        f"   {1 / ratio.value:.2f} ({1 / ratio.high:.2f}..{1 / ratio.low:.2f})   {row.seconds:.0f}",
        flush=True,
    )


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path("search_spaces/digits.yaml"))
    parser.add_argument("--home", type=Path, default=Path("runs/members"), help="folder of the store")
    parser.add_argument("--size", type=float, default=0.25, help="share of channels of the channel members")
    parser.add_argument("--recovery", choices=("labels", "distill"), default="labels")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    sets = ["joint.epochs=0", *given.sets]
    spec = load(given.file, [Override.parse(text) for text in sets])
    everything = spec.search.space.model_copy(update={"method": Choice(values=tuple(BUILT_IN["method"]))})
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"space": everything})})
    table(spec, given.home, given.size, given.recovery)


if __name__ == "__main__":
    main()
