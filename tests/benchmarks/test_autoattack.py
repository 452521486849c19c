"""The script that runs the official AutoAttack on bundles, with a stand-in for its package, which is no dependency."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import autoattack
from tests.pins.home import unpack

# As large as the real one's signature; its images lie on the corners of the ball, and one leaves it.
PACKAGE = """
import torch

class _Part:
    n_target_classes = 9

class AutoAttack:
    def __init__(self, model, norm="Linf", eps=0.3, seed=None, verbose=True, attacks_to_run=[], version="standard",
                 is_tf_model=False, device="cuda", log_path=None):
        assert (norm, version, device, verbose) == ("Linf", "standard", "cpu", False)
        self.model, self.eps, self.apgd_targeted, self.fab = model, eps, _Part(), _Part()

    def run_standard_evaluation(self, x_orig, y_orig, bs=250, return_labels=False):
        assert self.apgd_targeted.n_target_classes == self.fab.n_target_classes == 9
        point = x_orig.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(self.model(point), y_orig, reduction="sum")
        (slope,) = torch.autograd.grad(loss, point)
        moved = (x_orig + self.eps * slope.sign()).clamp(0, 1)
        moved[0] = 1 - x_orig[0]  # far outside: breaks nothing
        return moved
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "auto-attack"
    (folder / "autoattack").mkdir(parents=True)
    (folder / "autoattack" / "__init__.py").write_text(PACKAGE, encoding="utf-8")
    return folder


@pytest.mark.whole
def test_a_bundle_is_attacked_by_both(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paired, on the same samples, judged as deployed; one gradient step finds less than our tier."""
    home = unpack(tmp_path)
    out = tmp_path / "rows.json"
    words = [
        str(home.parent / "bundle"),
        "--autoattack",
        str(package),
        "--num-samples",
        "50",
        "--home",
        str(tmp_path / "h"),
    ]
    assert autoattack.main([*words, "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text(encoding="utf-8"))
    assert row["ours"]["num_samples"] == row["theirs"]["num_samples"] == 50
    assert row["difference"]["value"] == pytest.approx(row["ours"]["value"] - row["theirs"]["value"])
    assert row["only_theirs"] - row["only_ours"] == round(50 * row["difference"]["value"])
    assert row["ours"]["value"] < row["theirs"]["value"] < 1
    assert f"| {100 * row['ours']['value']:.1f} % | {100 * row['theirs']['value']:.1f} % |" in capsys.readouterr().out


def test_a_folder_without_the_package_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert autoattack.main(["bundle", "--autoattack", str(tmp_path)]) == 2
    assert "no package `autoattack` there; give the repository's folder" in capsys.readouterr().err
