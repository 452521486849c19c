"""Photographs in, names and probabilities out: what a stranger does with a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eed_search.config.spec import Data
from eed_search.data.image_folder import image_folder
from eed_search.deployment import runtime
from eed_search.deployment.bundle import GateSettings, Replay, write_bundle
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import GatedClassifier, InputFault, read_image

SHAPE = (3, 8, 8)
NAMES = ["A", "B", "C\x1b[31m", "Ä"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two small networks for four classes."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(192, 4)) for _ in range(2)]
    members, gate = [to_onnx(net, SHAPE) for net in nets], GateSettings("threshold", 0.3)
    images = np.random.default_rng(0).random((5, *SHAPE), dtype=np.float32)
    answer = GatedClassifier.from_onnx(members, gate).predict(images)
    return write_bundle(
        tmp_path_factory.mktemp("made") / "best", members, gate, SHAPE, NAMES,
        replay=Replay(images, answer.labels, answer.num_members_run), claims={}, config={}, search_space_yaml="",
    )  # fmt: skip


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 8), seed: int = 0, **options: object) -> Path:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def run(bundle: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle / "runtime.py"), str(bundle), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)


@pytest.mark.parametrize("image_size", [None, 8])
@pytest.mark.parametrize("grey", [False, True])
def test_a_file_is_read_as_training_read_it(tmp_path: Path, image_size: int | None, grey: bool) -> None:
    """Pixel for pixel: modes, EXIF, transparency, wide and tall ones."""
    modes = ["1", "L"] if grey else ["RGB", "P", "RGBA", "L", "LA", "1"]
    sizes = [(8, 8)] if image_size is None else [(8, 8), (30, 9), (9, 31), (100, 64)]
    for i, (mode, size) in enumerate((mode, size) for mode in modes for size in sizes):
        picture(tmp_path / "ab"[i % 2] / f"{i:02}.png", mode, size, i)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(tmp_path / "a" / "turned.jpg", "L" if grey else "RGB", sizes[-1], 99, exif=turned)
    if not grey:
        picture(tmp_path / "b" / "ink.jpg", "CMYK", sizes[-1], 98)
    sets = image_folder(Data(source="image_folder", path=str(tmp_path), image_size=image_size))
    for pixels, name in zip(sets.train.images, sets.train.names, strict=True):
        expected = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(read_image(tmp_path / name, expected.shape), expected, err_msg=name)


def test_the_names_answer(bundle: Path, tmp_path: Path) -> None:
    """As the array's answer does, with a probability for each class."""
    files = [picture(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    team = GatedClassifier(bundle)
    answers = team.predict_files(files)
    images = np.stack([read_image(file, SHAPE) for file in files])
    expected = team.predict(images)
    assert [answer.name for answer in answers] == [NAMES[label] for label in expected.labels]
    assert [answer.num_members_run for answer in answers] == expected.num_members_run.tolist()
    for answer, row in zip(answers, expected.probabilities, strict=True):
        assert list(answer.probabilities) == NAMES
        np.testing.assert_allclose(list(answer.probabilities.values()), row)
    assert team.predict_files([]) == []


def test_the_command_line_names_files_and_classes(bundle: Path, tmp_path: Path) -> None:
    """Files and folders; control characters are written out; --json holds every class."""
    picture(tmp_path / "in" / "b.jpg", seed=1)
    picture(tmp_path / "in" / "a.png", seed=2)
    one = picture(tmp_path / "one.png", seed=3)
    done = run(bundle, one, tmp_path / "in")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(one), str(tmp_path / "in" / "a.png"), str(tmp_path / "in" / "b.jpg")]  # fmt: skip
    assert all(" of 2 members)" in line and " %" in line for line in lines)
    assert "\x1b" not in done.stdout
    facts = [json.loads(line) for line in run(bundle, "--json", one).stdout.splitlines()]
    assert list(facts[0]["probabilities"]) == NAMES
    assert facts[0]["num_members"] == 2


def test_what_cannot_be_read_is_said_and_the_others_answer(bundle: Path, tmp_path: Path) -> None:
    """One line each, the others' answers, and an exit code."""
    good = picture(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:60])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    picture(tmp_path / "other.gif", "P")
    names = ["text.png", "cut.png", "deep.png", "other.gif", "none.png"]
    done = run(bundle, *(tmp_path / name for name in names), good)
    assert done.returncode == 4
    assert done.stdout.startswith(str(good))
    said = done.stderr.splitlines()
    assert [Path(line.partition(":")[0]).name for line in said] == names
    assert "save it with 8 bits a channel" in said[2]
    assert "No such file" in said[4]
    assert "pickle" not in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(InputFault, match=r"text\.png: cannot be read"):
        GatedClassifier(bundle).predict_files([good, tmp_path / "text.png"])


@pytest.mark.parametrize("kind", ["npz", "objects", "text", "empty folder", "two"])
def test_wrong_arrays_are_said_in_true_words(bundle: Path, tmp_path: Path, kind: str) -> None:
    given = [tmp_path / "x.npy"]
    if kind == "npz":
        given = [tmp_path / "x.npz"]
        np.savez(given[0], images=np.zeros(3))
    elif kind == "objects":
        np.save(given[0], np.array([{"a": 1}], dtype=object))
    elif kind == "text":
        given[0].write_text("1, 2")
    elif kind == "empty folder":
        given = [tmp_path / "empty"]
        given[0].mkdir()
    else:
        given.append(picture(tmp_path / "a.png"))
    done = run(bundle, *given)
    assert done.returncode == 4
    expected = {
        "npz": "is an archive of arrays (.npz); save the images alone by numpy.save",
        "objects": "no array of numbers, as numpy.save writes one",
        "text": "no array of numbers, as numpy.save writes one",
        "empty folder": "no PNG or JPEG files there",
        "two": "give one .npy file alone, or image files",
    }[kind]
    assert expected in done.stderr
    assert "pickle" not in done.stderr


def test_arrays_need_no_pillow_and_files_say_so(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, *SHAPE), np.float32))
    picture(tmp_path / "a.png")
    guard = "import sys; sys.modules['PIL'] = None; sys.path.insert(0, sys.argv.pop(1)); import runtime; sys.exit(runtime.main())"
    for file, code in (("x.npy", 0), ("a.png", 4)):
        command = [sys.executable, "-c", guard, str(bundle), str(bundle), str(tmp_path / file)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"}
        )
        assert done.returncode == code, done.stderr
        assert ("pip install pillow" in done.stderr) == (code == 4)


def test_an_ascii_terminal_is_no_reason_to_fail(bundle: Path, tmp_path: Path) -> None:
    """Names that it lacks are written out."""
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    done = run(bundle, "--top", 4, picture(tmp_path / "a.png"), env=environment)
    assert done.returncode == 0, done.stderr
    assert "\\xc4" in done.stdout


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("Failed to allocate memory")]
)
def test_memory_that_runs_out_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """What ran out, and what to do."""
    team = GatedClassifier(bundle)

    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(team, "_predict_batch", fails)
    with pytest.raises(runtime.RuntimeFault, match="2 images: memory ran out; give fewer images at once"):
        team.predict(np.zeros((2, *SHAPE), np.float32))
