"""R-ADMM members: exact counts, zeros that stay, channels that are gone, runs that go on."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from eed_search.compression.channels import channel_groups, remove_channels
from eed_search.compression.contract import Target, Work
from eed_search.compression.projections import irregular
from eed_search.compression.radmm import radmm
from eed_search.config.kept_channels import kept_channels
from eed_search.config.spec import Members, Radmm, Recipe, TrainingAttack
from eed_search.data.splits import Split
from eed_search.models import count_macs
from eed_search.training.checkpoints import NoCheckpoint
from eed_search.training.loop import apply_masks

from .conftest import batch_of

ATTACK = TrainingAttack(steps=1)
SHAPE = (1, 8, 8)


class Kept:
    """A checkpoint in memory, after every step."""

    def __init__(self, state=None):
        self.state, self.states = state, []

    def load(self):
        return self.state

    def save(self, state):
        self.states.append(state)

    def at(self, state):
        self.save(state())

    def part(self, name):
        return NoCheckpoint()


def settings(kind, **changes):
    recipe = Radmm(set=kind, epochs=1, batch_size=16, updates=2, rho=0.5, attack=ATTACK, **changes)
    return Members(block=2, radmm=recipe, finetune=Recipe(epochs=1, batch_size=16, attack=ATTACK))


def work(shape=SHAPE, checkpoint=None):
    batch = batch_of(shape, 32)
    split = Split(batch.images, batch.labels)
    extra = {} if checkpoint is None else {"checkpoint": checkpoint}
    return Work(
        image_shape=shape, split=split, scores=dict, eps=0.05, recovery="labels", seed=1, augment="none",
        device=torch.device("cpu"), report=lambda text: None, **extra,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["irregular", "column"])
def test_masks_have_exact_counts_and_hold_through_retraining(cnn, kind):
    member = radmm(cnn, Target(0.25, settings(kind)), work())
    for name, mask in member.masks.items():
        per = 1 if kind == "irregular" else mask.shape[0]
        columns = mask.numel() // per
        assert int(mask.sum()) == per * max(1, round(0.25 * columns))
        assert not bool(member.model.get_parameter(name)[~mask].any())
    assert set(member.masks) == {f"{n}.weight" for n, m in cnn.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def test_filters_are_physically_removed(cnn):
    """Half of the channels of each layer, in blocks, no masks: a network that is smaller as it stands."""
    member = radmm(cnn, Target(0.5, settings("filter")), work())
    assert not member.masks
    assert [m.out_channels for m in member.model.modules() if isinstance(m, nn.Conv2d)] == [4, 8, 16]
    assert count_macs(member.model, SHAPE) < 0.35 * count_macs(cnn, SHAPE)


@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_residual_groups_are_removed_whole(kind, request):
    """Depth-wise layers too: they go with the channels that they filter."""
    base = request.getfixturevalue(kind)
    member = radmm(base, Target(0.5, settings("filter")), work((3, 16, 16)))
    kept = [group.num_channels for group in channel_groups(member.model, (3, 16, 16))]
    full = [group.num_channels for group in channel_groups(base, (3, 16, 16))]
    assert kept == [kept_channels(n, 0.5, 2) for n in full]


def test_a_removed_channel_equals_a_masked_one_with_its_batch_norm(cnn):
    """To 1e-5; with the weights alone masked, the channel would still say relu(beta - gamma mu / sigma)."""
    groups = channel_groups(cnn, SHAPE)
    keep = {g.producers: torch.arange(g.num_channels) % 2 == 0 for g in groups}
    smaller = remove_channels(cnn, SHAPE, [(g, keep[g.producers]) for g in groups])
    norms = dict(
        zip(
            [m for m in cnn.modules() if isinstance(m, nn.Conv2d)],
            [m for m in cnn.modules() if isinstance(m, nn.BatchNorm2d)],
            strict=True,
        )
    )
    modules = dict(cnn.named_modules())
    images = batch_of(SHAPE).images
    with torch.no_grad():
        for group in groups:
            for name in group.producers:
                modules[name].weight.mul_(keep[group.producers].view(-1, 1, 1, 1))
        half_way = cnn(images)
        for group in groups:
            for name in group.producers:
                norms[modules[name]].weight.mul_(keep[group.producers])
                norms[modules[name]].bias.mul_(keep[group.producers])
    torch.testing.assert_close(smaller(images), cnn(images), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(smaller(images), half_way, atol=1e-3)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_zeros_stay_zero_through_any_optimiser(optimiser):
    """Momentum, decay and Adam's moments would all move them; the mask is applied after every step."""
    torch.manual_seed(0)
    model = nn.Linear(16, 4)
    masks = {"weight": irregular(model.weight, 0.25)}
    steps = (
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        if optimiser == "sgd"
        else torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    )
    for _ in range(10):
        steps.zero_grad()
        functional.cross_entropy(model(torch.randn(8, 16)), torch.randint(0, 4, (8,))).backward()
        steps.step()
        apply_masks(model, masks)
        assert not bool(model.weight[~masks["weight"]].any())
    assert bool(model.weight[masks["weight"]].all())


@pytest.mark.parametrize("kind", ["irregular", "filter"])
def test_a_member_made_in_two_pieces_is_the_same_member(cnn, kind):
    """The checkpoint holds Z, U and rho: the same bits as in one go; the base is left alone."""
    before = {name: t.clone() for name, t in cnn.state_dict().items()}
    kept = Kept()
    target = Target(0.5, settings(kind))
    whole = radmm(cnn, target, work(checkpoint=kept))
    assert len(kept.states) == 1
    again = radmm(cnn, target, work(checkpoint=Kept(kept.states[0])))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert all(torch.equal(before[name], t) for name, t in cnn.state_dict().items())


def test_at_full_size_nothing_is_constrained(cnn):
    """No masks, no penalty, every channel there."""
    for kind in ("irregular", "filter"):
        member = radmm(cnn, Target(1.0, settings(kind)), work())
        assert not member.masks
        assert count_macs(member.model, SHAPE) == count_macs(cnn, SHAPE)
