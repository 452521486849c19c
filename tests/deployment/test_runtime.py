"""The numpy runtime gives what torch's gated team gives, and loads no torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eed_search.deployment import runtime
from eed_search.deployment.gates import from_settings, to_settings
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import BundleFault, GatedClassifier, GateSettings, GateWalk, InputFault
from eed_search.ensemble.gate import DeployedGate, Gate, GatedEnsemble, MarginGate

SHAPE = (3, 6, 6)


def member(seed: int, width: int = 4, classes: int = 5) -> nn.Module:
    """Make a small random network."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, classes)
    )
    net[4].weight.data.mul_(4)  # confident enough that both rules stop at every depth
    return net.eval()


MEMBERS = [member(seed, width) for seed, width in ((0, 4), (1, 6), (2, 4), (3, 8))]
ONNX = [to_onnx(one, SHAPE) for one in MEMBERS]
IMAGES = torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(5))
GATES = [
    Gate(threshold=0.35),
    Gate(threshold=0.5, sharpness=2.0, tau=0.3),
    Gate(threshold=0.0),
    Gate(threshold=2.0),
    Gate(rule="map"),
    Gate(rule="map", sharpness=0.5, tau=0.2),
    Gate(rule="map", sharpness=3.0),
    MarginGate(0.3),
    MarginGate(0.45),
    MarginGate(0.0),
    MarginGate(100.0),
]


def runtime_gate(gate: DeployedGate) -> GateSettings:
    """Give torch's gate as the runtime's."""
    return to_settings(gate)


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("batch", [1, 7, 200])
def test_equals_the_torch_team(gate: DeployedGate, batch: int) -> None:
    """Labels, members run and the deciding probabilities are torch's, for every rule and any batch size."""
    with torch.no_grad():
        team = GatedEnsemble(MEMBERS, gate).eval()
        expected, means = team.decide(IMAGES), team(IMAGES).softmax(-1)
    deployed = GatedClassifier.from_onnx(ONNX, runtime_gate(gate))
    answers = [deployed.predict(part.numpy()) for part in IMAGES.split(batch)]
    assert np.array_equal(np.concatenate([a.labels for a in answers]), expected.labels.numpy())
    assert np.array_equal(np.concatenate([a.num_members_run for a in answers]), expected.members_run.numpy())
    np.testing.assert_allclose(np.concatenate([a.probabilities for a in answers]), means.numpy(), atol=1e-5)


def test_the_test_reaches_every_exit() -> None:
    """The gates above stop at every depth, so that no branch goes untried."""
    for kind in (Gate, MarginGate):
        gates = [gate for gate in GATES if isinstance(gate, kind)]
        depths = {int(d) for gate in gates for d in GatedEnsemble(MEMBERS, gate).eval().decide(IMAGES).members_run}
        assert depths == {1, 2, 3, 4}


def test_a_gate_survives_the_way_to_the_runtime_and_back() -> None:
    assert [from_settings(to_settings(gate)) for gate in GATES] == GATES


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_the_worst_case_runs_every_member_by_the_same_steps(gate: DeployedGate) -> None:
    never = to_settings(gate).never_stopping()
    answer = GatedClassifier.from_onnx(ONNX, never).predict(IMAGES[:20].numpy())
    assert (answer.num_members_run == len(ONNX)).all()
    assert (never.rule == "margin") == isinstance(gate, MarginGate)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), members=st.integers(1, 5), classes=st.integers(2, 12), scale=st.floats(0.1, 6))
def test_mean_log_probabilities_lead_as_mean_logits_do(seed: int, members: int, classes: int, scale: float) -> None:
    """Members give float32 probabilities, no logits: best class and lead of the means of their logarithms are the same."""
    logits = scale * np.random.default_rng(seed).standard_normal((members, 8, classes))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)
    index = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1) / 8
    team = GatedClassifier.from_sessions([_Table(rows) for rows in probabilities], GateSettings("margin", 100.0))
    answer = team.predict(index)
    means = logits.mean(0)
    top = np.sort(means, axis=1)[:, -2:]
    logs = np.sort(np.log(answer.probabilities), axis=1)[:, -2:]
    np.testing.assert_allclose(logs[:, 1] - logs[:, 0], top[:, 1] - top[:, 0], atol=2e-5)
    clear = top[:, 1] - top[:, 0] > 1e-4
    assert np.array_equal(answer.labels[clear], means.argmax(1)[clear])


