"""The paper's two settings, `cifar10_resnet18.yaml` and `svhn_vgg16.yaml`, tiny: the same code path from file to record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eed_search import trial
from eed_search.config.loader import Override, load
from eed_search.config.params import TrialParams
from eed_search.search.sampling.proposals import first_proposals, suggest

FOLDER = Path(__file__).parents[1] / "search_spaces"
TINY = """
    data.num_train=40 data.num_validation=20 data.num_fresh=10 data.num_test=10 model.width=4
    base.epochs=1 base.batch_size=20 base.attack.steps=1 members.score_samples=8
    members.finetune.epochs=0.5 members.finetune.batch_size=20 members.finetune.attack.steps=1
    joint.epochs=0.5 joint.batch_size=20 joint.attack.steps=1 evaluation.steps=2 evaluation.slow_down_steps=1
    team.pool.accuracy_slack=1.0 latency.rounds=3 latency.block_ms=1 resources.cpu=1 resources.gpu=0
    controls.sizes=[]
"""


@pytest.mark.whole
@pytest.mark.parametrize(
    ("file", "changes", "num_pool"),
    [
        ("cifar10_resnet18", ["data.source=npz"], 12),
        ("svhn_vgg16", ["team.pool.num_subsets=1", "team.pool.scores=[erm, bnsf]"], 2),  # the same path, in seconds
    ],
)
def test_a_pool_becomes_a_team(tmp_path: Path, file: str, changes: list[str], num_pool: int) -> None:
    """4 scores on 3 subsets at 95 % sparsity, RD chooses, masks hold: a measured trial, on an npz stand-in."""
    import optuna

    generator = np.random.default_rng(0)
    for split, count in (("train", 80), ("test", 20)):
        images = generator.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(count) % 10)
    overrides = [Override.parse(text) for text in [*TINY.split(), *changes, f"data.path={tmp_path}"]]
    spec = load(FOLDER / f"{file}.yaml", overrides)
    study = optuna.create_study(directions=["maximize", "minimize"])
    for proposal in first_proposals(spec):
        study.enqueue_trial(proposal)
    params = TrialParams.from_flat(suggest(study.ask(), spec))
    assert (params.beta, params.omega, params.gamma) == (0.5, 10, 4)
    setting = trial.prepare(spec, tmp_path / "store", lambda text: None)
    record = trial.run(0, params, setting, trial.make_probe(setting), lambda text: None)
    assert record.outcome == "done", record.message
    assert sum(use.stage == "member.1" and not use.hit for use in record.stages) == num_pool
    assert record.measurement is not None
    assert 2 <= record.measurement.num_members <= 4
    assert record.measurement.size_bytes < 0.7 * setting.base.measurement.size_bytes
    assert record.measurement.worst_case_macs == record.measurement.num_members * setting.base.measurement.macs
