"""Our tier-2 union against torchattacks' strongest honest suite, on the same samples of the same networks.

    python benchmarks/attacks.py --weights DIR --images test.npz [--samples 1000] [--eps 8] [--nets NAME ...]
                                 [--batch 250] [--threads N] [--seed 0] [--out FILE.json]

The peer is `MultiAttack` of APGD(100), APGDT(100), FAB(100, multi_targeted) and Square(5000), which reads the same as
the official AutoAttack (torchattacks' `AutoAttack` class leaves its parts at 10 steps). It gets only the samples
that are right without attack, as ours does. Both run in this process, one after the other on each batch and in
turns of who begins, so that the machine's load meets both; robust accuracy and the ratio of times (wall clock, and
processor time of this process, which other work disturbs less) are printed with the samples that only one of them broke.

`--weights` holds float32 state dicts in safetensors of small CIFAR-10 networks, `--images` an archive with
`images` (uint8, NHWC) and `labels`. The networks known here are ResNet-2B, ResNet-4B and CNN-A, normalised as they were
trained.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchattacks
from safetensors.torch import load_file
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from eed_search.core.statistics import clopper_pearson  # noqa: E402
from eed_search.evaluation.attacks import break_samples, tier_attacks  # noqa: E402

N1 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
N2 = ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
NETS: dict[str, tuple[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "cifar10_resnet2b_adv_linf2": ("resnet2b", N1),
    "cifar10_resnet4b_adv_linf2": ("resnet4b", N1),
    "cifar10_cnn_a_adv": ("cnn_a", N2),
    "cifar10_cnn_a_adv4": ("cnn_a", N2),
    "cifar10_cnn_a_mix4": ("cnn_a", N2),
}


# ---------------------------------------------------------------- the networks


class Block(nn.Module):
    """Two 3x3 convolutions with biases around a shortcut, no batch norm."""

    def __init__(self, given: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        change = given != out or stride != 1
        self.shortcut = nn.Sequential(nn.Conv2d(given, out, 1, stride)) if change else nn.Sequential()

    def forward(self, images: Tensor) -> Tensor:
        """Apply the block."""
        inner = self.conv2(torch.relu(self.conv1(images)))
        return torch.relu(inner + self.shortcut(images))


class SmallResNet(nn.Module):
    """A 3x3 convolution of stride 2, pairs of blocks, two linear layers."""

    def __init__(self, widths: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 2, 1)
        self.depth = len(widths) - 1
        for number, (given, out) in enumerate(pairwise(widths), start=1):
            setattr(self, f"layer{number}", nn.Sequential(Block(given, out, 2), Block(out, out, 1)))
        self.linear1 = nn.Linear(features, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        inner = torch.relu(self.conv1(images))
        for number in range(1, self.depth + 1):
            inner = getattr(self, f"layer{number}")(inner)
        return self.linear2(torch.relu(self.linear1(inner.flatten(1))))


class Normalised(nn.Module):
    """A network on images in [0, 1]."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.network((images - self.mean) / self.std)


def load(name: str, folder: Path) -> nn.Module:
    """Read one of the networks."""
    form, (mean, std) = NETS[name]
    network: nn.Module
    if form == "cnn_a":
        parts = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()]
        network = nn.Sequential(*parts, nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))
    elif form == "resnet2b":
        network = SmallResNet((8, 16), 1024)
    else:
        network = SmallResNet((16, 32, 32), 512)
    network.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return Normalised(network, mean, std).eval()


# ---------------------------------------------------------------- the contest


def peer_attack(model: nn.Module, eps: float, seed: int) -> Any:
    """MultiAttack as the official AutoAttack is set."""
    parts = [
        torchattacks.APGD(model, eps=eps, steps=100, loss="ce", seed=seed),
        torchattacks.APGDT(model, eps=eps, steps=100, n_classes=10, seed=seed),
        torchattacks.FAB(model, eps=eps, steps=100, multi_targeted=True, n_classes=10, seed=seed),
        torchattacks.Square(model, eps=eps, n_queries=5000, n_restarts=1, seed=seed),
    ]
    return torchattacks.MultiAttack(parts)


