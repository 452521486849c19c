"""Every image that any attack makes is judged on the deployed gate, whatever the attack aimed at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eed_search.core.seeds import seed_of
from eed_search.data.splits import Split
from eed_search.ensemble.gate import GatedEnsemble, MarginGate
from eed_search.evaluation import assess as assess_module
from eed_search.evaluation import probes
from eed_search.evaluation.attacks import NamedAttack
from eed_search.evaluation.attacks.base import TeamAttack
from eed_search.evaluation.attacks.slow_down import SlowDown, slow_down
from eed_search.evaluation.judge import Judge
from eed_search.evaluation.prefixes import Team
from eed_search.evaluation.target import Target
from eed_search.evaluation.tiers import Attack, Found, evaluate, with_broken
from tests.evaluation import defences

EPS = 0.1
NUM = 6
ONLY_GATE = 3  # the sample whose planted image is wrong by the gate alone


class Table(nn.Module):
    """Logits by the mean of an image: bright ones and dark ones answered as told."""

    def __init__(self, bright: list[float], dark: list[float]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor([dark, bright]))

    def forward(self, images: Tensor) -> Tensor:
        return self.rows[(images.flatten(1).mean(1) > 0.55).long()]


def team() -> Team:
    """Dark images: class 0 at once. Bright ones: member 1 says class 1 and stops; all members together say class 0."""
    return GatedEnsemble([Table([0.0, 3.0], [3.0, 0.0]), Table([9.0, 0.0], [3.0, 0.0])], MarginGate(1.0)).eval()


def split() -> Split:
    return Split(torch.full((NUM, 1, 2, 2), 0.5), torch.zeros(NUM, dtype=torch.long))


@dataclass(frozen=True)
class Planted:
    """Gives back what it is told to."""

    attack: Attack
    id: str = "G0"
    name: str = "planted"


def attacks_of(on_team: Attack, on_prefix: Callable[[], Attack]) -> Callable[..., Sequence[Planted]]:
    def make(part: Team, *, eps: float, seed: int) -> Sequence[Planted]:
        return [Planted(on_team if len(part.members) == 2 else on_prefix())]

    return make


def nothing(images: Tensor, labels: Tensor) -> Tensor:
    return images.clone()


def again(images: Tensor, labels: Tensor) -> Tensor:
    raise AssertionError("computed again")


def bright_at(sample: int) -> Attack:
    def attack(images: Tensor, labels: Tensor) -> Tensor:
        moved = images.clone()
        if len(images) == NUM:  # fewer: it is broken already
            moved[sample] += EPS
        return moved

    return attack


def judged(folder: Path, make: Callable[..., Sequence[Planted]], slow: Callable[..., object] | None = None) -> Found:
    return evaluate(team(), split(), make, folder=folder, eps=EPS, seed=0, slow_down=slow)


def test_the_planted_image_is_wrong_by_the_gate_alone() -> None:
    """All members together are right on it, and so no attack on them has a reason to speak of it."""
    bright = torch.full((1, 1, 2, 2), 0.5 + EPS)
    whole = team()
    logs = whole.member_log_probabilities(bright)
    assert int(whole.gate.combine(logs)[-1].argmax()) == 0
    assert int(whole.decide(bright).labels) == 1


def test_an_image_of_an_attack_on_a_prefix_is_judged_on_the_gate(tmp_path: Path) -> None:
    """It breaks the sample, is kept among the broken images, and the attack that made it is named."""
    found = judged(tmp_path, attacks_of(nothing, lambda: bright_at(ONLY_GATE)))
    assert np.flatnonzero(~found.robust_right).tolist() == [ONLY_GATE]
    number = int(found.broken_by[ONLY_GATE])
    assert (found.attacks[number].id, found.attacks[number].num_deployed_broken) == ("P2", 1)
    assert found.attacks[number].num_broken == 0  # all members together, whom it aimed at, are right
    assert found.broken_at.tolist() == [ONLY_GATE]
    assert found.broken_images[0].mean() == pytest.approx(0.5 + EPS)
    assert found.static_right.all()
    assert not found.prefix_right[ONLY_GATE]
    assert found.farthest == pytest.approx(EPS)


def test_an_image_of_the_slow_down_attack_is_judged_too(tmp_path: Path) -> None:
    """Also one on which it lost the label on its way, which it does not give back as its result."""

    def build(part: Team, seed: int) -> Callable[[Tensor], SlowDown]:
        def attack(images: Tensor) -> SlowDown:
            lost = torch.zeros(len(images), dtype=torch.bool)
            lost[ONLY_GATE] = True
            before = part.decide(images)
            moved = bright_at(ONLY_GATE)(images, before.labels)
            return SlowDown(before.labels, before.members_run, before.members_run, images, lost, moved)

        return attack

    found = judged(tmp_path, attacks_of(nothing, lambda: nothing), build)
    assert np.flatnonzero(~found.robust_right).tolist() == [ONLY_GATE]
    use = found.attacks[int(found.broken_by[ONLY_GATE])]
    assert (use.id, use.num_attacked, use.num_broken, use.num_deployed_broken) == ("S1", 6, 1, 1)
    assert found.broken_at.tolist() == [ONLY_GATE]
    assert found.slowed_run is not None
    assert found.slowed_run.tolist() == [1] * 6


def test_the_verdicts_are_read_again_after_a_kill(tmp_path: Path) -> None:
    first = judged(tmp_path, attacks_of(nothing, lambda: bright_at(ONLY_GATE)))
    read = judged(tmp_path, attacks_of(again, lambda: again))
    assert (read.robust_right == first.robust_right).all()
    assert (read.broken_images == first.broken_images).all()


def test_a_slow_down_attack_tells_which_images_lost_the_label() -> None:
    """The real attack, with more budget than the label survives: every lost image is answered otherwise than the clean one."""
    torch.manual_seed(1)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)) for _ in range(2)]
    for member in members:
        member[1].weight.data *= 4
    whole = GatedEnsemble(members, MarginGate(0.4)).eval()
    images = torch.rand(40, 1, 4, 4)
    found = slow_down(whole, images, eps=0.3, steps=20)
    labels = whole.decide(found.lost_images).labels
    assert bool(found.lost.any())
    assert bool((labels[found.lost] != found.labels[found.lost]).all())
    assert bool((found.lost_images[~found.lost] == images[~found.lost]).all())
    assert bool((whole.decide(found.adversarial).labels == found.labels).all())


def test_what_is_judged_twice_counts_once_wrong() -> None:
    """A sample whose first image is wrong stays broken, whatever its second one is."""
    given = split()
    judge = Judge(team(), given.images, given.labels)
    judge.begin(judge.look())
    samples = np.array([0, 1, 0, 1])
    moved = torch.cat([bright_at(0)(given.images, given.labels)[:2], given.images[:2]])
    broken = judge.take(samples, judge.verdict(samples, moved), 7, on_gate=False)
    assert broken.tolist() == [0]
    assert judge.broken_by.tolist() == [7, -1, -1, -1, -1, -1]
    assert judge.prefix_right.tolist() == [False, True, True, True, True, True]


def test_what_a_sanity_checks_attack_breaks_counts_as_broken(tmp_path: Path) -> None:
    """It is named, and the figure that a prefix may be responsible for falls with it; nothing else changes."""
    found = judged(tmp_path, attacks_of(nothing, lambda: nothing))
    broken = np.arange(NUM) == ONLY_GATE
    more = with_broken(found, broken)
    assert np.flatnonzero(~more.robust_right).tolist() == [ONLY_GATE]
    assert not more.prefix_right[ONLY_GATE]
    use = more.attacks[int(more.broken_by[ONLY_GATE])]
    assert (use.id, use.num_deployed_broken) == ("C", 1)
    assert with_broken(more, broken) is more
    assert with_broken(found, np.zeros(NUM, bool)) is found


def test_the_checks_hand_over_what_their_attacks_broke(tmp_path: Path) -> None:
    """A tier without any attack: what PGD and FGSM of the checks break is all that there is, and RA is not above it."""
    given = defences.images_and_labels()
    whole = defences.honest()
    few = Split(given.images[:60], given.labels[:60])
    target = Target("a team", whole, few, "fresh", "quarters", defences.NUM_CLASSES, defences.EPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assess_module, "tier_attacks", lambda team, tier, **how: [NamedAttack("G0", "idle", Idle(team))])
        result = assess_module.assess(target, 1, seed=0, home=tmp_path)
    held = probes.pgd(whole, few, eps=defences.EPS, steps=20, seed=seed_of("0", "check-4"))
    assert result.robust.value <= held.mean() < result.clean.value
    assert result.attacks[-1].id == "C"


class Idle(TeamAttack):
    """Gives every image back as it is."""

    def __init__(self, team: Team) -> None:
        super().__init__("idle", team, eps=defences.EPS, steps=1, restarts=1, seed=0)

    def run(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.clone()
