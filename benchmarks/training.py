"""How fast are training and tier 1, and how near to what the device can do at all?

    python benchmarks/training.py [--smoke] [--device cuda] [--before FOLDER] [--kinds n_fgsm tier1] [--networks dense half]
                                  [--rounds 3] [--seconds 10] [--out FILE.json]

ResNet-18 on images of 32 x 32, batches of 128, with the precision that `auto` takes on the device; dense (width 32), half and
quarter. Each loop runs in a process of its own, all loops in turns within a round:

    ours           `eed_search.training`, images kept as bytes
    before         the same of another checkout of this repository (--before), to compare commits
    plain          the loop of a tutorial: float32, NCHW, images as float32, torch's optimiser
    torchattacks   the plain loop with the attack by torchattacks (clean: none, PGD: `PGD`, N-FGSM: `FFGSM`, its nearest kin)

Printed for each: images per second (median over the rounds), ours in units of it, and the share of the device's matmul rate:
multiply-accumulates of convolutions and linear layers (forward 1, gradient of the images 1, of the weights 1), twice that
in operations, over what a product of two square matrices reaches in the same precision in the same round. Tier 1 counts
passes forward and backward of APGD, on a network whose answers are taken for the truth and a budget so small that
nearly all samples stay right, so that the whole budget of steps is spent.

--smoke: quarter width, one round, a second each: minutes, and no figure worth printing anywhere.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_HERE = "--measure" not in sys.argv  # else the root that PYTHONPATH names comes first
if _HERE and str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

WIDTHS = {"dense": 32, "half": 16, "quarter": 8}
KINDS = {"clean": 3, "n_fgsm": 5, "pgd10": 23}  # passes of one image, each as many operations as a forward pass
LOOPS = ("ours", "before", "plain", "torchattacks")
BATCH, NUM_IMAGES, EPS, SIDE = 128, 1024, 8 / 255, 2048
TIER_1_EPS, TIER_1_IMAGES = 0.05 / 255, 128
MEAN = STD = (0.5, 0.5, 0.5)


# ---------------------------------------------------------------- one measurement, in a process of its own


def measure(loop: str, kind: str, width: int, seconds: float, device_name: str) -> dict[str, float]:
    """Measure one loop for some seconds, and the device's matmul rate right after it."""
    import torch

    device = torch.device(device_name)
    if kind == "tier1":
        rate, passes = _tier_1(width, device), 0.0
    else:
        steps = {"ours": _ours, "before": _ours, "plain": _plain, "torchattacks": _torchattacks}[loop](
            kind, width, device
        )
        rate, passes = BATCH / _step_s(steps, seconds, device), float(KINDS[kind])
    return {"rate": rate, "passes": passes, "matmul": _matmul_rate(device, bfloat16=_bfloat16(loop, device))}


def _step_s(steps: Iterator[None], seconds: float, device: Any) -> float:
    """Seconds of a typical step; the first two warm up."""
    taken: list[float] = []
    for _ in range(2):
        next(steps)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(taken) < 3:
        _wait(device)
        start = time.perf_counter()
        next(steps)
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bfloat16(loop: str, device: Any) -> bool:
    from eed_search.training.loop import has_bfloat16

    return loop in ("ours", "before") and has_bfloat16(device)


def _matmul_rate(device: Any, *, bfloat16: bool) -> float:
    """Operations a second of a product of two square matrices: the best of ten."""
    import torch

    given = torch.rand(SIDE, SIDE, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    taken = []
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        given @ given
        _wait(device)
        taken.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(taken)


def _network(width: int) -> Any:
    from eed_search.models import build

    return build("resnet18", width=width, num_classes=10, in_channels=3, mean=MEAN, std=STD, seed=0)


def _pixels() -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (NUM_IMAGES, 32, 32, 3), generator=generator, dtype=torch.uint8)


