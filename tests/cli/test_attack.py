"""`eed-search attack` on a user's own model and on a bundle: the table, JSON, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import Result

from eed_search.cli.attack import _of_the_proof
from eed_search.deployment.bundle import write_bundle
from eed_search.deployment.onnx_export import to_onnx
from eed_search.deployment.runtime import GateSettings
from eed_search.evaluation.attacks import suite
from eed_search.evaluation.deploy import expected_answers
from eed_search.runs.attack_records import SCHEMA_VERSION, AttackResult
from eed_search.runs.records import Accuracy, from_json
from tests.cli.calling import call
from tests.evaluation import defences

# What a user's module may hold; each function gives a model.
MODELS = """
import torch
from torch import nn
from tests.evaluation import defences

def sound():
    return defences.trained(4, 0)

def team():
    return defences.honest()

def base():  # also what a run's dense base is called
    raise RuntimeError("asked for")

def training():
    return defences.network(4).train()

def without_gradient():
    class Cut(nn.Module):
        def forward(self, images):
            return defences.trained(4, 0)(images.detach())
    return Cut().eval()

def random():
    return defences.dropout()

def untrained():
    torch.manual_seed(0)
    return defences.wrong_normalisation()

def rounded():
    return defences.gradient_killer()

def broken():
    class Broken(nn.Module):
        def forward(self, images):
            return defences.trained(4, 0)(images) / 0
    return Broken().eval()

def fails():
    raise RuntimeError("no weights here")

def wrong_shape():
    return nn.Sequential(nn.Flatten(), nn.Linear(7, 4)).eval()

def text():
    return "a model"

def probabilities():
    return nn.Sequential(defences.trained(4, 0), nn.Softmax(1)).eval()

def part_training():
    return nn.Sequential(defences.trained(4, 0), nn.Dropout(0.1).train())

class Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = defences.trained(4, 0), 0
    def forward(self, images):
        self.calls += 1
        return self.inner(images) + (self.calls % 4 == 0)

def sometimes():
    return Sometimes().eval()

class Bare(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4]

def bare():
    return Bare().eval()