@pytest.mark.parametrize("gap", [70.0, 90.0, 200.0, 1e5])
def test_a_probability_that_underflows_is_taken_alike_by_torch_and_runtime(gap: float) -> None:
    """Logits further apart than float32's exponential reaches: both count 1e-35, and answer with the other member."""
    first, second = torch.tensor([[0.0, -gap]]), torch.tensor([[-30.0, 0.0]])
    logs = torch.stack([first.log_softmax(-1), second.log_softmax(-1)])
    for threshold in (1.0, 75.0, 100.0):
        expected = MarginGate(threshold).decide_logs(logs)
        tables = [_Table(one.softmax(-1).numpy()) for one in (first, second)]
        team = GatedClassifier.from_sessions(tables, GateSettings("margin", threshold))
        for images in (np.zeros((1, 1, 1, 1), np.float32), np.zeros((2, 1, 1, 1), np.float32)):
            answer = team.predict(images)
            assert answer.labels[0] == int(expected.labels[0])
            assert answer.num_members_run[0] == int(expected.members_run[0])


@settings(max_examples=150, deadline=None, derandomize=True)  # an exact tie may go either way by rounding
@given(
    seed=st.integers(0, 2**31),
    members=st.integers(1, 5),
    classes=st.integers(2, 12),
    scale=st.floats(0.1, 30),
    rule=st.sampled_from(["threshold", "map", "margin"]),
    threshold=st.floats(0, 1.2),
    sharpness=st.floats(0.2, 4),
    tau=st.floats(0.05, 5),
)
def test_one_image_and_batch_code_agree(
    seed: int, members: int, classes: int, scale: float, rule: str, threshold: float, sharpness: float, tau: float
) -> None:
    """The scalar walk of batch 1 and the compacting batch code are one gate."""
    logits = scale * np.random.default_rng(seed).standard_normal((members, 8, classes))
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    table = (raised / raised.sum(-1, keepdims=True)).astype(np.float32)
    sessions = [_Table(one) for one in table]
    deployed = GatedClassifier.from_sessions(sessions, GateSettings(rule, threshold, sharpness, tau))
    index = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1) / 8
    together = deployed.predict(index)
    for i in range(8):
        alone = deployed.predict(index[i])
        assert alone.labels[0] == together.labels[i]
        assert alone.num_members_run[0] == together.num_members_run[i]
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[i], rtol=1e-12)


class _Table:
    """A session that looks its answers up: image i has the value i/8."""

    def __init__(self, answers: np.ndarray) -> None:
        self.answers, self.calls = answers, []

    def get_inputs(self) -> list[_Entry]:
        return [_Entry("images", ["batch", 1, 1, 1])]

    def get_outputs(self) -> list[_Entry]:
        return [_Entry("probabilities", ["batch", self.answers.shape[1]])]

    def run(self, names: list[str], feed: dict[str, np.ndarray], options: None = None) -> list[np.ndarray]:
        rows = np.rint(feed["images"][:, 0, 0, 0] * 8).astype(int)
        self.calls.append(rows.tolist())
        return [self.answers[rows]]


class _Entry:
    def __init__(self, name: str, shape: list[str | int]) -> None:
        self.name, self.shape = name, shape


def test_only_undecided_images_go_on() -> None:
    """The second member sees the images that the first left open, and no other."""
    first = np.array([[0.99, 0.01], [0.6, 0.4], [0.02, 0.98], [0.5, 0.5]], np.float32)
    sessions = [_Table(first), _Table(first)]
    team = GatedClassifier.from_sessions(sessions, GateSettings("threshold", 0.9, 1.0, 1.0))
    answer = team.predict(np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) / 8)
    assert sessions[1].calls == [[1, 3]]
    assert answer.num_members_run.tolist() == [1, 2, 1, 2]


