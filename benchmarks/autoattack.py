"""The official AutoAttack, standard version, on bundles, beside our tier: paired differences on the same samples.

    python benchmarks/autoattack.py BUNDLE [BUNDLE …] --autoattack FOLDER [--tier 1] [--num-samples 500] [--eps 8/255]
                                    [--data DIR|FILE.npz] [--home runs] [--batch 250] [--seed 0] [--out FILE.json]

FOLDER is a checkout of the repository (github.com/fra31/auto-attack), which is no dependency of this project: its package
`autoattack` is imported from there. AutoAttack climbs the logits of the deployed forward pass, members and gate included, as
anybody who runs it on an exported point would. Its images are judged by onnxruntime behind the deployed gate, as ours are.

The difference printed is our robust accuracy minus AutoAttack's, on the same samples, with its 95 % interval: above 0 where our
tier finds less than AutoAttack does, below 0 where it finds more. Samples that only one of them broke are counted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from eed_search.cli.attack import read_eps  # noqa: E402
from eed_search.core.errors import EedSearchError  # noqa: E402
from eed_search.core.statistics import paired_difference  # noqa: E402
from eed_search.evaluation.assess import assess  # noqa: E402
from eed_search.evaluation.target import Target  # noqa: E402
from eed_search.pipeline.targets import AttackOptions, from_bundle  # noqa: E402
from eed_search.runs.records import Accuracy, Interval, unpack_bits  # noqa: E402

_MOST_TARGETS = 9  # of AutoAttack's targeted attacks: the standard version's number


@dataclass(frozen=True)
class Row:
    """One bundle under both.

    Attributes:
        bundle: Its folder.
        eps: L∞ budget in pixel units.
        ours: Robust accuracy of our tier.
        theirs: Of AutoAttack, its images judged as deployed.
        difference: Ours minus theirs, paired.
        only_ours: Samples that only our tier broke.
        only_theirs: Samples that only AutoAttack broke.
    """

    bundle: str
    eps: float
    ours: Accuracy
    theirs: Accuracy
    difference: Interval
    only_ours: int
    only_theirs: int


def load_autoattack(folder: Path) -> ModuleType:
    """Import the package `autoattack` from a checkout.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not (folder / "autoattack" / "__init__.py").is_file():
        raise FileNotFoundError(f"--autoattack {folder}: no package `autoattack` there; give the repository's folder")
    sys.path.insert(0, str(folder))
    return importlib.import_module("autoattack")


def attacked(
    package: Any, target: Target, seed: int, batch_size: int
) -> Float[Tensor, "samples channels height width"]:
    """Run AutoAttack's standard version on a target's deployed forward pass."""
    attack = package.AutoAttack(
        target.team, norm="Linf", eps=target.eps, seed=seed, verbose=False, version="standard", device="cpu"
    )
    others = min(_MOST_TARGETS, target.num_classes - 1)  # there are no more wrong classes
    for name in ("apgd_targeted", "fab"):
        if (part := getattr(attack, name, None)) is not None:
            part.n_target_classes = others
    with torch.random.fork_rng():
        moved: Tensor = attack.run_standard_evaluation(target.split.images, target.split.labels, bs=batch_size)
    return moved.detach()


def held(target: Target, moved: Tensor) -> Bool[np.ndarray, " samples"]:
    """Samples that the deployed classifier gets right as they are and on the moved images within the ball."""
    assert target.deploy is not None
    classifier, images, labels = target.deploy(), target.split.images, target.split.labels.numpy()
    inside = (moved.double() - images.double()).abs().flatten(1).amax(1).numpy() <= target.eps + 1e-6
    clean, after = (
        classifier.predict(np.ascontiguousarray(part.clamp(0, 1).numpy(), dtype=np.float32)).labels == labels
        for part in (images, moved)
    )
    return np.asarray(clean & (after | ~inside))


def compared(bundle: Path, package: Any, options: AttackOptions, home: Path, batch_size: int) -> Row:
    """Attack one bundle with both."""
    say = lambda text: print(f"  {text}", file=sys.stderr, flush=True)  # noqa: E731
    target = from_bundle(bundle, options, say)
    result = assess(target, options.tier, seed=options.seed, home=home, report=say)
    ours = unpack_bits(result.robust_hex, result.robust.num_samples)
    theirs = held(target, attacked(package, target, options.seed, batch_size))
    return Row(
        bundle=str(bundle),
        eps=target.eps,
        ours=Accuracy.of(ours),
        theirs=Accuracy.of(theirs),
        difference=Interval(*paired_difference(ours, theirs)),
        only_ours=int((theirs & ~ours).sum()),
        only_theirs=int((ours & ~theirs).sum()),
    )


def told(row: Row) -> str:
    """Say a row in a line of a Markdown table."""
    d = row.difference
    return (
        f"| {row.bundle} | {100 * row.ours.value:.1f} % | {100 * row.theirs.value:.1f} % |"
        f" {100 * d.value:+.1f} ({100 * d.low:+.1f}..{100 * d.high:+.1f}) | {row.only_ours} | {row.only_theirs} |"
        f" {row.ours.num_samples} |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Attack every bundle and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--autoattack", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tier", type=int, choices=(1, 2), default=1)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--eps")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    try:
        package = load_autoattack(given.autoattack)
        eps = None if given.eps is None else read_eps(given.eps)
        options = AttackOptions(given.tier, eps, given.data, given.num_samples, given.seed)
        print("| bundle | ours | AutoAttack | difference, 95 % | only ours | only AutoAttack | n |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        rows = []
        for bundle in given.bundles:
            rows.append(compared(bundle, package, options, given.home, given.batch))
            print(told(rows[-1]), flush=True)
    except (EedSearchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.out is not None:
        given.out.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
