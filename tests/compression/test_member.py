"""Members: cut, recovered, kept in the store's form and read back."""

import pytest
import torch

from eed_search.compression.member import Member, cut, fresh, from_arrays, recover, reestimate_norms, to_arrays
from eed_search.compression.scores import erm
from eed_search.config.spec import Members, Recipe, TrainingAttack
from eed_search.core.errors import ModelError
from eed_search.data.splits import Split
from eed_search.models import count_macs, signature

from .conftest import batch_of

SHAPE = (1, 8, 8)
CHANNEL = Members(block=4)
UNSTRUCTURED = Members(granularity="unstructured")


def split_of(count=64):
    batch = batch_of(SHAPE, count)
    return Split(batch.images, batch.labels)


def recovered(member, base, recovery="labels", **changes):
    recipe = Recipe(**({"epochs": 1, "batch_size": 16, "attack": TrainingAttack(steps=1)} | changes))
    device = torch.device("cpu")
    return recover(
        member, base, split_of(), recipe,
        recovery=recovery, eps=0.1, seed=0, augment="none", device=device, report=lambda text: None,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [CHANNEL, UNSTRUCTURED], ids=["channel", "unstructured"])
def test_a_member_comes_back_from_its_arrays(settings, cnn, digits_batch):
    """The store's arrays hold everything: same masks, same outputs to the last bit."""
    member = cut(cnn, SHAPE, erm(cnn, digits_batch), 0.5, settings)
    back = from_arrays(cnn, to_arrays(member))
    assert torch.equal(back.model(digits_batch.images), member.model(digits_batch.images))
    assert back.masks.keys() == member.masks.keys()
    assert back.size_bytes == member.size_bytes


def test_weights_of_another_architecture_are_refused(cnn, resnet):
    """A member of one base does not load into another."""
    with pytest.raises(ModelError, match="belong to another architecture"):
        from_arrays(resnet, to_arrays(Member(cnn)))


def test_a_channel_member_is_physically_smaller(cnn, digits_batch):
    """A quarter of the work at half of the channels, and about a quarter of the bytes."""
    member = cut(cnn, SHAPE, erm(cnn, digits_batch), 0.5, CHANNEL)
    assert count_macs(member.model, SHAPE) < 0.3 * count_macs(cnn, SHAPE)
    assert member.size_bytes < 0.35 * Member(cnn).size_bytes


def test_masked_weights_stay_zero_through_momentum_decay_and_averaging(cnn, digits_batch):
    """After fine-tuning every masked-out weight is exactly zero, every kept count unchanged."""
    member = cut(cnn, SHAPE, erm(cnn, digits_batch), 0.2, UNSTRUCTURED)
    kept = {name: int(mask.sum()) for name, mask in member.masks.items()}
    tuned = recovered(member, cnn, momentum=0.9, weight_decay=0.1)
    for name, mask in tuned.masks.items():
        assert int(mask.sum()) == kept[name]
        assert not bool(tuned.model.get_parameter(name)[~mask].any())


@pytest.mark.parametrize("recovery", ["labels", "distill"])
def test_the_same_seed_gives_the_same_bits(recovery, cnn, digits_batch):
    """A stage is a pure function: twice the same fine-tune, twice the same weights."""
    first, second = (
        recovered(cut(cnn, SHAPE, erm(cnn, digits_batch), 0.5, CHANNEL), cnn, recovery).model.state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_recovery_does_not_touch_the_base(cnn, digits_batch):
    """The teacher of distillation is a copy."""
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    recovered(cut(cnn, SHAPE, erm(cnn, digits_batch), 0.5, CHANNEL), cnn, "distill")
    assert all(torch.equal(before[name], value) for name, value in cnn.state_dict().items())


def test_reestimated_statistics_are_those_of_the_images(cnn):
    """The first batch norm then sees mean 0 and variance 1 before its own scale."""
    split = split_of(256)
    reestimate_norms(cnn, split, batch_size=256)
    before_norm = cnn.features[0](cnn.normalise(split.images))
    torch.testing.assert_close(cnn.features[1].running_mean, before_norm.mean((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert cnn.features[1].momentum == 0.1


def test_the_control_has_a_members_architecture_and_fresh_weights(cnn, digits_batch):
    """Same shapes as a pruned member, other weights for another seed, the base untouched."""
    member = cut(cnn, SHAPE, erm(cnn, digits_batch), 0.5, CHANNEL)
    baseline, other = fresh(cnn, SHAPE, 0.5, 4, 0), fresh(cnn, SHAPE, 0.5, 4, 1)
    assert signature(baseline, SHAPE) == signature(member.model, SHAPE)
    assert not torch.equal(baseline.classifier.weight, other.classifier.weight)
    assert torch.equal(baseline.features[1].running_mean, torch.zeros(4))


def test_a_score_that_is_not_finite_is_refused(cnn, digits_batch):
    """A diverged base is named before anything is cut."""
    scores = dict(erm(cnn, digits_batch))
    scores["classifier.weight"] = scores["classifier.weight"] * float("nan")
    with pytest.raises(ModelError, match=r"score of classifier\.weight is not finite"):
        cut(cnn, SHAPE, scores, 0.5, CHANNEL)
