"""A bundle is whole or not there, and `verify` finds whatever was changed in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eed_search.core.errors import BundleError
from eed_search.deployment.bundle import GateSettings, Replay, verify, write_bundle
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import GatedClassifier

SHAPE = (1, 6, 6)
GATE = GateSettings("threshold", 0.3, 1.0, 1.0)
CLAIMS = {
    "run": "demo",
    "clean_accuracy": {"value": 0.9, "low": 0.85, "high": 0.94, "num_samples": 300},
    "latency": {"latency_ms": {"value": 0.0512, "low": 0.05, "high": 0.0524}, "method": "cascade"},
    "robust_hex": "ff" * 40,
    "difference_to_base": None,
    "exit_shares": [0.75, 0.25],
}


def _member(seed: int) -> bytes:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    net[3].weight.data.mul_(8)  # confident enough that some images stop at the first member
    return to_onnx(net, SHAPE)


MEMBERS = [_member(0), _member(1)]
IMAGES = np.random.default_rng(0).random((30, *SHAPE), dtype=np.float32)


def _replay() -> Replay:
    answer = GatedClassifier.from_onnx(MEMBERS, GATE).predict(IMAGES)
    return Replay(IMAGES, answer.labels, answer.num_members_run, num_skipped=2)


def _write(out: Path, replay: Replay | None = None, classes: int | list[str] = 4) -> Path:
    return write_bundle(
        out,
        MEMBERS,
        GATE,
        SHAPE,
        classes,
        replay=replay or _replay(),
        claims=CLAIMS,
        config={"params": {"num_members": 2}},
        search_space_yaml="name: demo\n",
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one bundle for all tests that only read or copy it."""
    return _write(tmp_path_factory.mktemp("made") / "sound", classes=["a", "b", "c", "d"])


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    """Copy the bundle, to be spoilt."""
    return shutil.copytree(sound, tmp_path / "copy")


