"""Takes what each of the eleven checks needs, and keeps each verdict in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch

from eed_search.core.errors import ModelError
from eed_search.core.seeds import seed_of
from eed_search.data.splits import Split
from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation import probes, sanity
from eed_search.evaluation.attacks.victim import PassMeter
from eed_search.evaluation.prefixes import Team
from eed_search.evaluation.sanity import Flags
from eed_search.evaluation.steps import Arrays, Steps
from eed_search.evaluation.target import Target, Tier
from eed_search.evaluation.tiers import BLACK_BOX, EXECUTED_PATH, Found, Named, Report, passes_told
from eed_search.models import place
from eed_search.runs.attack_records import Check

_SOME = 256  # samples that the cheap checks look at
_FEW = 64  # samples that the dear ones look at
_PGD_STEPS = 20
_LONG = (4, 5, 6, 7)  # those that attack; the others export copies, which are to carry no hook


class Checker:
    """Takes what each check needs, in order, and keeps each verdict in a file."""

    def __init__(
        self,
        target: Target,
        team: Team,
        split: Split,
        found: Found,
        certified: Flags | None,
        make_attacks: Callable[..., Sequence[Named]],
        tier: Tier,
        seed: int,
        steps: Steps,
        report: Report,
    ) -> None:
        self.target, self.team, self.split, self.found, self.certified = target, team, split, found, certified
        self.make_attacks, self.tier, self.seed, self.steps, self.report = make_attacks, tier, seed, steps, report
        self.some = Split(split.images[:_SOME], split.labels[:_SOME])
        self.eps = target.eps
        self.broken = np.zeros(len(split), bool)  # by the checks' own attacks within eps: a break is a break

    def all(self) -> tuple[Check, ...]:
        """Run the eleven checks."""
        checks = (
            self._zero_eps,
            self._inside_ball,
            self._same_answers,
            self._stronger_is_lower,
            self._doubling_steps,
            self._larger_eps,
            self._black_box,
            self._twin,
            self._gradients,
            self._ends,
            self._deployed,
        )
        return tuple(self._kept(number, check) for number, check in enumerate(checks, start=1))

    def _kept(self, number: int, make: Callable[[], Check]) -> Check:
        def compute() -> Arrays:
            title = f"check {number} of 11"
            self.report(title)
            before, self.broken = self.broken, np.zeros(len(self.split), bool)
            with PassMeter(self.team, passes_told(self.report, title)) if number in _LONG else nullcontext():
                check = make()
            broken, self.broken = self.broken, before
            return {"broken": broken, "passed": np.array(check.passed), "seen": np.array(check.seen), "applies": np.array(check.applies), "name": np.array(check.name)}  # fmt: skip

        kept = self.steps.get(f"checks/{number:02d}", compute)
        self.broken |= kept["broken"]
        return Check(number, str(kept["name"]), bool(kept["passed"]), str(kept["seen"]), bool(kept["applies"]))

    def _seed(self, number: int) -> int:
        return seed_of(str(self.seed), f"check-{number}")

    def _standard(self, seed: int, eps: float | None = None) -> list[Named]:
        """The tier's attacks that know no gate; all of them where none has that id."""
        attacks = self.make_attacks(self.team, eps=self.eps if eps is None else eps, seed=seed)
        return [one for one in attacks if one.id in EXECUTED_PATH] or list(attacks)

    def _zero_eps(self) -> Check:
        some, before = self.some, self.found.clean_right[:_SOME]
        at_zero = probes.pgd(self.team, some, eps=0.0, steps=2, seed=self._seed(1))
        for attack in self._standard(self._seed(1), eps=0.0)[:1]:
            at_zero = at_zero & probes.right(self.team, Split(attack.attack(some.images, some.labels), some.labels))
        # `before` was seen before any attack ran: one that changed the networks shows here
        return sanity.zero_eps(
            before, at_zero, self.target.recorded and (*self.target.recorded, self.found.clean_right)
        )

    def _inside_ball(self) -> Check:
        return sanity.inside_ball(self.found.farthest, self.found.outside, self.eps)

    def _same_answers(self) -> Check:
        return sanity.same_answers(*probes.asked_in_many_ways(self.team, self.some.images, self._seed(3)))

    def _stronger_is_lower(self) -> Check:
        team, some, eps, found = self.team, self.some, self.eps, self.found
        names = [use.name for use in found.attacks]
        by = found.broken_by[:_SOME]
        apgd = next((i for i, name in enumerate(names) if name.startswith("APGD-CE")), 0)
        clean = found.clean_right[:_SOME]
        few = Split(some.images[:_FEW], some.labels[:_FEW])
        attack = self._standard(self._seed(4))[0].attack
        rows = [
            ("clean", clean),
            ("noise", probes.noise(team, some, eps=eps, seed=self._seed(4))),
            ("FGSM", probes.fgsm(team, some, eps=eps)),
            ("PGD-20", probes.pgd(team, some, eps=eps, steps=_PGD_STEPS, seed=self._seed(4))),
            ("APGD", clean & ~((by >= 0) & (by <= apgd))),
            ("union", found.robust_right[:_SOME]),
        ]
        for _, right in rows[1:4]:
            self.broken[: len(right)] |= clean & ~right
        missed = probes.missed_on_the_way(team, attack, few, eps=eps)
        impossible = 0 if self.certified is None else int((self.certified & ~found.robust_right).sum())
        return sanity.stronger_is_lower(rows, missed, impossible)

    def _doubling_steps(self) -> Check:
        held = torch.from_numpy(np.flatnonzero(self.found.robust_right)[: _FEW if self.tier == 1 else _SOME])
        attacks = probes.doubled(self._standard(self._seed(5)))
        if not len(held):
            return sanity.doubling_steps(0, 0, 0.0)
        if not attacks:
            return sanity.not_applicable(5, "no attack has a number of steps")
        left = Split(self.split.images[held], self.split.labels[held])
        holds = np.ones(len(held), bool)
        for attack in attacks:
            alive = torch.from_numpy(np.flatnonzero(holds))
            if len(alive):
                part = Split(left.images[alive], left.labels[alive])
                with torch.random.fork_rng():
                    moved = attack.attack(part.images, part.labels).detach()
                holds[alive.numpy()] = probes.right(self.team, Split(moved, part.labels))
        self.broken[held.numpy()] |= ~holds
        return sanity.doubling_steps(int((~holds).sum()), len(held), float(self.found.robust_right.mean()))

    def _larger_eps(self) -> Check:
        half = Split(self.some.images[: _SOME // 2], self.some.labels[: _SOME // 2])
        budgets = sorted({eps for eps in (self.eps / 2, self.eps, 2 * self.eps) if eps < 0.5} | {0.5, 1.0})
        rows = []
        for eps in budgets:
            huge = eps >= 0.5
            held = probes.pgd(
                self.team, half, eps=eps, steps=2 * _PGD_STEPS if huge else _PGD_STEPS, seed=self._seed(6)
            )
            if huge:  # so far away the loss has many hills: a smaller step and another start
                held &= probes.pgd(self.team, half, eps=eps, steps=2 * _PGD_STEPS, step_size=eps / 10, seed=self._seed(6) + 1)  # fmt: skip
            if eps == self.eps:
                self.broken[: len(held)] |= self.found.clean_right[: len(held)] & ~held
            rows.append((eps, held))
        return sanity.larger_eps(rows, self.target.num_classes)

    def _black_box(self) -> Check:
        ids = [use.id for use in self.found.attacks if not use.id.startswith("P")]
        blind = [i for i, id_ in enumerate(ids) if id_ in BLACK_BOX]
        if not blind:
            return sanity.not_applicable(7, "no attack without gradients ran")
        return sanity.black_box_adds_little(int(np.isin(self.found.broken_by, blind).sum()), len(self.split))

    def _twin(self) -> Check:
        if self.target.twin is None:
            return sanity.not_applicable(8, "this tool did not train the target")
        twin: Team = GatedEnsemble([place(self.target.twin(), self.split.images.device).eval()], Gate())
        held = probes.pgd(twin, self.some, eps=self.eps, steps=_PGD_STEPS, seed=self._seed(8))
        return sanity.twin_is_broken(self.found.robust_right, held, self.target.twin_at_most)

    def _gradients(self) -> Check:
        half = Split(self.some.images[: _SOME // 2], self.some.labels[: _SOME // 2])
        return sanity.gradients_arrive(probes.shares_without_gradient(self.team, half))

    def _ends(self) -> Check:
        seen = probes.ends(self.team, self.some.images)
        if seen is None:
            return sanity.not_applicable(10, "the gate has no threshold")
        return sanity.ends_of_threshold(*seen)

    def _deployed(self) -> Check:
        if self.target.deploy is None:
            return sanity.not_applicable(11, "the target cannot be deployed by this tool")
        try:
            classifier = self.target.deploy()
        except ModelError as error:
            return sanity.not_applicable(11, str(error))
        labels = self.split.labels.cpu().numpy()[self.found.broken_at]
        saved, replayed = probes.saved_by_deployment(self.team, classifier, self.found.broken_images, labels)
        held = np.flatnonzero(self.found.robust_right)[: _FEW // 2 if self.tier == 1 else _SOME]
        left = Split(self.target.split.images[held], self.target.split.labels[held])
        blind = [one for one in self.make_attacks(probes.deployed_team(classifier, self.team.gate), eps=self.eps, seed=self._seed(11)) if one.name == "Square"]  # fmt: skip
        found = 0
        if len(held) and blind:
            wrong = probes.broken_in_deployment(classifier, blind[0].attack, left)
            self.broken[held] |= wrong
            found = int(wrong.sum())
        return sanity.deployed_falls_too(saved, replayed, found, len(held) if blind else 0)