def _ours(kind: str, width: int, device: Any) -> Iterator[None]:
    import torch

    from eed_search.config.spec import Recipe, TrainingAttack
    from eed_search.data import splits
    from eed_search.training import LabelRecovery
    from eed_search.training.loop import Training

    method = {"clean": "none", "pgd10": "pgd"}.get(kind, kind)
    recipe = Recipe(epochs=1000, precision="auto", attack=TrainingAttack(method=method, steps=10))
    pixels, labels = _pixels(), torch.arange(NUM_IMAGES) % 10
    split = (
        splits.ByteSplit(pixels, labels)
        if hasattr(splits, "ByteSplit")  # an earlier checkout keeps floats
        else splits.Split(pixels.permute(0, 3, 1, 2).float().div_(255).contiguous(), labels)
    )
    run = Training(
        _network(width), split, recipe, LabelRecovery(EPS, recipe.attack), seed=0, augment="crop_flip", device=device
    )
    while True:
        run.advance(1)
        yield


def _plain(kind: str, width: int, device: Any, attack: Callable[[Any], Any] | None = None) -> Iterator[None]:
    """A loop as tutorials have it; also the one that torchattacks is put into."""
    import torch
    from torch.nn import functional

    images = _pixels().permute(0, 3, 1, 2).float().div_(255).contiguous()
    labels = torch.arange(NUM_IMAGES) % 10
    model = _network(width).to(device=device, memory_format=torch.contiguous_format).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    made = attack(model) if attack else None
    while True:
        order = torch.randperm(NUM_IMAGES)
        for index in order.split(BATCH):
            batch, target = _cropped(images[index]).to(device), labels[index].to(device)
            if made is not None:
                moved = made(batch, target)
            else:
                model.eval()
                moved = _attacked(model, batch, target, kind)
            model.train()
            optimiser.zero_grad()
            functional.cross_entropy(model(moved), target).backward()
            optimiser.step()
            yield


def _attacked(model: Any, images: Any, labels: Any, kind: str) -> Any:
    """N-FGSM or PGD-10, written down as their papers have them."""
    import torch
    from torch.nn import functional

    if kind == "clean":
        return images

    def gradient(moved: Any) -> Any:
        moved = moved.detach().requires_grad_(True)
        loss = functional.cross_entropy(model(moved), labels)
        return torch.autograd.grad(loss, moved)[0]

    if kind == "n_fgsm":
        start = images + torch.empty_like(images).uniform_(-2 * EPS, 2 * EPS)
        return (start + EPS * gradient(start).sign()).clamp(0, 1).detach()
    moved = images + torch.empty_like(images).uniform_(-EPS, EPS)
    for _ in range(10):
        moved = moved + EPS / 4 * gradient(moved).sign()
        moved = torch.min(torch.max(moved, images - EPS), images + EPS).clamp(0, 1)
    return moved.detach()


def _cropped(images: Any) -> Any:
    """Shift and mirror one image after another."""
    import torch
    from torch.nn import functional

    padded = functional.pad(images, (4, 4, 4, 4))
    parts = []
    for image in padded:
        top, left = (int(n) for n in torch.randint(0, 9, (2,)))
        part = image[:, top : top + 32, left : left + 32]
        parts.append(part.flip(-1) if bool(torch.rand(()) < 0.5) else part)
    return torch.stack(parts)


def _torchattacks(kind: str, width: int, device: Any) -> Iterator[None]:
    import torchattacks

    made = {
        "clean": None,
        "n_fgsm": lambda model: torchattacks.FFGSM(model, eps=EPS, alpha=1.25 * EPS),
        "pgd10": lambda model: torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=10),
    }[kind]
    return _plain(kind, width, device, made)