def double():
    return defences.network(4).double().eval()

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the user's module and images."""
    (tmp_path / "mine.py").write_text(MODELS)
    split = defences.images_and_labels()
    np.savez(tmp_path / "images.npz", images=split.images[:50].numpy(), labels=split.labels[:50].numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(suite, "_BUDGETS", {1: suite._Budget(8, 2, 60), 2: suite._Budget(10, 3, 60)})
    sys.modules.pop("mine", None)
    return tmp_path


def attack(target: str, *options: object, data: str = "images.npz", eps: str = "0.12") -> Result:
    return call("attack", target, "--data", data, "--eps", eps, "--home", "home", *options)


def test_a_sound_model_gets_its_table(folder: Path) -> None:
    done = attack("mine:sound")
    assert done.exit_code == 0, done.stderr
    assert "mine:sound: tier 1, badge `checked`" in done.stdout
    assert "robust (RA)" in done.stdout
    assert "\n certified " in done.stdout
    assert "certified: no image within eps can break these, whatever the attack" in done.stdout.replace("\n", " ")
    assert done.stdout.count("\ncheck ") == 11
    assert "that the model never saw these images is the user's word" in done.stdout.replace("\n", " ")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_json_is_the_whole_record_and_a_second_call_repeats_it(folder: Path) -> None:
    first, second = attack("mine:team", "--json"), attack("mine:team", "--json")
    assert first.exit_code == 0, first.stderr
    assert first.stdout == second.stdout  # read from the finished steps, seconds included
    result = from_json(AttackResult, json.loads(first.stdout))
    assert (result.schema_version, result.num_members, result.eps) == (SCHEMA_VERSION, 2, 0.12)
    assert result.any_prefix.value <= result.robust.value <= result.clean.value
    assert result.certified is not None
    assert 0 < result.certified.value <= result.robust.value
    nothing = replace(result, certified=Accuracy.of(np.zeros(50, bool)))
    assert "certified: trivial (0 %), the bounds say nothing" in _of_the_proof(nothing)
    assert _of_the_proof(replace(nothing, certified_by="none: no bound")) == "certified: not tried: no bound."


def test_a_failed_check_ends_with_code_9_after_the_result(folder: Path) -> None:
    done = attack("mine:rounded")
    assert done.exit_code == 9
    assert "badge `invalid`" in done.stdout
    assert "check  9 FAILED  gradients reach every member and the gate" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: mine:rounded: the robust accuracy is invalid")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("training", "the model itself is in train mode"),
        (
            "probabilities",
            "gives probabilities (they sum to 1), needs logits; the network ends in a softmax: take it away",
        ),
        ("sometimes", "answers equal images differently each time (a logit moves by 1)"),
        ("bare", "has no parameters, so there is nothing to attack; keep its weights as parameters"),
        ("double", "0.weight is torch.float64; attacks and deployment take float32: return model.float()"),
        ("without_gradient", "lets no gradient through"),
        ("random", "answers equal images differently each time"),
        ("untrained", "no better than always the commonest class"),
        ("broken", "gives NaN or infinite logits"),
        ("fails", "fails (RuntimeError: no weights here)"),
        ("wrong_shape", "fails on images [1, 6, 6]"),
        ("text", "gives str; needs a torch.nn.Module"),
        ("NUMBER", "holds no function NUMBER"),
        ("absent", "holds no function absent"),
    ],
)
def test_a_model_that_cannot_be_judged_is_refused(model: str, message: str) -> None:
    done = attack(f"mine:{model}")
    assert done.exit_code in (4, 5)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ("8", "--eps 8: is outside 0..1, pixels lie in [0, 1]; for 8 grey levels write 8/255"),
        ("0.5", "--eps 0.5: lets every image become the same grey, so that nothing can hold; give less than 0.5"),
        ("0", "--eps 0: leaves an attacker nothing"),
        ("-0.1", "leaves an attacker nothing"),
        ("0.000123", "less than half a grey level (0.002); was it divided by 255 twice?"),
        ("8/0", "--eps 8/0: is no number; write 8/255 or 0.0314"),
        ("nan", "is no number"),
        ("much", "is no number"),
    ],
)
def test_a_budget_of_the_wrong_unit_is_refused(eps: str, message: str) -> None:
    done = call("attack", "mine:sound", "--data", "images.npz", f"--eps={eps}")
    assert done.exit_code == 3
    assert message in done.stderr