def test_map_answers_with_the_best_and_counts_what_ran() -> None:
    """By hand: q = 0.4, 0, 0.9·e^-KL …: the first member's value 0.4 stays the best when all have run."""
    gate = GateSettings("map", 0.0, 1.0, 1.0)
    walk = GateWalk(gate, 3)
    assert not walk.step(np.array([0.7, 0.3]))  # q = 0.4, value 0.4, left 0.6
    assert not walk.step(np.array([0.3, 0.7]))  # mean even: q = 0, value 0, left 0.6
    assert walk.step(np.array([0.9, 0.1]))  # last: value 0.6 beats 0.4
    assert walk.answer.tolist() == pytest.approx([1.9 / 3, 1.1 / 3])
    walk = GateWalk(gate, 3)
    walk.step(np.array([0.7, 0.3]))  # value 0.4, left 0.6
    kl = 0.8 * np.log(0.8 / 0.7) + 0.2 * np.log(0.2 / 0.3)
    stop = 0.6 * np.exp(-kl)  # value 0.6·stop = 0.35, left 0.25
    assert walk.step(np.array([0.9, 0.1]))
    assert 0.6 * stop < 0.4
    assert walk.answer.tolist() == pytest.approx([0.7, 0.3])


def test_more_images_than_one_call_takes() -> None:
    """A set larger than the largest batch gives the same answers as its parts."""
    images = IMAGES.repeat(6, 1, 1, 1).numpy()
    team = GatedClassifier.from_onnx(ONNX, runtime_gate(GATES[0]))
    assert np.array_equal(team.predict(images).labels, np.tile(team.predict(IMAGES.numpy()).labels, 6))


def test_no_image_gives_no_answer() -> None:
    """An empty batch is answered by empty arrays."""
    answer = GatedClassifier.from_onnx(ONNX[:1], runtime_gate(GATES[0])).predict(np.zeros((0, *SHAPE), np.float32))
    assert answer.labels.shape == (0,)
    assert answer.probabilities.shape == (0, 5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, *SHAPE), np.uint8), "uint8 was given; need a float32 array"),
        (np.zeros((1, *SHAPE)), "float64 was given"),
        ([[0.0]], "list was given"),
        (np.zeros((1, 3, 5, 6), np.float32), r"shape \(1, 3, 5, 6\) was given; need \[images, 3, 6, 6\]"),
        (np.full((1, *SHAPE), 255.0, np.float32), "values from 255 to 255 were given"),
        (np.full((2, *SHAPE), -0.01, np.float32), "values from -0.01"),
        (np.full((1, *SHAPE), np.nan, np.float32), "values from nan"),
    ],
)
def test_wrong_images_are_refused(images: np.ndarray, message: str) -> None:
    """Type, shape and range are checked, with the cure in the message."""
    team = GatedClassifier.from_onnx(ONNX[:1], runtime_gate(GATES[0]))
    with pytest.raises(InputFault, match=message):
        team.predict(images)


def test_the_ends_of_the_range_are_allowed() -> None:
    """0, negative zero and 1 are pixels."""
    team = GatedClassifier.from_onnx(ONNX[:1], runtime_gate(GATES[0]))
    edge = np.zeros((1, *SHAPE), np.float32)
    edge[0, 0, 0, :3] = [0.0, -0.0, 1.0]
    assert len(team.predict(edge).labels) == 1


def test_nan_from_a_member_is_not_an_answer() -> None:
    """A member that gives NaN is an error and not class 0, alone and in a batch."""
    team = GatedClassifier.from_sessions([_Table(np.full((4, 2), np.nan))] * 2, runtime_gate(GATES[0]))
    for num in (1, 4):
        with pytest.raises(runtime.RuntimeFault, match="gave NaN"):
            team.predict(np.zeros((num, 1, 1, 1), np.float32))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (("sure", 0.5, 1, 1), "gate.rule: 'sure' is not one of threshold, map, margin"),
        (("margin", -0.1), "gate.threshold: -0.1 is not a finite number at least 0"),
        (("margin", float("inf")), "gate.threshold: inf is not a finite number at least 0"),
        (("margin", "2"), "gate.threshold: '2' is not a finite number"),
        (("map", float("nan"), 1, 1), "gate.threshold"),
        (("map", 0.5, 0, 1), "gate.sharpness: 0 is not a finite number above 0"),
        (("map", 0.5, 1, "1"), "gate.tau: '1'"),
    ],
)
def test_wrong_gates_are_refused(given_: tuple, message: str) -> None:
    """A gate from an edited manifest is checked."""
    with pytest.raises(BundleFault, match=message):
        GateSettings(*given_)


