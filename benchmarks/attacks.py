"""Our tier-2 union against torchattacks' strongest honest suite, on the same samples of the same networks.

    python benchmarks/attacks.py --weights DIR --images test.npz --keep FOLDER [--samples 1000] [--eps 8]
                                 [--nets NAME ...] [--batch 100] [--threads 1] [--seed 0] [--out FILE.json]

The peer is `MultiAttack` of APGD(100), APGDT(100), FAB(100, multi_targeted) and Square(5000), which reads the same as
the official AutoAttack (torchattacks' `AutoAttack` class leaves its parts at 10 steps). It gets only the samples
that are right without attack, as ours does. Both run in this process, one after the other on each piece of `--batch`
samples and in turns of who begins, so that the machine's load meets both; robust accuracy and the ratio of times
are printed with the samples that only one of them broke. The ratio to trust on a busy machine is that of processor time (of
this process, all its threads): other work hardly moves it.

With `--keep` each piece of each network is written to a file of its own as soon as it is done. The same command goes on
after a kill, and a larger `--samples` adds pieces; the networks take turns, so that what is there is
always about as much of each. Pieces that were made by other settings or other code of the attacks are made again.

`--weights` holds float32 state dicts in safetensors of small CIFAR-10 networks, `--images` an archive with
`images` (uint8, NHWC) and `labels`. The networks known here are ResNet-2B, ResNet-4B and CNN-A, normalised as they were
trained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
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


def piece(model: nn.Module, images: Tensor, labels: Tensor, *, first: str, eps: float, seed: int) -> dict[str, Any]:
    """Run both on the same samples, in one batch each.

    Args:
        model: From images in [0, 1] to logits.
        images: The samples.
        labels: Their classes.
        first: Who begins: `ours` or `peer`.
        eps: Budget in pixel units.
        seed: For everything random.

    Returns:
        Flags for each sample, and times in seconds; ready for JSON.
    """
    attacks = tier_attacks(model, 2, eps=eps, num_classes=10, seed=seed)
    with torch.no_grad():
        clean = model(images).argmax(1) == labels
    rows = clean.nonzero().flatten()
    found: dict[str, Any] = {"clean": clean.tolist(), "first": first}
    for who in ("ours", "peer") if first == "ours" else ("peer", "ours"):
        robust = clean.clone()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        if who == "ours":
            union = break_samples(model, attacks, images[rows], labels[rows], batch_size=max(len(rows), 1))
        else:
            with torch.random.fork_rng():
                moved = peer_attack(model, eps, seed)(images[rows], labels[rows])
            with torch.no_grad():
                robust[rows] = model(moved).argmax(1) == labels[rows]
        found[f"{who}_s"], found[f"{who}_cpu_s"] = time.perf_counter() - begin, time.process_time() - begin_cpu
        if who == "ours":
            robust[rows] = union.robust
            assert not any(union.strays)
            found["attacks"] = [
                named.describe()
                | {
                    "broke": int((union.broken_by == i).sum()),
                    "seconds": union.seconds[i],
                    "forward": union.forward_passes[i],
                    "backward": union.backward_passes[i],
                }
                for i, named in enumerate(attacks)
            ]
        model.zero_grad(set_to_none=True)
        found[who] = robust.tolist()
    return found


def kept(path: Path | None, key: str, make: Any) -> dict[str, Any]:
    """Read a finished piece, or make it and keep it; one made under another key is made again."""
    if path is not None and path.is_file():
        try:
            stored = json.loads(path.read_text())
        except ValueError:
            stored = {}
        if stored.get("key") == key:
            piece: dict[str, Any] = stored["piece"]
            return piece
    found: dict[str, Any] = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        half.write_text(json.dumps({"key": key, "piece": found}))
        half.replace(path)  # whole or not at all
    return found


def code_key(*settings: object) -> str:
    """Name what a piece depends on besides its samples: settings, libraries, and the attacks' own code."""
    sha = hashlib.sha256(repr((settings, torch.__version__, version("torchattacks"))).encode())
    for path in sorted((ROOT / "eed_search" / "evaluation" / "attacks").glob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def summary(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the pieces of one network together."""
    clean, ours, peer = (
        np.concatenate([np.array(p[name], bool) for p in pieces]) for name in ("clean", "ours", "peer")
    )
    seconds = {name: sum(p[name] for p in pieces) for name in ("ours_s", "peer_s", "ours_cpu_s", "peer_cpu_s")}
    by_attack = [
        same[0] | {name: sum(use[name] for use in same) for name in ("broke", "seconds", "forward", "backward")}
        for same in zip(*(p["attacks"] for p in pieces), strict=True)
    ]
    return {
        "samples": len(clean),
        "clean": float(clean.mean()),
        "ours": float(ours.mean()),
        "peer": float(peer.mean()),
        "ours_interval": clopper_pearson(int(ours.sum()), len(ours)),
        "only_ours_broke": int((peer & ~ours).sum()),
        "only_peer_broke": int((ours & ~peer).sum()),
        **seconds,
        "time_ratio": seconds["ours_s"] / seconds["peer_s"],
        "cpu_ratio": seconds["ours_cpu_s"] / seconds["peer_cpu_s"],
        "cpu_ratios": [p["ours_cpu_s"] / p["peer_cpu_s"] for p in pieces],
        "attacks": by_attack,
    }


def line(name: str, result: dict[str, Any], eps: float) -> str:
    """What is known of a network so far, in one line."""
    return (
        f"{name}: clean {result['clean']:.3f}; robust at {eps:g}/255, n={result['samples']}: ours {result['ours']:.4f},"
        f" peer {result['peer']:.4f}; only ours broke {result['only_ours_broke']}, only the peer"
        f" {result['only_peer_broke']}; processor time {result['ours_cpu_s']:.0f} s / {result['peer_cpu_s']:.0f} s ="
        f" {result['cpu_ratio']:.2f} (wall {result['time_ratio']:.2f})"
    )


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
    parser.add_argument("--batch", type=int, default=100, help="samples in a piece, attacked together")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder of the finished pieces; the same command goes on from there")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with np.load(options.images, allow_pickle=False) as archive:
        images = (
            torch.from_numpy(archive["images"][: options.samples]).permute(0, 3, 1, 2).float().div(255).contiguous()
        )
        labels = torch.from_numpy(archive["labels"][: options.samples])
    eps, seed = options.eps / 255, options.seed
    key = code_key(eps, options.batch, seed, torch.get_num_threads())
    pieces: dict[str, list[dict[str, Any]]] = {name: [] for name in options.nets}
    for number, rows in enumerate(torch.arange(len(labels)).split(options.batch)):
        for name in options.nets:
            first = "ours" if number % 2 == 0 else "peer"
            path = options.keep and options.keep / f"{name}-{int(rows[0]):05d}-{int(rows[-1]):05d}.json"

            def make(name: str = name, rows: Tensor = rows, first: str = first) -> dict[str, Any]:
                model = load(name, options.weights)
                return piece(model, images[rows], labels[rows], first=first, eps=eps, seed=seed)

            pieces[name].append(kept(path, key, make))
            print(line(name, summary(pieces[name]), options.eps), flush=True)
    results = {name: summary(found) for name, found in pieces.items()}
    for name, result in results.items():
        print(name)
        for row in result["attacks"]:
            print(
                f"    {row['attack']:12} broke {row['broke']:4d} in {row['seconds']:7.1f} s, {row['forward']} forward, {row['backward']} backward"
            )
    if options.out:
        facts = {
            "torch": torch.__version__,
            "torchattacks": version("torchattacks"),
            "threads": torch.get_num_threads(),
            "machine": platform.platform(),
            "eps": options.eps / 255,
            "seed": options.seed,
        }
        options.out.write_text(json.dumps({"facts": facts, "nets": results}, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
