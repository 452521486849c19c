"""A tier's attacks on one team, chunk by chunk, attack by attack: can be killed at any time and goes on.

Every image that an attack gives back, also one on a single prefix or on the gate's cost, goes before the one judge
(`evaluation.judge`); a sample once broken is left alone by later attacks. Each attack on each chunk starts from a
seed of its own, so what it finds does not depend on what ran before it in the same process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eed_search.core.pace import in_counts, in_shares
from eed_search.core.seeds import digest, seed_of
from eed_search.data.splits import Split
from eed_search.evaluation.attacks.slow_down import SlowDown
from eed_search.evaluation.attacks.victim import PassMeter
from eed_search.evaluation.judge import Judge
from eed_search.evaluation.prefixes import Team, prefix_alone, reachable_prefixes
from eed_search.evaluation.steps import Arrays, Steps
from eed_search.models import place
from eed_search.runs.attack_records import AttackUse

Attack = Callable[[Tensor, Tensor], Tensor]
"""From images and labels to images that may be answered wrongly."""
SlowDownAttack = Callable[[Tensor], SlowDown]
"""From images to those that make the gate ask more members."""
Report = Callable[[str], None]

CHUNK = 250  # samples in a step: what a kill can lose
_VERSION = 2  # version of this module's arithmetic: part of every key; 2: one judge
EXECUTED_PATH = ("G0", "APGD")  # attacks of these ids know no gate, so they serve for single prefixes too
BLACK_BOX = ("G6", "Square", "RayS")  # these follow no gradient


class Named(Protocol):
    """An attack with its id, such as `G1`, and a name for people."""

    @property
    def id(self) -> str: ...  # noqa: D102

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def attack(self) -> Attack: ...  # noqa: D102


class MakeAttacks(Protocol):
    """Builds a tier's attacks on a team, in the order in which they run."""

    def __call__(self, team: Team, *, eps: float, seed: int) -> Sequence[Named]: ...  # noqa: D102


@dataclass(frozen=True)
class Found:
    """What a tier's attacks found, sample by sample.

    Attributes:
        clean_right: Right without an attack.
        broken_by: Index of the attack whose image the deployed gate got wrong first, whatever it aimed at; -1 where none
            did, also where it was wrong before.
        static_right: Right by all members together on every image tried.
        prefix_right: Right by every prefix that the gate can stop at, on every image tried.
        clean_run: Members run on the image itself.
        attacked_run: Members run on the image that broke the sample, else on the last one tried.
        slowed_run: Members run on the image made to slow the gate down, label kept; none without such an attack.
        attacks: Each with what it did: those on the gate, on single prefixes (ids with a P), on the gate's cost (S1).
        broken_images: The images that broke a sample, in the order of `broken_at`.
        broken_at: Their samples.
        farthest: Largest distance of any returned image from its original, in float64.
        outside: Largest distance of any returned pixel from [0, 1], in float64.
    """

    clean_right: Bool[np.ndarray, " samples"]
    broken_by: Int[np.ndarray, " samples"]
    static_right: Bool[np.ndarray, " samples"]
    prefix_right: Bool[np.ndarray, " samples"]
    clean_run: Int[np.ndarray, " samples"]
    attacked_run: Int[np.ndarray, " samples"]
    slowed_run: Int[np.ndarray, " samples"] | None
    attacks: tuple[AttackUse, ...]
    broken_images: Float[np.ndarray, "broken channels height width"]
    broken_at: Int[np.ndarray, " broken"]
    farthest: float
    outside: float

    @property
    def robust_right(self) -> Bool[np.ndarray, " samples"]:
        """Right on the image itself and on every image that any attack made."""
        return self.clean_right & (self.broken_by < 0)


def split_key(split: Split) -> str:
    """Name images with their labels."""
    sha = hashlib.sha256()
    for tensor in (split.images, split.labels):
        sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:32]