def test_members_must_have_one_shape() -> None:
    """A team whose members see other images or classes is refused."""
    with pytest.raises(BundleFault, match="member 2: its shapes"):
        GatedClassifier.from_onnx([ONNX[0], to_onnx(member(0, classes=4), SHAPE)], runtime_gate(GATES[0]))


def test_broken_onnx_is_a_clear_error() -> None:
    """Bytes that are no network name the member."""
    with pytest.raises(BundleFault, match="member 1: onnxruntime"):
        GatedClassifier.from_onnx([b"no network"], runtime_gate(GATES[0]))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Write a bundle of two members by hand."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for i in (1, 2):
        (folder / f"member-{i}.onnx").write_bytes(ONNX[i])
    manifest = {
        "format": "eed-search bundle",
        "format_version": 1,
        "members": ["member-1.onnx", "member-2.onnx"],
        "gate": {"rule": "threshold", "threshold": 0.4, "sharpness": 1.0, "tau": 1.0},
        "image_shape": list(SHAPE),
        "num_classes": 5,
        "class_names": list("abcde"),
        "sha256": {f"member-{i}.onnx": hashlib.sha256(ONNX[i]).hexdigest() for i in (1, 2)},
    }
    (folder / "manifest.json").write_text("{}")
    _edit(folder, **manifest)
    return folder


def _edit(folder: Path, **changes: object) -> None:
    """Change the manifest, and its digest with it."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  manifest.json\n")


def test_file_runs_alone(bundle: Path, tmp_path: Path) -> None:
    """A copy of the one file runs a bundle where neither torch nor eed-search can be imported."""
    alone = tmp_path / "runtime.py"
    alone.write_bytes(Path(runtime.__file__).read_bytes())
    np.save(tmp_path / "images.npy", IMAGES[:5].numpy())
    guard = "import sys; sys.modules.update(torch=None, eed_search=None); import runtime; sys.exit(runtime.main())"
    done = subprocess.run(
        [sys.executable, "-c", guard, str(bundle), "images.npy"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = GatedClassifier(bundle).predict(IMAGES[:5].numpy())
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["image", "label", "members_run", "probability"]
    assert [line[1] for line in lines[1:]] == ["abcde"[label] for label in answer.labels]
    assert [int(line[2]) for line in lines[1:]] == answer.num_members_run.tolist()


def test_import_loads_no_torch() -> None:
    """Importing the runtime from the package loads neither torch nor pydantic."""
    code = "import sys, eed_search.deployment.runtime; print([m for m in ('torch', 'pydantic', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("images", "code", "message"),
    [(b"no array", 4, "no array of numbers, as numpy.save writes one"), (None, 4, "No such file")],
)
def test_command_line_errors(
    bundle: Path, tmp_path: Path, images: bytes | None, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong images end with a message and an exit code of their own."""
    if images is not None:
        (tmp_path / "images.npy").write_bytes(images)
    assert runtime.main([str(bundle), str(tmp_path / "images.npy")]) == code
    assert message in capsys.readouterr().err


def test_missing_bundle_is_named(tmp_path: Path) -> None:
    """A folder without a manifest is no bundle."""
    with pytest.raises(BundleFault, match=r"is no bundle \(manifest.json: No such file"):
        GatedClassifier(tmp_path / "nothing")


