"""What a random split flatters where images come in groups: the same network, split by groups and at random.

    python benchmarks/groups.py --data FOLDER [--seeds 3] [--epochs 8] [--clean] [--out FILE.json]

FOLDER holds `train*.npz` with `groups` and `test*.npz`, such as GTSRB, whose images are ten frames of each physical sign.
Each seed trains one network by groups and one at random: the same architecture, recipe, number of images and initial weights.
With `--clean` both are trained without attacks: then they learn the images to the end in few epochs. Both are then judged on their validation images and on the test images, which neither split touches: the gap between
the two is what a validation accuracy flatters.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

from eed_search.config.spec import Data, Recipe, TrainingAttack
from eed_search.data import npz
from eed_search.data.images import ImageSets
from eed_search.data.splits import Split, Splits, load_splits
from eed_search.models import build
from eed_search.runs.records import Accuracy
from eed_search.system.cores import usable_cores
from eed_search.training import LabelRecovery, perturb, train

EPS = 4 / 255


@dataclass(frozen=True)
class Judged:
    """One network's accuracies, as fractions with 95 % intervals.

    Attributes:
        split: `groups` or `random`.
        seed: Of the split and the training.
        clean_validation: On validation images.
        clean_test: On test images.
        robust_validation: Under PGD-10.
        robust_test: Under PGD-10.
    """

    split: str
    seed: int
    clean_validation: Accuracy
    clean_test: Accuracy
    robust_validation: Accuracy
    robust_test: Accuracy


def main() -> None:
    """Train and judge, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--num-judged", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(usable_cores())
    found = []
    for seed in range(given.seeds):
        for split in ("groups", "random"):
            found.append(judged(given.data, split, seed, given.epochs, given.width, given.num_judged, given.clean))
            print(row(found[-1]), flush=True)
            if given.out:
                given.out.write_text(json.dumps([asdict(one) for one in found], indent=1), encoding="utf-8")
    for split in ("groups", "random"):
        some = [one for one in found if one.split == split]
        gaps = {
            kind: np.mean([getattr(o, f"{kind}_validation").value - getattr(o, f"{kind}_test").value for o in some])
            for kind in ("clean", "robust")
        }
        print(
            f"{split}: validation above test by {100 * gaps['clean']:.1f} points clean, {100 * gaps['robust']:.1f} robust"
        )


def judged(folder: Path, split: str, seed: int, epochs: float, width: int, num_judged: int, clean: bool) -> Judged:
    """Train one network and judge it."""
    data = splits(folder, split, seed, num_judged)
    model = build("small_cnn", width=width, num_classes=data.num_classes, in_channels=3, mean=data.mean, std=data.std, seed=seed)  # fmt: skip
    recipe = Recipe(epochs=epochs, attack=TrainingAttack(method="none" if clean else "n_fgsm"))
    loss = LabelRecovery(EPS, recipe.attack)
    report = lambda text: print(f"  {split} {seed}: {text}", flush=True)  # noqa: E731
    train(model, data.train, recipe, loss, seed=seed, augment="crop", report=report)
    model.eval()
    found = [right(model, part, attacked) for attacked in (False, True) for part in (data.validation, data.test)]
    return Judged(split, seed, *map(Accuracy.of, found))


def splits(folder: Path, split: str, seed: int, num: int) -> Splits:
    """Split the source by its groups, or at random as if it had none."""
    data = Data(source="npz", path=str(folder), num_validation=num, num_fresh=10, num_test=num)
    if split == "random":
        with without_groups():
            return load_splits(data, seed)
    return load_splits(data, seed)


@contextmanager
def without_groups() -> Iterator[None]:
    """Let the source forget its groups for as long as the block lasts."""
    with mock.patch.object(npz, "npz", side_effect=lambda data, read=npz.npz: _forgotten(read(data))):
        yield


def _forgotten(sets: ImageSets) -> ImageSets:
    return replace(sets, train=replace(sets.train, groups=None))


def right(model: nn.Module, split: Split, attacked: bool) -> np.ndarray:
    """Say which images are right, clean or under PGD-10."""
    found = []
    for start in range(0, len(split), 500):
        images, labels = split.images[start : start + 500], split.labels[start : start + 500]
        if attacked:
            images = attacked_images(model, images, labels)
        with torch.no_grad():
            found.append((model(images).argmax(1) == labels).numpy())
    return np.concatenate(found)


def attacked_images(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Attack by PGD-10."""

    def loss(moved: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(moved), labels, reduction="sum")

    attack = TrainingAttack(method="pgd", steps=10)
    return perturb(loss, images, eps=EPS, attack=attack, generator=torch.Generator().manual_seed(0))


def row(one: Judged) -> str:
    """Write one network's accuracies in a line."""
    cells = [
        f"{100 * a.value:.1f}" for a in (one.clean_validation, one.clean_test, one.robust_validation, one.robust_test)
    ]
    return f"| {one.split} | {one.seed} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