def team_key(team: Team, split: Split) -> str:
    """Name what is evaluated by its weights, its gate, and how it answers the images now.

    The answers stand for the code of networks that are not ours, which no weight shows.
    """
    sha = hashlib.sha256()
    for name, tensor in team.state_dict().items():
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    sha.update(repr(team.gate).encode())
    device = _device(team)
    with torch.no_grad():
        for images in split.images.split(CHUNK):
            decision = team.decide(images.to(device))
            sha.update(decision.labels.cpu().numpy().tobytes() + decision.members_run.cpu().numpy().tobytes())
    return sha.hexdigest()[:32]


def evaluation_key(team: Team, split: Split, *, tier: int, eps: float, seed: int, attacks: Sequence[str]) -> str:
    """Name a tier's evaluation: equal keys give equal results on one machine."""
    return digest(
        {
            "version": _VERSION,
            "team": team_key(team, split),
            "images": split_key(split),
            "tier": tier,
            "eps": eps,
            "seed": seed,
            "attacks": list(attacks),
            "torch": torch.__version__,
            "device": _device(team).type,
        }
    )


def evaluate(
    team: Team,
    split: Split,
    make_attacks: MakeAttacks,
    *,
    folder: Path,
    eps: float,
    seed: int,
    slow_down: Callable[[Team, int], SlowDownAttack] | None = None,
    report: Report = lambda text: None,
) -> Found:
    """Attack every sample of a split with every attack until one breaks it.

    Args:
        team: In evaluation mode.
        split: Images and labels.
        make_attacks: Builds the attacks.
        folder: Where finished steps are kept; a second call goes on from there.
        eps: Budget in pixel units.
        seed: Seed for all random starts.
        slow_down: Builds the attack on the gate's cost from a team and a seed.
        report: Told which attack runs on which chunk.

    Returns:
        Flags for each sample; the same whether or not the evaluation was interrupted.

    Raises:
        StoreError: If the folder cannot be written.
    """
    team = place(team, _device(team)).eval()
    steps = Steps(folder)
    chunks = [
        _Chunk(team, split, number, partial(make_attacks, eps=eps), steps, seed, slow_down, report).run()
        for number in range((len(split) + CHUNK - 1) // CHUNK)
    ]
    return _join(chunks)


def with_broken(found: Found, broken: Bool[np.ndarray, " samples"]) -> Found:
    """Count what the short attacks of the sanity checks broke too: who found an image does not matter.

    Args:
        found: By the tier's attacks.
        broken: Samples whose deployed answer a check's attack within eps made wrong.
    """
    more = found.robust_right & broken
    if not more.any():
        return found
    num = int(more.sum())
    use = AttackUse("C", "short attacks of the checks", None, None, int(found.robust_right.sum()), num, 0, 0, 0.0, num)
    return replace(
        found,
        broken_by=np.where(more, len(found.attacks), found.broken_by),
        prefix_right=found.prefix_right & ~more,
        attacks=(*found.attacks, use),
    )


class _Chunk:
    """One chunk's samples, with what is known of them so far."""

    def __init__(
        self,
        team: Team,
        split: Split,
        number: int,
        make_attacks: Callable[..., Sequence[Named]],
        steps: Steps,
        seed: int,
        slow_down: Callable[[Team, int], SlowDownAttack] | None,
        report: Report,
    ) -> None:
        where = slice(number * CHUNK, min((number + 1) * CHUNK, len(split)))
        self.offset, self.name = where.start, f"chunk-{number:04d}"
        self.title = f"samples {where.start + 1} to {where.stop} of {len(split)}"
        self.team, self.steps, self.report = team, steps, report
        self.make_attacks, self.slow_down = make_attacks, slow_down
        self.seed = seed_of(str(seed), self.name)
        device = _device(team)
        self.images = split.images[where].to(device).contiguous(memory_format=torch.channels_last)
        self.labels = split.labels[where].to(device)
        self.judge = Judge(team, self.images, self.labels)
        self.uses: list[AttackUse] = []
        self.broken: list[tuple[np.ndarray, np.ndarray]] = []
        self.far = [(0.0, 0.0)]

    def run(self) -> Found:
        """Take every step, in order."""
        judge = self.judge
        judge.begin(self.steps.get(f"{self.name}/clean", judge.look))
        for i, attack in enumerate(self.make_attacks(self.team, seed=self.seed)):
            alive = np.flatnonzero(judge.robust_right)
            self._step(f"{i:02d}-{attack.id}", attack, alive, self._builder(self.team, i), self.team)
        self._prefixes()
        slowed_run = self._slowed()
        return Found(
            judge.clean_right,
            judge.broken_by,
            judge.static_right,
            judge.prefix_right,
            judge.clean_run,
            judge.attacked_run,
            slowed_run,
            tuple(self.uses),
            np.concatenate([images for images, _ in self.broken]),
            np.concatenate([at for _, at in self.broken]),
            max(far for far, _ in self.far),
            max(outside for _, outside in self.far),
        )

    def _builder(self, team: Team, i: int) -> Callable[[int], Attack]:
        """Builds a team's attack of a place in the list from a seed."""
        return lambda seed: self.make_attacks(team, seed=seed)[i].attack

    def _step(
        self,
        name: str,
        attack: Named,
        alive: np.ndarray,
        build: Callable[[int], Attack],
        team: Team,
        prefix: int | None = None,
    ) -> None:
        """Run one attack on the samples `alive`; it follows `team`: the deployed one, or a prefix alone."""

        def compute() -> Arrays:
            title = f"{attack.id} {attack.name}: {self.title}, {len(alive)} unbroken"
            self.report(title)
            tell = passes_told(self.report, title, len(alive) * getattr(attack.attack, "most_passes", 0))
            start = time.perf_counter()
            index = torch.from_numpy(alive).to(self.labels.device)
            images, labels = self.images[index], self.labels[index]
            with PassMeter(team, tell) as passes:
                moved = _attacked(build, images, labels, seed_of(str(self.seed), name)) if len(alive) else images
            return self.judge.verdict(alive, moved) | _spent(passes, start)

        found = self.steps.get(f"{self.name}/{name}", compute)
        held = found["right"] if prefix is None else found["prefixes"][prefix - 1]
        self._take(attack, alive, found, num_broken=int((~held).sum()), on_gate=prefix is None)

    def _take(self, attack: Named, alive: np.ndarray, found: Arrays, *, num_broken: int | None, on_gate: bool) -> None:
        """Let a verdict count, and write down what the attack did and cost."""
        hit = self.judge.take(alive, found, len(self.uses), on_gate=on_gate)
        self.broken.append((found["images"], self.offset + hit))
        self.far.append((float(found["far"][0]), float(found["far"][1])))
        forward, gradient = (int(n) for n in found["passes"])
        self.uses.append(
            AttackUse(
                attack.id,
                attack.name,
                _number(attack.attack, "steps", "n_queries"),
                _number(attack.attack, "restarts", "n_restarts"),
                len(np.unique(alive)),
                len(hit) if num_broken is None else num_broken,
                forward,
                gradient,
                float(found["seconds"]),
                num_deployed_broken=len(hit),
            )
        )

    def _prefixes(self) -> None:
        """Attack single prefixes on what is left, so that RA-static and RA-any-prefix are as honest as RA.

        A sample whose deployed answer was broken counts as broken for RA-any-prefix: its prefix answered.
        """
        num = len(self.team.members)
        if num == 1:
            return
        judge = self.judge
        for k in (num, *(k for k in reachable_prefixes(self.team) if k < num)):
            part = prefix_alone(self.team, k)
            where = "all members" if k == num else f"prefix {k}"
            attacks = self.make_attacks(part, seed=self.seed)
            some = [i for i, attack in enumerate(attacks) if attack.id in EXECUTED_PATH] or range(len(attacks))
            for i in some:
                alive = np.flatnonzero(judge.static_right if k == num else judge.prefix_right)
                named = _Aimed(f"P{k}", f"{attacks[i].name} on {where}", attacks[i].attack)
                self._step(f"prefix-{k}-{i:02d}", named, alive, self._builder(part, i), part, prefix=k)

    def _slowed(self) -> np.ndarray | None:
        """Members run under the attack on the gate's cost, where the label is kept; else as on the image itself.

        Its slowest images go before the judge, and so do those on which it lost the label on the way.
        """
        build = self.slow_down
        if build is None or len(self.team.members) == 1:
            return None
        twice = np.tile(np.arange(len(self.labels)), 2)  # the slowest image of each, and one that lost the label

        def compute() -> Arrays:
            title = f"S1 slow-down: {self.title}"
            self.report(title)
            start = time.perf_counter()
            with (
                PassMeter(self.team, passes_told(self.report, title)) as passes,
                torch.random.fork_rng(),
                torch.enable_grad(),
            ):
                seed = seed_of(str(self.seed), "S1")
                torch.manual_seed(seed)
                slow = build(self.team, seed)(self.images)
            spent = _spent(passes, start)
            with torch.no_grad():
                before, after = self.team.decide(self.images), self.team.decide(slow.adversarial)
            kept = before.labels == after.labels
            run = torch.where(kept, torch.maximum(before.members_run, after.members_run), before.members_run)
            moved = torch.cat([slow.adversarial, slow.lost_images])
            return self.judge.verdict(twice, moved) | spent | {"slowed": run.cpu().numpy()}

        found = self.steps.get(f"{self.name}/S1", compute)
        self._take(_Aimed("S1", "slow-down", None), twice, found, num_broken=None, on_gate=False)
        return found["slowed"]


def _spent(passes: PassMeter, start: float) -> Arrays:
    return {"passes": np.array([passes.forward, passes.backward]), "seconds": np.array(time.perf_counter() - start)}


@dataclass(frozen=True)
class _Aimed:
    """An attack that aims at something else than the deployed answer."""

    id: str
    name: str
    attack: Any


def passes_told(report: Report, title: str, most: int = 0) -> Callable[[int], None]:
    """Make the function that is told the forward passes so far, and reports how far they are of the most there can be.

    Args:
        report: Takes a line, about once a second.
        title: The line's beginning.
        most: Passes that it takes at most; 0 where that is not known.
    """
    if not most:
        return in_counts(report, title, "passes")
    at = in_shares(report, title)
    return lambda passes: at(min(1.0, passes / most))


def _attacked(build: Callable[[int], Attack], images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Run an attack from its own seed; the process's random numbers are left as they were."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        return build(seed)(images, labels).detach()


def _join(chunks: Sequence[Found]) -> Found:
    """Put the chunks of one split together."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    uses = [
        replace(
            same[0],
            num_attacked=sum(use.num_attacked for use in same),
            num_broken=sum(use.num_broken for use in same),
            forward_passes=sum(use.forward_passes for use in same),
            gradient_passes=sum(use.gradient_passes for use in same),
            num_deployed_broken=sum(use.num_deployed_broken for use in same),
            seconds=sum(use.seconds for use in same),
        )
        for same in zip(*(chunk.attacks for chunk in chunks), strict=True)
    ]
    return Found(
        joined("clean_right"),
        joined("broken_by"),
        joined("static_right"),
        joined("prefix_right"),
        joined("clean_run"),
        joined("attacked_run"),
        None if chunks[0].slowed_run is None else joined("slowed_run"),
        tuple(uses),
        joined("broken_images"),
        joined("broken_at"),
        max(chunk.farthest for chunk in chunks),
        max(chunk.outside for chunk in chunks),
    )


def _number(attack: object, *names: str) -> int | None:
    for name in names:
        if isinstance(value := getattr(attack, name, None), int):
            return value
    return None


def _device(team: nn.Module) -> torch.device:
    first = next(team.parameters(), None)
    return torch.device("cpu") if first is None else first.device
