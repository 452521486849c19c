"""The training loop."""

import math
import random
import re

import numpy as np
import pytest
import torch
from torch import nn

from eed_search.config.spec import Recipe, TrainingAttack
from eed_search.core.errors import Diverged
from eed_search.data.splits import Split
from eed_search.training.loop import Training, _Average, learning_rate_factor, train
from eed_search.training.recovery import DistillRecovery, LabelRecovery, distill_loss, soft_label_loss

ATTACK = TrainingAttack(steps=1)
RECIPE = Recipe(epochs=3, batch_size=16, lr=0.1, ema=0.9, attack=ATTACK)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(65, 1, 4, 4, generator=generator)  # 65: the last batch would hold one image
    return Split(images, (images.mean((1, 2, 3)) > 0.5).long())


def test_training_lowers_the_loss(split):
    """Three epochs on an easy problem."""
    losses = train(network(), split, RECIPE, LabelRecovery(0.01, ATTACK), seed=0).losses
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_bits(split):
    """Order, augmentation and attacks all come from the seed."""
    first, second = network(), network()
    for model in (first, second):
        torch.rand(7)  # the global generator plays no part
        train(model, split, RECIPE, LabelRecovery(0.05, ATTACK), seed=5)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_half_an_epoch_takes_half_of_the_steps(split):
    """Fractions of an epoch are allowed, zero trains nothing."""
    loss = LabelRecovery(0.0, ATTACK)
    assert train(network(), split, RECIPE.model_copy(update={"epochs": 0.5}), loss, seed=0).num_steps == 3
    model, untouched = network(), network()
    assert train(model, split, RECIPE.model_copy(update={"epochs": 0}), loss, seed=0).num_steps == 0
    assert torch.equal(model[0].weight, untouched[0].weight)


def test_divergence_is_an_outcome_with_advice(split):
    """A NaN loss ends the run with its reason."""
    with pytest.raises(Diverged, match="lower the learning rate or set clip_norm"):
        train(network(), split, RECIPE, lambda model, x, y, g: model(x).sum() * math.nan, seed=0)


