"""One target's robust accuracy at a tier: attacks, sanity checks, cost, and the badge that they earn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

import eed_search
from eed_search.core.attack_records import SCHEMA_VERSION, AttackResult, Check, Cost
from eed_search.core.errors import ModelError
from eed_search.core.records import Accuracy, Badge, Measurement, RobustAccuracy, from_json, pack_bits, to_json
from eed_search.core.seeds import canonical_json, seed_of
from eed_search.core.store import write_atomic
from eed_search.data.splits import Split
from eed_search.deployment.runtime import GatedClassifier
from eed_search.ensemble.gate import Gate, GatedEnsemble
from eed_search.evaluation import probes, sanity
from eed_search.evaluation.attacks import slow_down, tier_attacks
from eed_search.evaluation.steps import Arrays, Steps
from eed_search.evaluation.tiers import (
    BLACK_BOX,
    EXECUTED_PATH,
    Found,
    Named,
    Report,
    Team,
    evaluate,
    evaluation_key,
    split_key,
)
from eed_search.models import count_macs, place

Tier = Literal[1, 2]
_SOME = 256  # samples that the cheap checks look at
_FEW = 64  # samples that the dear ones look at
_SLOW_DOWN_STEPS = {1: 50, 2: 100}
_PGD_STEPS = 20
_RESULT = "result.json"


@dataclass(frozen=True)
class Timing:
    """What is known of a target's latency.

    Attributes:
        measured: On the search's validation images.
        dense_ms: Latency of the dense base.
    """

    measured: Measurement
    dense_ms: float


@dataclass(frozen=True)
class Target:
    """What is attacked, on which images.

    Attributes:
        name: For people.
        team: Members and gate; a plain network is a team of one.
        split: The images.
        split_name: `fresh`, `test`, or `given` by the user.
        data: Where the images come from, for people.
        num_classes: Classes.
        eps: L∞ budget in pixel units.
        base: The dense network that the members came from.
        twin: Trains an undefended network of the same kind; none where the tool did not train the target.
        twin_at_most: Accuracy that an undefended network is known to keep on these images at this eps.
        recorded: Who wrote down the clean accuracy on these very images, and what it was.
        deploy: Gives what is deployed.
        timing: What is known of the latency.
        notes: What a reader should know.
    """

    name: str
    team: Team
    split: Split
    split_name: Literal["fresh", "test", "given"]
    data: str
    num_classes: int
    eps: float
    base: nn.Module | None = None
    twin: Callable[[], nn.Module] | None = None
    twin_at_most: float | None = None
    recorded: tuple[str, float] | None = None
    deploy: Callable[[], GatedClassifier] | None = None
    timing: Timing | None = None
    notes: tuple[str, ...] = field(default=())


def assess(
    target: Target,
    tier: Tier,
    *,
    seed: int,
    home: Path,
    device: torch.device | None = None,
    report: Report = lambda text: None,
) -> AttackResult:
    """Attack a target and check the result.

    Args:
        target: What is attacked.
        tier: 1 or 2.
        seed: Of everything random.
        home: Finished parts are kept below `home/attacks/KEY`; a second call goes on from there.
        device: Where to compute; the CPU by default.
        report: Told what is going on.

    Returns:
        The result; equal for an evaluation that was interrupted and one that was not, but for `seconds`.

    Raises:
        StoreError: If the home cannot be written.
    """
    device = device or torch.device("cpu")
    team = place(target.team, device).eval()
    split = Split(target.split.images.to(device), target.split.labels.to(device))
    base = None if target.base is None else place(target.base, device).eval()

    blind = not probes.lets_gradients_through(team, split.images[:1])

    def make_attacks(team: Team, *, eps: float, seed: int) -> Sequence[Named]:
        attacks = tier_attacks(team, tier, eps=eps, num_classes=target.num_classes, seed=seed, base=base)
        return [one for one in attacks if one.id in BLACK_BOX or not blind]  # check 9 says what that is worth

    planned = make_attacks(team, eps=target.eps, seed=seed)
    described = [canonical_json(one.describe()) if hasattr(one, "describe") else one.name for one in planned]
    key = evaluation_key(team, split, tier=tier, eps=target.eps, seed=seed, attacks=described)
    folder = home / "attacks" / key
    if (finished := _read(folder)) is not None:
        return replace(finished, target=target.name)
    found = evaluate(
        team,
        split,
        make_attacks,
        folder=folder,
        eps=target.eps,
        seed=seed,
        slow_down=None if blind else partial(_slow_down, eps=target.eps, steps=_SLOW_DOWN_STEPS[tier]),
        report=report,
    )
    checker = _Checker(target, team, split, found, make_attacks, tier, seed, Steps(folder), report)
    result = _result(target, team, found, checker.all(), key=key, tier=tier, seed=seed)
    images = split_key(target.split)
    used = 0 if target.split_name != "test" else _others_on(images, folder)
    if used:
        note = (
            f"{used} other evaluations in this home saw these test images: the best of several looks better than it is"
        )
        result = replace(result, notes=(*result.notes, note))
    write_atomic(folder / _RESULT, json.dumps({"images": images, "result": to_json(result)}, indent=1).encode())
    return result


def _read(folder: Path) -> AttackResult | None:
    """A finished evaluation's result; none where it is not finished, damaged, or of another version."""
    try:
        result = from_json(AttackResult, json.loads((folder / _RESULT).read_bytes())["result"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if result.schema_version == SCHEMA_VERSION else None


def _others_on(images: str, folder: Path) -> int:
    """Finished tier 2 evaluations of the same images beside this one."""
    count = 0
    for path in folder.parent.glob(f"*/{_RESULT}"):
        try:
            kept = json.loads(path.read_bytes())
            count += path.parent != folder and kept["images"] == images and kept["result"]["tier"] == 2
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return count


def _slow_down(team: Team, seed: int, *, eps: float, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, labels: (
        slow_down(team, images, eps=eps, steps=steps, seed=seed, batch_size=len(images)).adversarial
    )


# ---------------------------------------------------------------- the checks


class _Checker:
    """Takes what each check needs, in order, and keeps each verdict in a file."""

    def __init__(
        self,
        target: Target,
        team: Team,
        split: Split,
        found: Found,
        make_attacks: Callable[..., Sequence[Named]],
        tier: Tier,
        seed: int,
        steps: Steps,
        report: Report,
    ) -> None:
        self.target, self.team, self.split, self.found = target, team, split, found
        self.make_attacks, self.tier, self.seed, self.steps, self.report = make_attacks, tier, seed, steps, report
        self.some = Split(split.images[:_SOME], split.labels[:_SOME])
        self.eps = target.eps

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
            self.report(f"check {number} of 11")
            check = make()
            return {"passed": np.array(check.passed), "seen": np.array(check.seen), "applies": np.array(check.applies), "name": np.array(check.name)}  # fmt: skip

        kept = self.steps.get(f"checks/{number:02d}", compute)
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
        return sanity.stronger_is_lower(rows, probes.missed_on_the_way(team, attack, few, eps=eps))

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
        found = int(probes.broken_in_deployment(classifier, blind[0].attack, left).sum()) if len(held) and blind else 0
        return sanity.deployed_falls_too(saved, replayed, found, len(held) if blind else 0)


# ---------------------------------------------------------------- the result


def _result(
    target: Target, team: Team, found: Found, checks: tuple[Check, ...], *, key: str, tier: Tier, seed: int
) -> AttackResult:
    reasons = tuple(f"check {check.number}, {check.name}: {check.seen}" for check in checks if not check.passed)
    badge: Badge = "invalid" if reasons else "checked" if tier == 1 else "claim"
    names = [use.name for use in found.attacks if not use.id.startswith("P")]
    prefixes = [use.name for use in found.attacks if use.id.startswith("P")]

    def robust(flags: np.ndarray, more: Sequence[str] = ()) -> RobustAccuracy:
        return RobustAccuracy.of(flags, attack=f"union of {', '.join([*names, *more])}", eps=target.eps, badge=badge)

    shape = (int(target.split.images.shape[1]), int(target.split.images.shape[2]), int(target.split.images.shape[3]))
    macs = np.cumsum([count_macs(member, shape) for member in team.members])

    def cost(run: Int[np.ndarray, " samples"]) -> Cost:
        mean = float(macs[run - 1].mean())
        latency = None if target.timing is None else _latency(target.timing, mean)
        speedup = None if latency is None or target.timing is None else target.timing.dense_ms / latency
        return Cost(float(run.mean()), round(mean), latency, speedup)

    return AttackResult(
        schema_version=SCHEMA_VERSION,
        target=target.name,
        key=key,
        tier=tier,
        badge=badge,
        reasons=reasons,
        notes=target.notes,
        data=target.data,
        split=target.split_name,
        eps=target.eps,
        seed=seed,
        num_members=len(team.members),
        clean=Accuracy.of(found.clean_right),
        robust=robust(found.robust_right),
        any_prefix=robust(found.prefix_right, prefixes),
        static=robust(found.static_right, prefixes),
        clean_cost=cost(found.clean_run),
        attacked_cost=cost(found.attacked_run),
        slowed_cost=None if found.slowed_run is None else cost(found.slowed_run),
        worst_cost=cost(np.full_like(found.clean_run, len(team.members))),
        attacks=found.attacks,
        checks=checks,
        robust_hex=pack_bits(found.robust_right),
        forward_passes=sum(use.forward_passes for use in found.attacks),
        gradient_passes=sum(use.gradient_passes for use in found.attacks),
        seconds=sum(use.seconds for use in found.attacks),
        versions={"eed_search": eed_search.__version__, "torch": torch.__version__, "device": _device_name(team)},
    )


def _latency(timing: Timing, macs: float) -> float:
    """Milliseconds between the measured clean and worst cases, in proportion to multiply-accumulates."""
    m = timing.measured
    clean, worst = m.latency.latency_ms.value, m.latency.worst_case_ms
    if m.worst_case_macs == m.macs:
        return clean
    return clean + (worst - clean) * (macs - m.macs) / (m.worst_case_macs - m.macs)


def _device_name(team: Team) -> str:
    device = next(team.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
