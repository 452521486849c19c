"""The guard of one-step training: what collapses gets its last good weights back and two steps; nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eed_search.config.spec import Recipe, TrainingAttack
from eed_search.data.splits import Split
from eed_search.ensemble.loss import Members
from eed_search.training import LabelRecovery
from eed_search.training.attacks import at_least_two_steps, perturb
from eed_search.training.checkpoints import NoCheckpoint
from eed_search.training.guard import Guard
from eed_search.training.loop import Training

EPS = 0.05
CPU = torch.device("cpu")


class Notes(NoCheckpoint):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def split(num: int = 96) -> Split:
    """Two classes that the brightness tells apart, far beyond the budget."""
    labels = torch.arange(num) % 2
    noise = torch.rand(num, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    return Split(0.2 + 0.6 * labels[:, None, None, None] + noise - 0.05, labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


class Collapses(LabelRecovery):
    """At one step it turns the network's answers round, while its own loss falls: what a collapse looks like from outside."""

    at = 24  # optimiser steps
    seen = 0
    passes: list[int]

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        type(self).seen += 1
        evaluated = []
        handle = model.register_forward_hook(lambda module, *_: evaluated.append(not module.training))
        loss = super().__call__(model, images, labels, generator)
        handle.remove()
        type(self).passes.append(sum(evaluated))
        if self.seen == self.at:
            for parameter in model.parameters():
                parameter.data.neg_()
        return loss * 0.1 if self.seen >= self.at else loss


@pytest.fixture(autouse=True)
def _anew() -> None:
    Collapses.seen, Collapses.passes = 0, []


RECIPE: dict[str, Any] = {"epochs": 6, "batch_size": 16, "lr": 0.5, "schedule": "constant"}


def training(method: str = "n_fgsm", ema: float = 0.0, **given: Any) -> tuple[Training, nn.Module, Notes]:
    recipe = Recipe(**RECIPE, ema=ema, attack=TrainingAttack(method=method, steps=3))
    model, notes = network(), Notes()
    lines: list[str] = []
    loss = given.pop("loss", LabelRecovery)(EPS, recipe.attack)
    run = Training(model, split(), recipe, loss, seed=1, report=lines.append, checkpoint=notes, **{"eps": EPS, **given})
    return run, model, notes


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("method", ["n_fgsm", "fgsm_rs"])
def test_a_collapse_is_undone_and_said(method: str, ema: float) -> None:
    """It goes on from before with two steps, ends well, and a note tells the reader."""
    run, model, notes = training(method, ema, loss=Collapses)
    run.advance()
    run.finish()
    assert notes.notes == [
        f"training with {method} collapsed by epoch 4: PGD broke what it had held. It went on from the weights before,"
        " with two steps"
    ]
    assert Collapses.passes[:24] == [1] * 24
    assert Collapses.passes[24:] == [2] * 12
    assert (
        Guard(model, [], split(), eps=EPS, seed=9, device=CPU, memory_format=torch.channels_last).robust_accuracy()
        > 0.9
    )


def test_without_the_guard_it_stays_collapsed() -> None:
    """The check that the test above can fail."""
    run, model, notes = training(loss=Collapses, eps=0.0)
    run.advance(24)
    run.finish()
    assert notes.notes == []
    assert (
        Guard(model, [], split(), eps=EPS, seed=9, device=CPU, memory_format=torch.channels_last).robust_accuracy()
        < 0.1
    )


@pytest.mark.parametrize("method", ["n_fgsm", "fgsm_rs", "pgd", "none"])
def test_what_does_not_collapse_is_trained_as_without_it(method: str) -> None:
    """To the last bit."""
    (one, model, notes), (other, bare, _) = training(method), training(method, eps=0.0)
    for run in (one, other):
        run.advance()
        run.finish()
    assert notes.notes == []
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), bare.parameters(), strict=True))


@pytest.mark.parametrize("cut", [7, 18, 23, 24, 25, 31])
def test_a_run_that_was_cut_off_collapses_alike(cut: int) -> None:
    """Before, at and after the collapse: the continued run is the undisturbed one, bit for bit."""
    whole, model, _ = training(ema=0.9, loss=Collapses)
    whole.advance()
    whole.finish()
    Collapses.seen, Collapses.passes = 0, []
    first, _, _ = training(ema=0.9, loss=Collapses)
    first.advance(cut)
    second, again, notes = training(ema=0.9, loss=Collapses)
    second.restore(first.state())
    second.advance()
    second.finish()
    assert len(notes.notes) == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_falling_accuracy_with_a_growing_loss_is_no_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that diverges or starts to learn is left alone."""
    model = network()
    guard = Guard(model, [], split(), eps=EPS, seed=1, device=CPU, memory_format=torch.channels_last)
    found = iter([0.6, 0.2, 0.5, 0.2])
    monkeypatch.setattr(guard, "robust_accuracy", lambda: next(found))
    assert [guard.look(loss, epoch) for epoch, loss in enumerate([1.0, 1.1, 0.9, 0.8])] == [False, False, False, True]


def test_a_team_is_watched_by_its_mean() -> None:
    """Members' logits come stacked."""
    model = Members([network(), network()])
    guard = Guard(model, [], split(), eps=EPS, seed=1, device=CPU, memory_format=torch.channels_last)
    assert 0 <= guard.robust_accuracy() <= 1
    assert model.training


def test_two_steps_stay_in_the_ball_and_end_with_the_block() -> None:
    """N-FGSM's noise goes beyond it; two steps of PGD do not."""
    images = torch.full((2, 1, 4, 4), 0.5)
    passes: list[int] = []

    def objective(x: Tensor) -> Tensor:
        passes.append(1)
        return x.square().sum()

    attack = TrainingAttack(method="n_fgsm")
    for needed, expected in ((True, 2), (False, 1)):
        passes.clear()
        with at_least_two_steps(needed):
            moved = perturb(objective, images, eps=EPS, attack=attack, generator=torch.Generator().manual_seed(0))
        assert len(passes) == expected
        assert not needed or float((moved - images).abs().max()) <= EPS + 1e-6
