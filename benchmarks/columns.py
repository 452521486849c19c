"""Does it pay to remove column sparsity physically? One convolution, its columns removed in the two ways that ONNX has.

    python benchmarks/columns.py [--rounds 15] [--channels 16 32 64] [--sides 8 16 32] [--kept 0.5 0.25 0.125]

R-ADMM's set `column` zeroes the same positions (input channel, row, column of the kernel) of all filters: columns of
the matrix that the convolution multiplies by. Here random columns are kept, as many as the share says, and

- `shifts`: for each of the nine kernel positions, the channels still used there are gathered from the image moved by
  that position, and multiplied by a 1 x 1 convolution; the nine results are added;
- `gather`: the kept columns are gathered into one image of that many channels, which one 1 x 1 convolution multiplies.

Both give the masked convolution's result (checked). Times are those of onnxruntime at batch 1 on one thread, against the
dense convolution in the same rounds; above 1 is faster than dense.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from eed_search.compression.projections import column  # noqa: E402
from eed_search.config.spec import LatencySpec  # noqa: E402
from eed_search.deployment.onnx_export import to_onnx  # noqa: E402
from eed_search.evaluation.latency import LatencyProbe  # noqa: E402

KERNEL = 3


class Shifts(nn.Module):
    """A convolution as nine 1 x 1 convolutions of moved images, each over the channels still used there."""

    def __init__(self, weight: Tensor, mask: Tensor) -> None:
        super().__init__()
        used = mask[0].bool()  # input channel, row, column: the same for all filters
        self.places = [(i, j) for i in range(KERNEL) for j in range(KERNEL) if used[:, i, j].any()]
        self.channels = [used[:, i, j].nonzero().flatten() for i, j in self.places]
        self.weights = nn.ParameterList(
            weight[:, kept, i, j, None, None].clone() for (i, j), kept in zip(self.places, self.channels, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Add up the nine parts."""
        height, width = images.shape[-2:]
        wide = nn.functional.pad(images, (1, 1, 1, 1))
        total = None
        for (i, j), kept, weight in zip(self.places, self.channels, self.weights, strict=True):
            moved = wide[:, kept, i : i + height, j : j + width]
            part = nn.functional.conv2d(moved, weight)
            total = part if total is None else total + part
        assert total is not None
        return total


class Gathered(Shifts):
    """A convolution as one 1 x 1 convolution of the gathered columns."""

    def forward(self, images: Tensor) -> Tensor:
        """Multiply once."""
        height, width = images.shape[-2:]
        wide = nn.functional.pad(images, (1, 1, 1, 1))
        moved = [
            wide[:, kept, i : i + height, j : j + width]
            for (i, j), kept in zip(self.places, self.channels, strict=True)
        ]
        return nn.functional.conv2d(torch.cat(moved, 1), torch.cat(list(self.weights), 1))


class Classifier(nn.Module):
    """The layer with a cheap head, so that it can be exported like a network."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Give one number for each channel."""
        features: Tensor = self.layer(images)
        return features.mean(dim=(2, 3))


def measure(channels: int, side: int, kept: float, spec: LatencySpec) -> list[str]:
    """Time one size; gives the cells of its line."""
    torch.manual_seed(0)
    dense = nn.Conv2d(channels, channels, KERNEL, padding=1, bias=False)
    mask = column(dense.weight.detach(), kept)
    dense.weight.data = dense.weight.detach() * mask
    forms = {"shifts": Shifts(dense.weight.detach(), mask), "gather": Gathered(dense.weight.detach(), mask)}
    images = torch.rand(2, channels, side, side)
    shape = (channels, side, side)
    probe = LatencyProbe(to_onnx(Classifier(dense), shape), None, shape, spec)
    cells = [f"{channels}", f"{side} x {side}", f"{100 * kept:g} %"]
    with torch.no_grad():
        expected = dense(images)
        for name, form in forms.items():
            difference = float((form(images) - expected).abs().max())
            if difference > 1e-4:
                raise SystemExit(f"{name}: differs from the masked convolution by {difference:g}")
            found = probe.measure(to_onnx(Classifier(form), shape))
            low, high = 1 / found.ratio.high, 1 / found.ratio.low
            cells.append(f"{1 / found.ratio.value:.2f} ({low:.2f}..{high:.2f}){' noisy' if found.noisy else ''}")
    return cells


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--kept", type=float, nargs="+", default=[0.5, 0.25, 0.125])
    given = parser.parse_args(argv)
    spec = LatencySpec(rounds=given.rounds)
    print("| channels | image | columns kept | shifts | gather |\n|---:|---:|---:|---:|---:|")
    for channels in given.channels:
        for side in given.sides:
            for kept in given.kept:
                print("| " + " | ".join(measure(channels, side, kept, spec)) + " |", flush=True)


if __name__ == "__main__":
    main()