def test_a_margins_bundle_answers_as_torch(bundle: Path) -> None:
    """The newer format with the newer rule; the fixture is of the older format, which still loads."""
    old = GatedClassifier(bundle)
    assert old.gate == GateSettings("threshold", 0.4, 1.0, 1.0)
    _edit(bundle, format_version=2, gate={"rule": "margin", "threshold": 0.3, "sharpness": 1.0, "tau": 1.0})
    answer = GatedClassifier(bundle).predict(IMAGES.numpy())
    expected = GatedEnsemble(MEMBERS[1:3], MarginGate(0.3)).eval().decide(IMAGES)
    assert np.array_equal(answer.labels, expected.labels.numpy())
    assert np.array_equal(answer.num_members_run, expected.members_run.numpy())
    assert len(set(answer.num_members_run.tolist())) == 2


def test_altered_member_is_found(bundle: Path) -> None:
    """One flipped byte stops the load, before anything is run."""
    data = bytearray((bundle / "member-2.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "member-2.onnx").write_bytes(data)
    with pytest.raises(BundleFault, match=r"member-2.onnx: was altered \(SHA-256"):
        GatedClassifier(bundle)


def test_missing_member_is_found(bundle: Path) -> None:
    """A member that is gone is named."""
    (bundle / "member-1.onnx").unlink()
    with pytest.raises(BundleFault, match=r"member-1.onnx: is missing"):
        GatedClassifier(bundle)


def test_manifest_edited_alone_is_found(bundle: Path) -> None:
    """Another gate threshold stops the load: the manifest has a digest of its own."""
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace("0.4", "0.2"))
    with pytest.raises(
        BundleFault, match=r"manifest.json: was altered \(SHA-256 \w{12}…, manifest.sha256 says \w{12}…"
    ):
        GatedClassifier(bundle)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"0" * 64 + b"  manifest.json\n"])
def test_broken_digest_of_the_manifest_is_found(bundle: Path, text: bytes) -> None:
    """Whatever else stands in `manifest.sha256`, the bundle is not loaded."""
    (bundle / "manifest.sha256").write_bytes(text)
    with pytest.raises(BundleFault, match=r"manifest.json: was altered"):
        GatedClassifier(bundle)


def test_missing_digest_of_the_manifest_is_found(bundle: Path) -> None:
    """Without its digest a manifest could be anything."""
    (bundle / "manifest.sha256").unlink()
    with pytest.raises(BundleFault, match=r"manifest.sha256: is missing"):
        GatedClassifier(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not the manifest of an eed-search bundle"),
        (
            {"format_version": 4},
            "format_version 4; this runtime reads 1, 2, 3; take the runtime.py of the eed-search that made it",
        ),
        ({"format_version": "2"}, "format_version '2'; this runtime reads 1, 2, 3"),
        ({"format_version": [1]}, r"format_version \[1\]; this runtime reads 1, 2, 3"),
        ({"format_version": 3}, "preprocessing is missing or no dict"),
        (
            {"format_version": 3, "preprocessing": runtime.preprocessing(SHAPE) | {"filter": "lanczos"}},
            "preprocessing.filter is 'lanczos'; this runtime knows 'bilinear'",
        ),
        (
            {"gate": {"rule": "margin", "threshold": 1.0, "sharpness": 1.0, "tau": 1.0}},
            "gate.rule: 'margin' is not one of threshold, map, which format_version 1 knows; export the bundle again",
        ),
        (
            {"format_version": 2, "gate": {"rule": "sure", "threshold": 1, "sharpness": 1, "tau": 1}},
            "'sure' is not one of",
        ),
        ({"members": None}, "members is missing or no list"),
        ({"members": ["../member-1.onnx"]}, "'../member-1.onnx' is not a plain file name with a SHA-256"),
        ({"members": ["other.onnx"]}, "'other.onnx' is not a plain file name"),
        ({"gate": {"rule": "map"}}, "gate holds"),
        ({"class_names": ["a"]}, "1 class names"),
        ({"members": []}, "the team has no member"),
    ],
)
def test_edited_manifest_is_refused(bundle: Path, changes: dict[str, object], message: str) -> None:
    """Every entry that the runtime relies on is checked."""
    _edit(bundle, **changes)
    with pytest.raises(BundleFault, match=message):
        GatedClassifier(bundle)