def test_options_are_all_checked_at_once() -> None:
    done = call("attack", "mine:sound", "--tier", 3, "--eps", "8", "--table", "mine", "--device", "tpu")
    assert done.exit_code == 3
    for option in ("--tier 3", "--eps 8", "--table mine", "--device tpu", "4 mistakes"):
        assert option in done.stderr


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.rand(60, 1, 6, 6), torch.arange(60) % 5, "labels: 4 occurs, the model gives 4 logits and so knows classes 0..3"),
        (torch.rand(60, 1, 6, 6), torch.arange(60) % 4 - 1, "label -1 occurs; labels count from 0"),
        (torch.rand(60, 1, 6, 6), torch.eye(4)[torch.arange(60) % 4], "needs one whole number for each of the 60 images: write labels.argmax(1)"),
        (torch.rand(60, 1, 6, 6), torch.zeros(60, dtype=int), "labels: all 60 are 0; a model that always says so is right"),
        (torch.rand(60, 1, 6, 6) * 255, torch.arange(60) % 4, "needs [0, 1]: divide by 255"),
        (torch.rand(60, 1, 6, 6) * 2 - 1, torch.arange(60) % 4, "needs [0, 1]: eps is in pixel units, so normalisation belongs inside"),
        (torch.rand(60, 1, 6, 6) / 255, torch.arange(60) % 4, "nearly black. Were they divided by 255 twice"),
        (torch.full((60, 1, 6, 6), torch.nan), torch.arange(60) % 4, "`images` holds NaN in 60 of 60"),
        (torch.ones(60, 1, 6, 6, dtype=torch.uint8), torch.arange(60) % 4, "so 6 would be its channels; needs uint8 [samples, height, width, channels]"),
        (torch.rand(60, 6, 6, 1), torch.arange(60) % 4, "so 6 would be its channels"),
        (torch.rand(20, 1, 6, 6), torch.arange(20) % 4, "bad.npz: 20 samples: too few to say anything (at least 50"),
        (torch.rand(0, 1, 6, 6), torch.arange(0), "needs at least one image"),
    ],
)  # fmt: skip
def test_images_that_mean_nothing_are_refused(
    folder: Path, images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    np.savez(folder / "bad.npz", images=images.numpy(), labels=labels.numpy())
    done = attack("mine:sound", data="bad.npz")
    assert done.exit_code == 4
    assert message in done.stderr


def test_too_few_samples_asked_for_say_so() -> None:
    assert "--num-samples: 10 samples: too few to say anything" in attack("mine:sound", "--num-samples", 10).stderr


def test_a_file_that_is_no_archive_is_refused(folder: Path) -> None:
    (folder / "bad.npz").write_text("text")
    assert "is no npz file of plain arrays; save one by numpy.savez" in attack("mine:sound", data="bad.npz").stderr


def test_what_is_missing_is_named() -> None:
    assert "give --data FILE.npz" in call("attack", "mine:sound", "--eps", "8/255").stderr
    assert "give --eps, such as 8/255" in call("attack", "mine:sound", "--data", "images.npz").stderr
    nothing = call("attack", "nothing")
    assert nothing.exit_code == 3
    assert "no bundle's folder and no module:callable" in nothing.stderr
    absent = call("attack", "no.such:thing", "--data", "images.npz", "--eps", "0.1")
    assert absent.exit_code == 5
    assert "no.such cannot be imported" in absent.stderr
    run = call("attack", "first:7.0", "--home", "home")
    assert run.exit_code == 7
    assert "first: no such search in home" in run.stderr


def test_a_function_may_be_called_as_a_point_is() -> None:
    """A run of that name would go first; there is none."""
    assert "mine:base: fails (RuntimeError: asked for)" in attack("mine:base").stderr


def test_a_bundle_is_attacked_through_its_own_onnx_members(folder: Path) -> None:
    """White-box attacks follow the deployed file's gradients; RA is that of the torch team it was made from."""
    team = defences.honest()
    members = list(team.members)
    replay, _ = expected_answers(members, defences.GATE, defences.images_and_labels().images[:20])
    write_bundle(
        folder / "bundle",
        [to_onnx(member, defences.SHAPE) for member in members],
        GateSettings("threshold", defences.GATE.threshold, 1.0, 1.0),
        defences.SHAPE,
        defences.NUM_CLASSES,
        replay=replay,
        claims={},
        config={},
        search_space_yaml="",
    )
    results = [json.loads(attack(target, "--json").stdout) for target in ("bundle", "mine:team")]
    for name in ("clean", "robust", "any_prefix", "static"):
        assert results[0][name]["value"] == results[1][name]["value"]
    assert results[0]["badge"] == results[1]["badge"] == "checked"
    # beside the bundle, which stays as it was
    kept = json.loads((folder / "bundle.attacks.json").read_text())["results"]
    assert [one["robust"] for one in kept] == [results[0]["robust"]]
    verified = call("verify", "bundle")
    assert verified.exit_code == 0, verified.stderr
    assert "bundle.attacks.json: robust, badge `checked`: " in verified.stdout
    (folder / "bundle" / "member-1.onnx").write_bytes(b"altered")
    done = attack("bundle")
    assert done.exit_code == 8
    assert "was altered" in done.stderr


def test_the_papers_columns(folder: Path) -> None:
    """The union is the lowest of the L-inf columns, clean the highest."""
    done = attack("mine:team", "--table", "paper")
    assert done.exit_code == 0, done.stderr
    names = ["clean", "PGD-20", "C&W (L-inf)", "AutoAttack-grade union", "DeepFool (l2)"]
    rows = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith(tuple(names))]
    columns = {name: float(row.removeprefix(name).split()[0]) for name, row in zip(names, rows, strict=True)}
    assert columns["AutoAttack-grade union"] <= min(columns["PGD-20"], columns["C&W (L-inf)"]) + 2
    assert columns["clean"] == max(columns.values())
    assert "No sanity checks ran: a table, not a claim" in done.stdout
