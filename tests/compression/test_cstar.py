"""CSTAR members: within the budget, factored where it pays, made alike in one piece or two."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from eed_search.compression.contract import Target
from eed_search.compression.cstar import RankBudget, cstar, rank_budget
from eed_search.compression.lowrank import Rank, nearest
from eed_search.compression.member import Member
from eed_search.compression.prune import retrain
from eed_search.config.spec import Cstar, Members, Recipe, TrainingAttack
from eed_search.core.errors import ModelError
from eed_search.core.seeds import seed_of
from eed_search.models.factored import Factored
from eed_search.training.loop import train
from eed_search.training.recovery import LabelRecovery

from .test_radmm import Kept, work

ATTACK = TrainingAttack(steps=1)
RECIPE = Cstar(block=1, epochs=1, batch_size=16, updates=2, rho=0.5, attack=ATTACK)
MEMBERS = Members(cstar=RECIPE, finetune=Recipe(epochs=1, batch_size=16, attack=ATTACK))


@pytest.mark.parametrize("size", [0.5, 0.25])
def test_what_ships_is_within_the_size(cnn, size):
    """Biases and batch norm count."""
    member = cstar(cnn, Target(size, MEMBERS), work())
    assert 0.8 * size < member.size_bytes / Member(cnn).size_bytes <= size
    assert any(isinstance(m, Factored) for m in member.model.modules())


def test_a_residual_network_is_factored_too(resnet):
    member = cstar(resnet, Target(0.25, MEMBERS), work((3, 16, 16)))
    assert member.size_bytes <= 0.25 * Member(resnet).size_bytes
    assert member.model(torch.rand(2, 3, 16, 16)).shape == (2, 10)


def test_at_full_size_it_is_plain_adversarial_training(cnn):
    """Nothing is constrained: the training of the stage and the fine-tune, to the last bit."""
    member = cstar(cnn, Target(1.0, MEMBERS), work())
    plain = copy.deepcopy(cnn)
    train(plain, work().split, RECIPE, LabelRecovery(0.05, ATTACK), seed=1)
    plain = retrain(Member(plain), cnn, Target(1.0, MEMBERS), work(), seed=seed_of("1", "retrain")).model
    state = member.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())


def test_a_member_made_in_two_pieces_is_the_same_member(cnn):
    """The checkpoint holds the ranks beside Z, U and rho; the base is left alone."""
    before = {name: t.clone() for name, t in cnn.state_dict().items()}
    kept = Kept()
    whole = cstar(cnn, Target(0.4, MEMBERS), work(checkpoint=kept))
    again = cstar(cnn, Target(0.4, MEMBERS), work(checkpoint=Kept(kept.states[0])))
    state = again.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.model.state_dict().items())
    assert all(torch.equal(before[name], t) for name, t in cnn.state_dict().items())


def test_layers_that_cannot_be_factored_stay_dense_and_are_named(cnn):
    """Grouped convolutions keep their form; the line of progress says which layers are dense."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 3, padding=1),
        nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip
    lines = []
    told = replace(work(), report=lines.append)
    member = cstar(model, Target(0.3, MEMBERS), told)
    assert isinstance(member.model[1], nn.Conv2d)
    (line,) = [line for line in lines if "factored; dense" in line]
    assert "dense: 0, 1" in line or "dense: 1" in line


def test_a_mobilenet_is_factored_but_for_its_depth_wise_layers(mobilenet):
    lines = []
    member = cstar(mobilenet, Target(0.6, MEMBERS), replace(work((3, 16, 16)), report=lines.append))
    assert member.size_bytes <= 0.6 * Member(mobilenet).size_bytes
    dense = next(line for line in lines if "factored; dense" in line)
    depth_wise = [n for n, m in mobilenet.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depth_wise) == 17
    assert all(f" {name}," in f"{dense}," for name in depth_wise)


def test_ranks_are_frozen_once_they_came_out_alike_three_times():
    generator = torch.Generator().manual_seed(0)
    allowed = RankBudget(["a"], 150, 1)
    weight = torch.randn(20, 20, generator=generator)
    for expected in (False, False, True):
        (near,) = allowed({"a.weight": weight}).values()
        assert allowed.settled is expected
    assert allowed.ranks == {"a": Rank(3, 3)}
    torch.testing.assert_close(near, nearest(weight, Rank(3, 3)))
    again = RankBudget(["a"], 150, 1)
    again.restore(allowed.state())
    assert again.ranks == allowed.ranks
    assert again.settled


def test_a_network_without_layers_to_factor_is_refused():
    with pytest.raises(ModelError, match="no layer can be factored; take method prune or radmm"):
        rank_budget(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), 0.5, 1)


def test_a_size_that_the_smallest_ranks_exceed_is_refused(cnn):
    """56 scales, 56 shifts, 112 statistics and 10 biases stay; 18 + 33 + 57 + 42 are left at ranks of one."""
    said = "size 0.05 is below what low rank can reach, 0.0601: of 6386 parameters 234 are .* 150 stay"
    with pytest.raises(ModelError, match=said):
        rank_budget(cnn, 0.05, 1)
    assert rank_budget(cnn, 0.061, 1)[1] >= 150