def _tier_1(width: int, device: Any) -> float:
    """Images a second through the gradient attacks of tier 1 on a network alone."""
    import torch

    from eed_search.ensemble.gate import Gate, GatedEnsemble
    from eed_search.evaluation.attacks import tier_attacks
    from eed_search.evaluation.attacks.suite import break_samples
    from eed_search.models import place

    network = place(_network(width), device).eval()
    images = _pixels()[:TIER_1_IMAGES].permute(0, 3, 1, 2).float().div_(255).contiguous().to(device)
    with torch.no_grad():
        labels = network(images).argmax(-1)
    team = GatedEnsemble([network], Gate())
    attacks = [one for one in tier_attacks(team, 1, eps=TIER_1_EPS, num_classes=10, seed=0) if one.id == "APGD"]
    start = time.perf_counter()
    break_samples(team, attacks, images, labels, batch_size=TIER_1_IMAGES)
    _wait(device)
    return TIER_1_IMAGES / (time.perf_counter() - start)


# ---------------------------------------------------------------- all of them, in turns


def in_a_process(loop: str, kind: str, width: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure one loop in a process of its own; one of another checkout reads that one's code."""
    root = args.before if loop == "before" else ROOT
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", loop, kind, str(width)]
    command += ["--seconds", str(args.seconds), "--device", args.device]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{loop}, {kind}, width {width}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure everything, one row for each kind and width."""
    from eed_search.models import count_macs

    for kind in args.kinds:
        for name in ["quarter"] if args.smoke else args.networks:
            width = WIDTHS[name]
            wanted = ("ours", "before") if kind == "tier1" else LOOPS
            loops = [loop for loop in wanted if loop != "before" or args.before]
            found: dict[str, list[dict[str, float]]] = {loop: [] for loop in loops}
            for number in range(args.rounds):
                for loop in loops[number % 2 :] + loops[: number % 2]:
                    found[loop].append(in_a_process(loop, kind, width, args))
            macs = count_macs(_network(width), (3, 32, 32))
            rate = {loop: statistics.median(one["rate"] for one in some) for loop, some in found.items()}
            share = [2 * macs * one["passes"] * one["rate"] / one["matmul"] for one in found["ours"]]
            row: dict[str, Any] = {"kind": kind, "network": name, "width": width, "images_per_s": rate}
            row["ours_in_units_of"] = {loop: rate["ours"] / rate[loop] for loop in loops if loop != "ours"}
            row["share_of_matmul"] = None if kind == "tier1" else statistics.median(share)
            yield row


def main(argv: list[str] | None = None) -> int:
    """Run it, or one measurement of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="quarter width, one round, a second each")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument(
        "--kinds", nargs="+", choices=(*KINDS, "tier1"), default=(*KINDS, "tier1"), help="what is measured"
    )
    parser.add_argument("--networks", nargs="+", choices=tuple(WIDTHS), default=tuple(WIDTHS), help="of which width")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each loop in each round")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--measure", nargs=3, metavar=("LOOP", "KIND", "WIDTH"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        loop, kind, width = args.measure
        print(json.dumps(measure(loop, kind, int(width), args.seconds, args.device)))
        return 0
    if args.before and not (args.before / "eed_search").is_dir():
        raise SystemExit(f"--before {args.before}: is no checkout of this repository; give its folder")
    if args.smoke:
        args.rounds, args.seconds = 1, 1.0
    if args.before:
        args.before = args.before.resolve()
    from eed_search.system.cores import usable_cores

    found = []
    print("| training | network | images/s | " + " | ".join(f"× {loop}" for loop in LOOPS[1:]) + " | of matmul |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows(args):
        found.append(row)
        gains = [row["ours_in_units_of"].get(loop, math.nan) for loop in LOOPS[1:]]
        said = ["–" if math.isnan(gain) else f"{gain:.2f}" for gain in gains]
        share = "–" if row["share_of_matmul"] is None else f"{100 * row['share_of_matmul']:.0f} %"
        print(f"| {row['kind']} | {row['network']} | {row['images_per_s']['ours']:.1f} | {' | '.join(said)} | {share} |", flush=True)  # fmt: skip
    facts = {"machine": platform.processor() or platform.machine(), "cores": usable_cores(), "device": args.device}
    if args.out:
        args.out.write_text(json.dumps({**facts, "rounds": args.rounds, "rows": found}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