def test_masked_weights_are_zero_after_training(split):
    """Masks hold through momentum, decay and averaging."""
    model = network()
    mask = torch.rand(model[4].weight.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    train(model, split, RECIPE, LabelRecovery(0.01, ATTACK), seed=0, masks={"4.weight": mask})
    assert not bool(model[4].weight[~mask].any())
    assert bool((model[4].weight[mask] != 0).all())


def test_the_attack_does_not_feed_batch_norm(split):
    """With a learning rate too small to matter, statistics are those of one pass a step, not of the attack's."""
    few, many = network(), network()
    for model, steps in ((few, 1), (many, 5)):
        attack = TrainingAttack(steps=steps)
        recipe = RECIPE.model_copy(update={"lr": 1e-12, "ema": 0.0, "epochs": 1})
        train(model, split, recipe, LabelRecovery(0.0, attack), seed=0)
    torch.testing.assert_close(few[1].running_mean, many[1].running_mean)
    assert int(few[1].num_batches_tracked) == int(many[1].num_batches_tracked) == 5


def test_averaged_weights_by_hand():
    """The decay warms up: 1/10, 2/11, … up to its value."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = _Average(model, 0.15)
    model.weight.data.fill_(1.0)
    average.update(model, 0)  # decay min(0.15, 0.1)
    average.update(model, 1)  # decay min(0.15, 2/11)
    average.copy_to(model)
    assert float(model.weight.detach()) == pytest.approx(0.15 * 0.9 + 0.85)


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0.9, 1),
        ("cosine", 0.5, 0.5),
        ("multistep", 0.6, 0.1),
        ("multistep", 0.8, 0.01),
        ("one_cycle", 0.2, 1),
    ],
)
def test_schedules(schedule, progress, factor):
    """Known values."""
    assert learning_rate_factor(schedule, progress) == pytest.approx(factor)


def test_distillation_is_zero_at_the_teacher():
    """A student that answers as the teacher does, on both images, has nothing to learn."""
    logits = torch.randn(4, 3)
    target = logits.softmax(-1)
    assert float(distill_loss(logits, logits, target)) == pytest.approx(0, abs=1e-5)
    shifted = logits + torch.randn(4, 3)
    expected = 5 / 6 * soft_label_loss(shifted, target)
    torch.testing.assert_close(distill_loss(shifted, logits, target), expected, atol=1e-5, rtol=1e-5)


def test_distillation_does_not_look_at_labels(split):
    """Wrong labels change nothing."""
    teacher = network(1).eval()
    first, second = network(), network()
    for model, labels in ((first, split.labels), (second, 1 - split.labels)):
        train(model, Split(split.images, labels), RECIPE, DistillRecovery(0.05, ATTACK, teacher), seed=0)
    assert torch.equal(first[4].weight, second[4].weight)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_run_continued_from_its_state_ends_with_the_same_bits(split, ema, stop):
    """Momentum, averages, order, augmentation and attacks all go on where they were, mid-epoch too."""
    recipe = RECIPE.model_copy(update={"ema": ema})
    loss = LabelRecovery(0.05, ATTACK)
    whole = Training(network(), split, recipe, loss, seed=5, augment="crop_flip")
    whole.advance()
    first = Training(network(), split, recipe, loss, seed=5, augment="crop_flip")
    first.advance(stop)
    state = first.state()
    first.advance()  # going on does not change what was kept
    model = network(seed=9)
    second = Training(model, split, recipe, loss, seed=5, augment="crop_flip")
    second.restore(state)
    second.advance()
    result = second.finish()
    assert result == whole.finish()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), _state(whole).values(), strict=True))


def test_a_network_that_draws_for_itself_goes_on_with_equal_bits(split):
    """Dropout draws from the process's own generator; user code may draw from numpy's and Python's."""

    def noisy(model, images, labels, generator):
        noise = np.random.standard_normal() + random.gauss(0, 1)
        return nn.functional.cross_entropy(model(images + 0.01 * noise), labels)

    def dropping():
        return nn.Sequential(network(), nn.Dropout(0.5))

    whole = Training(dropping(), split, RECIPE, noisy, seed=5)
    whole.advance(7)
    state = whole.state()
    whole.advance()
    torch.rand(5), np.random.standard_normal(), random.gauss(0, 1)  # another process is elsewhere in its numbers
    again = Training(dropping(), split, RECIPE, noisy, seed=5)
    again.restore(state)
    again.advance()
    assert again.finish() == whole.finish()
    assert all(torch.equal(a, b) for a, b in zip(_state(again).values(), _state(whole).values(), strict=True))


def _state(run):
    return {name.removeprefix("model/"): t for name, t in run.state().items() if name.startswith("model/")}


class Clock:
    """A clock that takes a fixed time for each look at it."""

    def __init__(self, tick_s):
        self.now, self.tick_s = 0.0, tick_s

    def __call__(self):
        self.now += self.tick_s
        return self.now


def test_within_a_long_epoch_a_line_says_how_far_it_is(split):
    """A step takes 4 s: every step is a line, with the fraction of the epoch, the loss and the time left."""
    lines = []
    run = Training(
        network(), split, RECIPE, LabelRecovery(0.01, ATTACK), seed=0, report=lines.append, clock=Clock(tick_s=4.0)
    )
    run.advance()
    assert run.steps_per_epoch == 5
    assert len(lines) == run.num_steps == 15
    assert re.fullmatch(r"epoch 0\.2 of 3, loss 0\.\d+", lines[0])
    assert re.fullmatch(r"epoch 0\.6 of 3, loss 0\.\d+, about 50 s left", lines[2])
    assert re.fullmatch(r"epoch 1 of 3, loss 0\.\d+, about 40 s left", lines[4])
    assert re.fullmatch(r"epoch 3 of 3, loss 0\.\d+", lines[-1])


def test_within_an_epoch_of_minutes_even_hundredths_are_shown(split):
    """A step takes 40 s and an epoch two hundred: the line still changes with each."""
    lines = []
    run = Training(
        network(), split, RECIPE, LabelRecovery(0.01, ATTACK), seed=0, report=lines.append, clock=Clock(tick_s=40.0)
    )
    run.advance(3)
    assert lines[-1].startswith("epoch 0.60 of 3, loss 0.")
    assert lines[-1].endswith(", about 8 min 00 s left")


def test_fast_steps_are_one_line_an_epoch(split):
    """A thousand steps a second: no step is held up for a line."""
    lines = []
    clock = Clock(tick_s=0.001)
    train(network(), split, RECIPE, LabelRecovery(0.01, ATTACK), seed=0, report=lines.append, clock=clock)
    assert [line.partition(",")[0] for line in lines] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]


def test_half_an_epoch_ends_at_half(split):
    """The last line names what was trained, and no whole epoch."""
    lines = []
    recipe = RECIPE.model_copy(update={"epochs": 0.5})
    clock = Clock(tick_s=0.001)
    train(network(), split, recipe, LabelRecovery(0.01, ATTACK), seed=0, report=lines.append, clock=clock)
    assert len(lines) == 1
    assert lines[0].startswith("epoch 0.5 of 0.5, loss ")


def test_lines_change_no_bit(split):
    """A line after every step or none at all: the same losses and weights."""
    results, states = [], []
    for tick_s in (0.0, 10.0):
        model = network()
        clock = Clock(tick_s)
        results.append(train(model, split, RECIPE, LabelRecovery(0.05, ATTACK), seed=5, augment=True, clock=clock))
        states.append(model.state_dict())
    assert results[0] == results[1]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_run_that_goes_on_measures_its_own_steps(split):
    """What was done before a kill says nothing about how fast this process is."""
    loss, lines = LabelRecovery(0.01, ATTACK), []
    first = Training(network(), split, RECIPE, loss, seed=0)
    first.advance(10)
    second = Training(network(), split, RECIPE, loss, seed=0, report=lines.append, clock=Clock(tick_s=4.0))
    second.restore(first.state())
    second.advance(2)
    assert lines[0] == "goes on at epoch 2 of 3"
    assert re.fullmatch(r"epoch 2\.2 of 3, loss 0\.\d+", lines[1])
    assert re.fullmatch(r"epoch 2\.4 of 3, loss 0\.\d+, about 10 s left", lines[2])
