"""Accuracy through the gate, under attack, against slow definitions and known truths."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from eed_search.config.spec import Evaluation
from eed_search.data.splits import Split
from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation.robust import RobustEvaluator, evaluate_robustness

CPU = torch.device("cpu")
SETTINGS = Evaluation(steps=10, batch_size=64)


def linear(seed: int, classes: int = 3, scale: float = 6.0) -> nn.Module:
    torch.manual_seed(seed)
    layer = nn.Linear(16, classes)
    layer.weight.data *= scale
    return nn.Sequential(nn.Flatten(), layer)


def samples(team: GatedEnsemble, count: int = 120, flipped: float = 0.1) -> Split:
    """Random images labelled by the team itself, some of them wrongly."""
    generator = torch.Generator().manual_seed(9)
    images = torch.rand(count, 1, 4, 4, generator=generator)
    labels = team.decide(images).labels
    wrong = torch.rand(count, generator=generator) < flipped
    return Split(images, torch.where(wrong, (labels + 1) % 3, labels))


def test_without_budget_robust_is_clean() -> None:
    """Eps 0 breaks nothing that is right and repairs nothing that is wrong."""
    team = GatedEnsemble([linear(0), linear(1)], Gate(0.5))
    split = samples(team)
    found = evaluate_robustness(team, split, eps=0.0, settings=SETTINGS, seed=0, device=CPU)
    assert np.array_equal(found.robust_right, found.clean_right)
    assert found.clean_right.mean() == (team.decide(split.images).labels == split.labels).float().mean()


def test_a_linear_network_is_as_robust_as_its_margins_say() -> None:
    """For two classes the truth is exact: robust where the margin exceeds the worst move inside [0, 1]."""
    model, eps = linear(3, classes=2), 0.05
    team = GatedEnsemble([model], Gate())
    split = samples(team, flipped=0.0)
    direction = model[1].weight[0] - model[1].weight[1]
    sign = torch.where(split.labels == 0, -1.0, 1.0)[:, None]
    step = sign * direction.sign()
    flat = split.images.flatten(1)
    worst = (flat + eps * step).clamp(0, 1).view_as(split.images)
    truth = (model(worst).argmax(1) == split.labels).numpy()
    found = evaluate_robustness(team, split, eps=eps, settings=SETTINGS, seed=0, device=CPU)
    assert np.array_equal(found.robust_right, truth)
    assert 0.2 < truth.mean() < 0.9


def test_the_union_is_never_kinder_than_the_executed_path() -> None:
    """Every surrogate can only break more, and on this gate the others do."""
    team = GatedEnsemble([linear(seed, scale=3.0) for seed in range(3)], Gate(0.5))
    found = evaluate_robustness(team, samples(team, 200), eps=0.05, settings=SETTINGS, seed=0, device=CPU)
    assert not (found.robust_right & ~found.executed_right).any()
    assert not (found.executed_right & ~found.clean_right).any()
    assert found.executed_right.sum() > found.robust_right.sum()


def test_the_batch_size_changes_nothing() -> None:
    """A sample's random start depends on its place in the split alone."""
    team = GatedEnsemble([linear(0), linear(1)], Gate(0.4))
    split = samples(team)
    small, large = (
        evaluate_robustness(team, split, eps=0.06, settings=Evaluation(steps=5, batch_size=size), seed=0, device=CPU)
        for size in (7, 120)
    )
    assert np.array_equal(small.robust_right, large.robust_right)
    assert np.array_equal(small.members_run, large.members_run)


class Keyhole(nn.Module):
    """Answers wrongly only in a thin shell that an attack passes through on its way: class 0 elsewhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.flatten(1).mean(1)
        inside = (mean > 0.52) & (mean < 0.56)
        pull = 3 * mean  # the attack's gradient leads it upwards, through the shell and beyond
        return torch.stack([torch.where(inside, -9.0, 9.0) - 0 * pull, pull], 1)


def test_every_iterate_counts() -> None:
    """An image broken on the way is broken, although the last iterate is right again."""
    images = torch.full((8, 1, 4, 4), 0.5)
    team = GatedEnsemble([Keyhole()], Gate())
    split = Split(images, torch.zeros(8, dtype=torch.long))
    settings = Evaluation(steps=20, step_size=0.02)
    found = evaluate_robustness(team, split, eps=0.2, settings=settings, seed=0, device=CPU)
    assert found.clean_right.all()
    assert not found.robust_right.any()


def test_judging_leaves_the_team_trainable() -> None:
    """No gradient is left behind, none switched off."""
    team = GatedEnsemble([linear(0)], Gate())
    evaluate_robustness(team, samples(team, 10), eps=0.05, settings=SETTINGS, seed=0, device=CPU)
    assert all(p.requires_grad and p.grad is None for p in team.parameters())


def test_a_sweep_changes_nothing_at_the_gates_own_threshold() -> None:
    team = GatedEnsemble([linear(0), linear(1)], Gate(0.3))
    split = samples(team)
    plain = evaluate_robustness(team, split, eps=0.02, settings=SETTINGS, seed=0, device=CPU)
    swept = evaluate_robustness(team, split, eps=0.02, settings=SETTINGS, seed=0, device=CPU, sweep=7)
    for name in ("clean_right", "robust_right", "executed_right", "members_run"):
        assert np.array_equal(getattr(plain, name), getattr(swept, name))
    assert swept.swept_robust_right.shape == (len(swept.thresholds), len(split))


def test_swept_accuracies_are_upper_bounds_and_clean_ones_exact() -> None:
    """What an attack at each threshold itself finds: the same clean, at most as robust, somewhere less."""
    members = [linear(0), linear(1), linear(2)]
    split = samples(GatedEnsemble(members, Gate(0.3)))
    swept = evaluate_robustness(
        GatedEnsemble(members, Gate(0.3)), split, eps=0.02, settings=SETTINGS, seed=0, device=CPU, sweep=7
    )
    kinder = []
    for i, threshold in enumerate(swept.thresholds):
        own = evaluate_robustness(
            GatedEnsemble(members, Gate(float(threshold))), split, eps=0.02, settings=SETTINGS, seed=0, device=CPU
        )
        assert np.array_equal(swept.swept_clean_right[i], own.clean_right)
        assert np.array_equal(swept.swept_members_run[i], own.members_run)
        kinder.append(swept.swept_robust_right[i].mean() - own.robust_right.mean())
    assert min(kinder) > -0.02
    assert max(kinder) > 0


def test_one_member_has_no_threshold_to_sweep() -> None:
    team = GatedEnsemble([linear(0)], Gate())
    found = evaluate_robustness(team, samples(team), eps=0.02, settings=SETTINGS, seed=0, device=CPU, sweep=7)
    assert found.thresholds.size == 0


def test_an_evaluation_tells_at_each_step_how_far_it_is() -> None:
    """The share grows from batch to batch, surrogate to surrogate and step to step, and ends at the last image."""
    team = GatedEnsemble([linear(0), linear(1)], Gate(0.4))
    split, told = samples(team, 120), []
    examination = RobustEvaluator(team, split, eps=0.02, settings=SETTINGS, seed=0, device=CPU, tell=told.append)
    examination.attack(64)
    assert told == sorted(told)
    assert 0 < told[0] < 0.05
    assert 0.4 < told[-1] <= 64 / 120
    examination.attack(120)
    assert told == sorted(told)
    assert 0.9 < told[-1] <= 1