def contest(model: nn.Module, images: Tensor, labels: Tensor, eps: float, batch: int, seed: int) -> dict[str, Any]:
    """Run both on the same samples."""
    with torch.no_grad():
        clean = torch.cat([model(part).argmax(1) for part in images.split(500)]) == labels
    right = clean.nonzero().flatten()
    ours_robust, peer_robust = clean.clone(), clean.clone()
    attacks = tier_attacks(model, 2, eps=eps, num_classes=10, seed=seed)
    peer = peer_attack(model, eps, seed)
    ours_s = peer_s = ours_cpu_s = peer_cpu_s = 0.0
    broken, seconds, forward, backward = ([0.0] * len(attacks) for _ in range(4))
    for number, rows in enumerate(right.split(batch)):
        for who in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            if who == "ours":
                found = break_samples(model, attacks, images[rows], labels[rows], batch_size=batch)
                ours_s += time.perf_counter() - begin
                ours_cpu_s += time.process_time() - begin_cpu
                ours_robust[rows] = found.robust
                assert not any(found.strays)
                for i in range(len(attacks)):
                    broken[i] += int((found.broken_by == i).sum())
                    seconds[i] += found.seconds[i]
                    forward[i] += found.forward_passes[i]
                    backward[i] += found.backward_passes[i]
            else:
                with torch.random.fork_rng():
                    moved = peer(images[rows], labels[rows])
                with torch.no_grad():
                    peer_robust[rows] = model(moved).argmax(1) == labels[rows]
                peer_s += time.perf_counter() - begin
                peer_cpu_s += time.process_time() - begin_cpu
                model.zero_grad(set_to_none=True)
        print(
            f"  {int(rows[-1]) + 1}/{len(labels)}: ours {float(ours_robust[: rows[-1] + 1].float().mean()):.4f} "
            f"in {ours_s:.0f} s, peer {float(peer_robust[: rows[-1] + 1].float().mean()):.4f} in {peer_s:.0f} s",
            flush=True,
        )
    return {
        "samples": len(labels),
        "clean": float(clean.float().mean()),
        "ours": float(ours_robust.float().mean()),
        "peer": float(peer_robust.float().mean()),
        "ours_interval": clopper_pearson(int(ours_robust.sum()), len(labels)),
        "only_ours_broke": int((peer_robust & ~ours_robust).sum()),
        "only_peer_broke": int((ours_robust & ~peer_robust).sum()),
        "ours_s": ours_s,
        "peer_s": peer_s,
        "time_ratio": ours_s / peer_s,
        "cpu_ratio": ours_cpu_s / peer_cpu_s,
        "attacks": [
            named.describe()
            | {"broke": int(broken[i]), "seconds": seconds[i], "forward": int(forward[i]), "backward": int(backward[i])}
            for i, named in enumerate(attacks)
        ],
    }


def main() -> None:
    """Read the options, run every network, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=8.0, help="in 1/255")
    parser.add_argument(
        "--nets", nargs="+", choices=sorted(NETS), default=["cifar10_resnet2b_adv_linf2", "cifar10_cnn_a_adv4"]
    )
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with np.load(options.images, allow_pickle=False) as archive:
        images = (
            torch.from_numpy(archive["images"][: options.samples]).permute(0, 3, 1, 2).float().div(255).contiguous()
        )
        labels = torch.from_numpy(archive["labels"][: options.samples])
    results = {}
    for name in options.nets:
        print(name, flush=True)
        result = contest(load(name, options.weights), images, labels, options.eps / 255, options.batch, options.seed)
        results[name] = result
        for row in result["attacks"]:
            print(
                f"    {row['name']:12} broke {row['broke']:4d} in {row['seconds']:7.1f} s, {row['forward']} forward, {row['backward']} backward"
            )
        print(
            f"  clean {result['clean']:.3f}; robust at {options.eps:g}/255, n={result['samples']}: ours {result['ours']:.4f}, "
            f"peer {result['peer']:.4f}; only ours broke {result['only_ours_broke']}, only the peer {result['only_peer_broke']}; "
            f"time {result['ours_s']:.1f} s / {result['peer_s']:.1f} s = {result['time_ratio']:.2f} (CPU {result['cpu_ratio']:.2f})",
            flush=True,
        )
    if options.out:
        facts = {
            "torch": torch.__version__,
            "torchattacks": "3.3.0",
            "threads": torch.get_num_threads(),
            "machine": platform.platform(),
            "eps": options.eps / 255,
            "seed": options.seed,
        }
        options.out.write_text(json.dumps({"facts": facts, "nets": results}, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