def test_holds_the_agreed_files(sound: Path) -> None:
    """Nothing is missing and nothing else, such as a temporary file, is in or beside it."""
    assert sorted(path.name for path in sound.iterdir()) == [
        "README.md",
        "claims.json",
        "config.json",
        "manifest.json",
        "manifest.sha256",
        "member-1.onnx",
        "member-2.onnx",
        "replay.npz",
        "runtime.py",
        "search_space.yaml",
    ]
    assert [path.name for path in sound.parent.iterdir()] == ["sound"]
    assert json.loads((sound / "claims.json").read_text()) == CLAIMS
    manifest = json.loads((sound / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {path.name for path in sound.iterdir()} - {"manifest.json", "manifest.sha256"}
    assert {"eed_search", "torch", "onnxruntime", "numpy"} <= manifest["versions"].keys()


def test_verify_reports_what_it_checked(sound: Path) -> None:
    """The report counts files, inputs and batch sizes."""
    report = verify(sound)
    assert (report.num_files, report.num_members, report.num_inputs) == (8, 2, 30)
    assert report.batch_sizes == (1, 7, 30)
    assert 1 < report.mean_members_run < 2
    assert "8 files have the SHA-256 of the manifest; 30 stored inputs at batch 1, 7, 30" in str(report)


def test_readme_tells_how_to_run_and_what_is_claimed(sound: Path) -> None:
    """Commands and claims are there, packed bits and absent values are not."""
    text = (sound / "README.md").read_text()
    assert "python runtime.py . IMAGES.npy" in text
    assert "[n, 1, 6, 6]" in text
    assert "python runtime.py . photo.jpg" in text
    assert "| answers | one of 4 classes: a, b, c, d |" in text
    assert "| clean accuracy | 90 % (95 % interval 85 to 94 %) of 300 images |" in text
    assert "| latency | 0.0512 ms (95 % interval 0.05 to 0.0524 ms), one image at a time" in text
    assert text.count("| --- |") == 1
    assert len(text.splitlines()) <= 60
    assert "ffff" not in text
    assert "difference" not in text


def test_a_margins_bundle_verifies_and_says_when_it_stops(tmp_path: Path) -> None:
    """The four entries of every gate, and the rule in words."""
    gate = GateSettings("margin", 0.75)
    answer = GatedClassifier.from_onnx(MEMBERS, gate).predict(IMAGES)
    replay = Replay(IMAGES, answer.labels, answer.num_members_run)
    out = write_bundle(
        tmp_path / "out", MEMBERS, gate, SHAPE, 4, replay=replay, claims=CLAIMS, config={}, search_space_yaml=""
    )
    assert 1 < verify(out).mean_members_run < 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["format_version"] == 3
    assert manifest["gate"] == {"rule": "margin", "threshold": 0.75, "sharpness": 1.0, "tau": 1.0}
    stops = "the gate stops as soon as the best class leads the second by 0.75 in the mean of their logits"
    assert stops in (out / "README.md").read_text()


def test_readme_command_works(sound: Path, tmp_path: Path) -> None:
    """The command of the README, run in the bundle, names the classes and leaves no file behind."""
    np.save(tmp_path / "IMAGES.npy", IMAGES[:3])
    command = [sys.executable, "runtime.py", ".", str(tmp_path / "IMAGES.npy")]
    done = subprocess.run(command, cwd=sound, capture_output=True, text=True, check=True)
    expected = GatedClassifier(sound).predict(IMAGES[:3]).labels
    assert [line.split("\t")[1] for line in done.stdout.splitlines()[1:]] == ["abcd"[label] for label in expected]
    verify(sound)


@pytest.mark.parametrize(
    "name",
    ["member-1.onnx", "replay.npz", "claims.json", "config.json", "search_space.yaml", "runtime.py", "README.md"],
)
def test_altered_file_is_named(copy: Path, name: str) -> None:
    """One changed byte in any file is found, and the file is named."""
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: was altered"):
        verify(copy)


@pytest.mark.parametrize("name", ["member-2.onnx", "replay.npz", "claims.json"])
def test_missing_file_is_named(copy: Path, name: str) -> None:
    """A file that is gone is named."""
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: is missing"):
        verify(copy)


def test_missing_manifest_is_named(copy: Path) -> None:
    """A folder without its manifest is no bundle."""
    (copy / "manifest.json").unlink()
    with pytest.raises(BundleError, match="is no bundle"):
        verify(copy)


def test_extra_file_is_named(copy: Path) -> None:
    """A file that the manifest does not know is found."""
    (copy / "member-3.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"member-3.onnx: is not in the manifest"):
        verify(copy)


def test_file_left_out_of_the_manifest_is_named(copy: Path) -> None:
    """A manifest edited to drop the replay is refused."""
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sha256"]["replay.npz"]
    _forge(copy, manifest)
    with pytest.raises(BundleError, match=r"lists no replay.npz"):
        verify(copy)


def _forge(folder: Path, manifest: dict[str, object]) -> None:
    """Write another manifest with its right digest, as only someone who means to would."""
    (folder / "manifest.json").write_text(json.dumps(manifest))
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


@pytest.mark.parametrize(
    ("key", "value"), [("class_names", list("wxyz")), ("gate", {"threshold": 0.9}), ("sha256", {})]
)
def test_altered_manifest_is_named(copy: Path, key: str, value: object) -> None:
    """An entry changed by hand, of any kind, is found before anything is run."""
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(BundleError, match=r"manifest.json: was altered \(SHA-256 \w{12}…, manifest.sha256 says"):
        verify(copy)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_the_digest_of_the_manifest(sound: Path) -> None:
    """The usual command checks it too."""
    done = subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=sound, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "manifest.json: OK\n")


def test_forged_gate_is_found_by_the_replay(copy: Path) -> None:
    """Another threshold under a right digest shows in the members run."""
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["gate"]["threshold"] = 2.0
    _forge(copy, manifest)
    with pytest.raises(BundleError, match=r"input \d+ at batch 1: label \d by 2 members; the trained team gave"):
        verify(copy)


def test_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """A folder, a file or a dangling link in the way is an error, and stays."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(BundleError, match=f"{name}: exists already and is left as it is"):
            _write(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]


def test_wrong_answers_leave_nothing_behind(tmp_path: Path) -> None:
    """A team that does not replay is not written, and no temporary folder stays."""
    good = _replay()
    labels = good.labels.copy()
    labels[4] = (labels[4] + 1) % 4
    with pytest.raises(BundleError, match="input 4 at batch 1"):
        _write(tmp_path / "out", Replay(IMAGES, labels, good.members_run))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(tmp_path: Path) -> None:
    """A folder that may not be written to is named."""
    tmp_path.chmod(0o500)
    with pytest.raises(BundleError, match=r"cannot be made \(Permission denied\)"):
        _write(tmp_path / "out")


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    """A path below a file cannot be made and says so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be made"):
        _write(tmp_path / "file" / "out")
