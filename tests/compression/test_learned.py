"""Learned masks: exact counts, gradients straight through, a budget that holds, members that are what was learned."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from eed_search.compression.channels import channel_groups, remove_channels
from eed_search.compression.contract import Target
from eed_search.compression.learned import BudgetLoss, exact_counts, learned
from eed_search.compression.masked_network import MaskedChannels, MaskedWeights, top_count
from eed_search.compression.member import Member
from eed_search.compression.scores import erm
from eed_search.config.kept_channels import kept_channels
from eed_search.config.spec import Learned, Members, Recipe, TrainingAttack
from eed_search.models import count_macs
from eed_search.training.recovery import LabelRecovery

from .conftest import batch_of
from .test_radmm import SHAPE, Kept, work

ATTACK = TrainingAttack(steps=1)


def members(granularity, **changes):
    recipe = Learned(**({"epochs": 2, "batch_size": 16, "attack": ATTACK} | changes))
    return Members(
        granularity=granularity, block=2, learned=recipe, finetune=Recipe(epochs=1, batch_size=16, attack=ATTACK)
    )


def with_scores(model, checkpoint=None, shape=SHAPE):
    return replace(work(shape, checkpoint), scores=lambda: erm(model, batch_of(shape)))


def masked_weights(model, size=0.3, **changes):
    names = [name for name, p in model.named_parameters() if p.ndim > 1]
    start = [model.get_parameter(name).detach().abs() for name in names]
    return MaskedWeights(model, names, start, size, Learned(**changes))


def masked_channels(model, size=0.5, shape=SHAPE, **changes):
    groups = channel_groups(model, shape)
    generator = torch.Generator().manual_seed(0)
    start = [torch.rand(g.num_channels, generator=generator) for g in groups]
    return groups, MaskedChannels(model, groups, start, size, 2, Learned(**changes))


def test_at_first_every_layer_keeps_the_size(cnn):
    network = masked_weights(cnn, 0.3)
    torch.testing.assert_close(network.keep_rates().detach(), torch.full((4,), 0.3))
    assert network.counts() == [max(1, round(0.3 * s.numel())) for s in network.scores]
    assert network.excess() == 0


def test_ties_give_exact_counts():
    assert top_count(torch.ones(10), 3).tolist() == [True] * 3 + [False] * 7


def test_the_masked_network_answers_as_one_with_zeroed_weights(cnn):
    images = batch_of(SHAPE).images
    network = masked_weights(cnn, 0.3).eval()
    masks = network.masks_of(network.counts())
    answer = network(images)
    with torch.no_grad():
        for name, mask in zip(network._names, masks, strict=True):
            cnn.get_parameter(name).mul_(mask)
    torch.testing.assert_close(answer, cnn(images))


@pytest.mark.parametrize("kind", ["cnn", "resnet", "mobilenet"])
def test_masked_channels_answer_as_removed_ones(kind, request):
    """After the batch norm a masked channel says 0, residual sums included."""
    model, shape = request.getfixturevalue(kind), SHAPE if kind == "cnn" else (3, 16, 16)
    groups, network = masked_channels(copy.deepcopy(model), shape=shape)
    masks = network.masks_of(network.counts())
    smaller = remove_channels(model, shape, list(zip(groups, masks, strict=True)))
    images = batch_of(shape).images
    torch.testing.assert_close(network.eval()(images), smaller(images), rtol=1e-4, atol=1e-5)


def test_gradients_pass_straight_through_the_choice():
    """For the loss <g, M>: scores get g, dropped entries too; a_l gets the sum of g times dk/da."""
    layer = nn.Linear(4, 2, bias=False)
    network = masked_weights(nn.Sequential(layer), 0.5)
    images = torch.eye(4)
    (network.train()(images) * torch.arange(8.0).view(4, 2)).sum().backward()
    expected = (torch.arange(8.0).view(4, 2).T * layer.weight.detach()).flatten()
    torch.testing.assert_close(network.scores[0].grad, expected)
    sigmoid = torch.sigmoid(network.rates.detach())
    torch.testing.assert_close(network.rates.grad, expected.sum() * 0.95 * sigmoid * (1 - sigmoid))
    assert layer.weight.grad is None


def test_attacks_see_the_mask_that_the_step_left(cnn):
    """The choice is kept between two training passes, and made anew after one."""
    network = masked_weights(cnn).eval()
    images = batch_of(SHAPE).images
    before = network(images)
    with torch.no_grad():
        for score in network.scores:
            score.neg_()
    assert torch.equal(network(images), before)
    network.train()(images)
    assert not torch.equal(network.eval()(images), before)


def test_the_budgets_weight_grows_only_over_budget(cnn):
    loss = BudgetLoss(LabelRecovery(0.05, ATTACK), 0.25)
    network = masked_weights(cnn)
    batch = batch_of(SHAPE)
    generator = torch.Generator().manual_seed(0)
    loss(network, batch.images, batch.labels, generator)
    assert float(network.phi) == 0
    with torch.no_grad():
        network.rates += 1
    for expected in (0.25, 0.5):
        value = loss(network, batch.images, batch.labels, generator)
        assert float(network.phi) == expected
    value.backward()
    assert bool((network.rates.grad > 0).any())


@pytest.mark.parametrize("shifts", [(0, 0, 0, 0), (2, -1, 0.5, 3), (-3, -3, -3, -3)])
def test_the_counts_use_the_whole_budget_and_no_more(cnn, shifts):
    network = masked_weights(cnn, 0.3)
    with torch.no_grad():
        network.rates += torch.tensor(shifts)
    counts = exact_counts(network)
    assert sum(counts) == network.allowed
    assert all(1 <= c <= s.numel() for c, s in zip(counts, network.scores, strict=True))


def test_channel_counts_are_whole_blocks_within_the_budget(cnn):
    _, network = masked_channels(cnn)
    with torch.no_grad():
        network.rates += torch.tensor([1.5, -1.0, 0.2])
    counts = exact_counts(network)
    assert sum(counts) <= network.allowed == 4 + 8 + 16
    assert sum(counts) > network.allowed - 2
    assert all(c % 2 == 0 for c in counts)


def test_weights_are_learned_to_an_exact_count(cnn):
    """The member keeps as many weights as one-shot pruning of the same size, and they stay zero elsewhere."""
    total = sum(p.numel() for p in cnn.parameters() if p.ndim > 1)
    member = learned(cnn, Target(0.25, members("unstructured")), with_scores(cnn))
    counts = {name: int(mask.sum()) for name, mask in member.masks.items()}
    assert sum(counts.values()) == pytest.approx(0.25 * total, abs=3)
    for name, mask in member.masks.items():
        assert not bool(member.model.get_parameter(name)[~mask].any())


def test_with_a_layer_budget_every_layer_keeps_its_share(cnn):
    member = learned(cnn, Target(0.25, members("unstructured", budget="layer")), with_scores(cnn))
    assert all(int(mask.sum()) == max(1, round(0.25 * mask.numel())) for mask in member.masks.values())
    member = learned(cnn, Target(0.5, members("channel", budget="layer")), with_scores(cnn))
    kept = [m.out_channels for m in member.model.modules() if isinstance(m, nn.Conv2d)]
    assert kept == [kept_channels(n, 0.5, 2) for n in (8, 16, 32)]


def test_learning_changes_what_is_kept(cnn):
    """A high rate of learning on the scores leaves another mask than magnitude does."""
    start = learned(cnn, Target(0.25, members("unstructured", budget="layer", lr=1e-9)), with_scores(cnn))
    moved = learned(cnn, Target(0.25, members("unstructured", budget="layer", lr=1.0)), with_scores(cnn))
    assert any(not torch.equal(start.masks[name], moved.masks[name]) for name in start.masks)


def test_channels_are_physically_removed(cnn):
    member = learned(cnn, Target(0.5, members("channel")), with_scores(cnn))
    assert not member.masks
    assert count_macs(member.model, SHAPE) < count_macs(cnn, SHAPE)
    assert member.size_bytes < Member(cnn).size_bytes


@pytest.mark.parametrize("granularity", ["unstructured", "channel"])
def test_a_member_made_in_two_pieces_is_the_same_member(cnn, granularity):
    before = {name: t.clone() for name, t in cnn.state_dict().items()}
    kept = Kept()
    target = Target(0.5, members(granularity))
    whole = learned(cnn, target, with_scores(cnn, kept))
    again = learned(cnn, target, with_scores(cnn, Kept(kept.states[0])))
    state = again.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.model.state_dict().items())
    assert all(torch.equal(before[name], t) for name, t in cnn.state_dict().items())
