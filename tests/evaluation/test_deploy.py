"""From a torch team to a bundle whose answers are the team's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eed_search.core.errors import BundleError, ModelError
from eed_search.deployment.bundle import verify
from eed_search.deployment.runtime import GatedClassifier
from eed_search.ensemble.gate import DeployedGate, Gate, GatedEnsemble, MarginGate
from eed_search.evaluation.deploy import clear_of_rounding, deploy, expected_answers

SHAPE = (1, 6, 6)


def _member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    net[4].weight.data.mul_(10)  # confident enough to stop at several depths
    return net.train()


MEMBERS = [_member(seed) for seed in range(3)]
IMAGES = torch.rand(50, *SHAPE, generator=torch.Generator().manual_seed(0))
CONTENT = {"claims": {"run": "demo"}, "config": {}, "search_space_yaml": "name: demo\n"}


@pytest.mark.parametrize(
    "gate", [Gate(threshold=0.4), Gate(rule="map"), MarginGate(1.5)], ids=["threshold", "map", "margin"]
)
def test_deployed_team_is_the_trained_team(gate: DeployedGate, tmp_path: Path) -> None:
    """The bundle verifies and gives torch's labels and members run on every image."""
    out = deploy(MEMBERS, gate, IMAGES, tmp_path / "out", **CONTENT)
    assert verify(out).num_inputs == 50
    team = GatedEnsemble(MEMBERS, gate).eval()
    with torch.no_grad():
        expected = team.decide(IMAGES)
    answer = GatedClassifier(out).predict(IMAGES.numpy())
    assert np.array_equal(answer.labels, expected.labels.numpy())
    assert np.array_equal(answer.num_members_run, expected.members_run.numpy())
    assert len(set(answer.num_members_run.tolist())) > 1


def test_members_stay_in_training_mode(tmp_path: Path) -> None:
    """The team given is not changed, statistics included."""
    member = _member(7)
    before = {key: value.clone() for key, value in member.state_dict().items()}
    deploy([member], Gate(), IMAGES, tmp_path / "out", **CONTENT)
    assert member.training
    assert all(torch.equal(before[key], value) for key, value in member.state_dict().items())


def test_replay_is_spread_over_the_images(tmp_path: Path) -> None:
    """At most `num_replay` images are stored, first and last among them."""
    out = deploy(MEMBERS, Gate(), IMAGES, tmp_path / "out", num_replay=5, **CONTENT)
    stored = np.load(out / "replay.npz")["images"]
    assert np.array_equal(stored, IMAGES[[0, 12, 24, 37, 49]].numpy())


def test_existing_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    """Nothing is exported where the folder exists: the broken member goes unnoticed."""
    with pytest.raises(BundleError, match="exists already"):
        deploy([nn.Linear(3, 3)], Gate(), IMAGES, tmp_path, **CONTENT)


def test_member_that_cannot_be_exported(tmp_path: Path) -> None:
    """An unsupported operator is a ModelError and leaves no folder."""

    class Singular(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(images.flatten(2).transpose(1, 2) @ images.flatten(2)).flatten(1)

    with pytest.raises(ModelError, match="Singular: cannot be written as ONNX: operator"):
        deploy([Singular()], Gate(), IMAGES, tmp_path / "out", **CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_images_at_the_threshold_are_left_out_and_counted() -> None:
    """An image whose stop probability is the threshold itself is skipped, the others are kept."""
    with torch.no_grad():
        means = MEMBERS[0].eval()(IMAGES).softmax(1)
    stop = Gate().stop_probabilities(torch.stack([means, means]).double())[0]
    replay, num_classes = expected_answers(MEMBERS[:2], Gate(threshold=float(stop[3])), IMAGES)
    assert num_classes == 4
    assert replay.num_skipped == 1
    assert np.array_equal(replay.images, np.delete(IMAGES.numpy(), 3, axis=0))


def test_no_image_clear_of_the_threshold() -> None:
    """Where every image lies at the threshold there is nothing to replay, and the message says why."""
    same = IMAGES[:1].expand(4, -1, -1, -1).contiguous()
    with torch.no_grad():
        means = MEMBERS[0].eval()(same).softmax(1)
    stop = Gate().stop_probabilities(torch.stack([means, means]).double())[0, 0]
    with pytest.raises(BundleError, match="all 4 images lie within"):
        expected_answers(MEMBERS[:2], Gate(threshold=float(stop)), same)


def _logs(*tops: float) -> torch.Tensor:
    return torch.tensor([[[top, 1 - top]] for top in tops], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("gate", "tops", "clear"),
    [
        (Gate(threshold=0.5), (0.76, 0.9), True),  # q = 0.52
        (Gate(threshold=0.5), (0.750004, 0.9), False),  # q = 0.500008
        (Gate(threshold=0.5, sharpness=3.0), (0.8968556, 0.9), False),  # q = 0.50002: magnified three times
        (Gate(threshold=0.5), (0.500004, 0.500004), False),  # two classes tie
        (Gate(threshold=0.0), (0.8, 0.500001), True),  # the second member is never asked
        (Gate(rule="map"), (0.750002, 0.9), False),  # q = 0.500004 against 0.499996 left
        (Gate(rule="map"), (0.8, 0.9), True),
        (MarginGate(1.0), (0.74, 0.9), True),  # lead 1.046
        (MarginGate(1.0), (0.7310686, 0.9), False),  # lead 1.00005
        (MarginGate(1.0), (0.6, 0.4), False),  # the second member takes the lead back to 0
        (MarginGate(0.0), (0.8, 0.2), True),  # the second member is never asked
    ],
)
def test_what_counts_as_close(gate: DeployedGate, tops: tuple[float, ...], clear: bool) -> None:
    """By hand on two classes and two members."""
    logs = _logs(*tops)
    assert clear_of_rounding(logs, gate, gate.decide_logs(logs)).tolist() == [clear]
