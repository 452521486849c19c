"""Clean and robust accuracy of a gated team, judged on what would be deployed.

The attack knows members, order, gate and threshold. PGD follows several surrogates in turn, and
EVERY iterate of each is judged on the gated forward pass; a sample counts as robust only if no
iterate of any surrogate broke it. The executed path alone is several points too kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from eed_search.config.spec import Evaluation, TrainingAttack
from eed_search.core.seeds import seed_of
from eed_search.data.splits import Split
from eed_search.ensemble.gate import DeployedGate, GatedEnsemble, log_answer
from eed_search.ensemble.sweep import answers_at, highest_threshold, rounding_of, swept_thresholds
from eed_search.models import place
from eed_search.training.attacks import perturb
from eed_search.training.recovery import label_loss


@dataclass(frozen=True)
class RobustEvaluation:
    """What an evaluation saw, sample by sample.

    Attributes:
        clean_right: Right answers on the clean images.
        robust_right: Right on the clean image and on every iterate of every surrogate.
        executed_right: The same for the executed path alone: the usual, too kind figure.
        members_run: Members the gate ran on each clean image.
        attacked_run: Members it ran on the image that broke the sample, else on the last one tried; as on the
            clean image where that was wrong already.
        attack: What attacked, for people.
        thresholds: Gate thresholds that the same evaluation was replayed at; empty without a sweep.
        swept_clean_right: Right answers on the clean images at each threshold.
        swept_robust_right: Right on every image seen, at each threshold. An upper bound: the attack on
            the executed path followed the gate at its own threshold.
        swept_members_run: Members run on each clean image at each threshold.
        swept_attacked_run: Members run under attack, likewise.

    An evaluation that was not finished holds what is known of all clean images, and of its first images under attack.
    """

    clean_right: Bool[np.ndarray, " samples"]
    robust_right: Bool[np.ndarray, " samples"]
    executed_right: Bool[np.ndarray, " samples"]
    members_run: Int[np.ndarray, " samples"]
    attacked_run: Int[np.ndarray, " samples"]
    attack: str
    thresholds: Float[np.ndarray, " thresholds"] = field(default_factory=lambda: np.zeros(0))
    swept_clean_right: Bool[np.ndarray, "thresholds samples"] = field(default_factory=lambda: np.zeros((0, 0), bool))
    swept_robust_right: Bool[np.ndarray, "thresholds samples"] = field(default_factory=lambda: np.zeros((0, 0), bool))
    swept_members_run: Int[np.ndarray, "thresholds samples"] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    swept_attacked_run: Int[np.ndarray, "thresholds samples"] = field(
        default_factory=lambda: np.zeros((0, 0), np.int64)
    )

    @property
    def num_attacked(self) -> int:
        """Images that were attacked."""
        return len(self.robust_right)

    @property
    def finished(self) -> bool:
        """Whether all images were attacked."""
        return self.num_attacked == len(self.clean_right)

    def until(self, end: int) -> RobustEvaluation:
        """Give what was known after so many images were attacked."""
        return replace(
            self,
            robust_right=self.robust_right[:end],
            executed_right=self.executed_right[:end],
            attacked_run=self.attacked_run[:end],
            swept_robust_right=self.swept_robust_right[:, :end],
            swept_attacked_run=self.swept_attacked_run[:, :end],
        )


Watch = Callable[[Int[Tensor, " some"], Float[Tensor, "members some classes"]], Bool[Tensor, " some"]]
"""Told the positions in a batch, and the members' log probabilities, of every image that the attack tries; says
which of them are worth attacking on, broken or not."""
Team = GatedEnsemble[DeployedGate]


def evaluate_robustness(
    team: Team,
    split: Split,
    *,
    eps: float,
    settings: Evaluation,
    seed: int,
    device: torch.device,
    sweep: int = 0,
) -> RobustEvaluation:
    """Evaluate a team on a split, clean and under attack.

    The surrogates, in order: the executed path (the prefix that the gate answers with), then the
    mean of each prefix k = 1..N, the last being the mean of all members. Samples already broken are
    not attacked again. The random start of a sample depends on its position in the split and the
    surrogate only, so every team meets the same ones.

    Args:
        team: Members and gate, in evaluation mode.
        split: Images and labels.
        eps: Budget in pixel units.
        settings: Steps, step size, batch size.
        seed: Seed for the random starts.
        device: Where to compute.
        sweep: Other gate thresholds to replay everything at that is seen on the way; for a team of
            several members behind a gate with a threshold.

    Returns:
        Flags for each sample.

    Source:
        PGD: Madry et al. 2018, arXiv 1706.06083. The union over prefixes, each iterate judged on the
        gated forward, is ours.
    """
    examination = RobustEvaluator(team, split, eps=eps, settings=settings, seed=seed, device=device, sweep=sweep)
    examination.attack(len(split))
    return examination.so_far()


class RobustEvaluator:
    """An evaluation that can stop after any image and go on from there: see `evaluate_robustness`, whose arguments it takes.

    All images are answered clean at once, which costs little; the attack goes as far as it is asked to.

    Args:
        tell: Told at every step of the attack which share of the whole is done.
    """

    def __init__(
        self,
        team: Team,
        split: Split,
        *,
        eps: float,
        settings: Evaluation,
        seed: int,
        device: torch.device,
        sweep: int = 0,
        tell: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._team, self._split, self._tell = place(team, device).eval(), split, tell
        self._eps, self._settings, self._seed, self._device = eps, settings, seed, device
        num, members = len(split), len(team.members)
        self._surrogates = [0, *range(1, members + 1)] if members > 1 else [1]
        self._replay = _Replay(self._team, split, sweep, settings, device) if sweep and members > 1 else None
        self._clean, self._run = np.zeros(num, bool), np.zeros(num, np.int64)
        for where in _batches(0, num, settings.batch_size):
            images, labels = self._take(where)
            with torch.no_grad():
                decision = self._team.decide(images)
            self._clean[where] = (decision.labels == labels).cpu().numpy()
            self._run[where] = decision.members_run.cpu().numpy()
        self._executed, self._robust, self._attacked_run = np.zeros(num, bool), np.zeros(num, bool), self._run.copy()
        self.num_attacked = 0

    def attack(self, end: int) -> None:
        """Attack the images up to this one that have not been attacked yet."""
        for where in _batches(self.num_attacked, end, self._settings.batch_size):
            self._attack(where)
            self.num_attacked = where.stop

    def so_far(self) -> RobustEvaluation:
        """Give all clean flags, and the robust ones of the images that were attacked."""
        several = len(self._team.members) > 1
        union = " through the executed path, each prefix mean and the member mean, union" if several else ""
        attack = f"PGD-{self._settings.steps}{union}"
        found = RobustEvaluation(self._clean, self._robust, self._executed, self._run, self._attacked_run, attack)
        if (replay := self._replay) is not None:
            found = replace(
                found,
                thresholds=replay.thresholds,
                swept_clean_right=replay.clean,
                swept_robust_right=replay.robust,
                swept_members_run=replay.run,
                swept_attacked_run=replay.attacked_run,
            )
        return found.until(self.num_attacked)

    def state(self) -> dict[str, Tensor]:
        """Give what `restore` needs to go on: a row for each way to answer, its own first."""
        found = self.so_far()
        right = np.stack([found.executed_right, found.robust_right, *found.swept_robust_right])
        run = np.stack([found.attacked_run, *found.swept_attacked_run]).astype(np.uint8)
        return {"right": torch.from_numpy(right), "run": torch.from_numpy(run)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where another examination of the same team was; a state of other form is passed over."""
        right, run, replay = state["right"].numpy(), state["run"].numpy(), self._replay
        ways = 1 if replay is None else 1 + len(replay.thresholds)
        if (len(right), len(run)) != (1 + ways, ways) or right.shape[1] > len(self._split):
            return
        self.num_attacked = end = right.shape[1]
        self._executed[:end], self._robust[:end], self._attacked_run[:end] = right[0], right[1], run[0]
        if replay is not None:
            replay.robust[:, :end], replay.attacked_run[:, :end] = right[2:], run[1:]

    def _take(self, where: slice) -> tuple[Tensor, Tensor]:
        images = self._split.images[where].to(self._device).contiguous(memory_format=torch.channels_last)
        return images, self._split.labels[where].to(self._device)

    def _attack(self, where: slice) -> None:
        """Attack one batch with each surrogate in turn."""
        images, labels = self._take(where)
        right = torch.tensor(self._clean[where], device=self._device)  # a copy: it changes below
        run = torch.tensor(self._run[where], device=self._device)
        replay = self._replay
        first, size = where.start / len(self._split), (where.stop - where.start) / len(self._split)
        for number, surrogate in enumerate(self._surrogates):

            def tell(share: float, number: int = number) -> None:
                self._tell(first + size * (number + share) / len(self._surrogates))

            alive = (right if replay is None else right | replay.alive(where, self._device)).nonzero().flatten()
            if len(alive):
                noise = _starts(len(self._split), images.shape[1:], where, self._seed, surrogate)
                start = noise.to(self._device)[alive]
                watch = replay.watch(where.start, labels, alive) if replay else None
                broken, ran = _broken(
                    self._team, images[alive], labels[alive], start, surrogate, self._eps, self._settings, watch, tell
                )
                run[alive] = torch.where(right[alive], ran, run[alive])
                right[alive] &= ~broken
            if number == 0:
                self._executed[where] = right.cpu().numpy()
        self._robust[where], self._attacked_run[where] = right.cpu().numpy(), run.cpu().numpy()


def _batches(start: int, end: int, size: int) -> Iterator[slice]:
    for first in range(start, end, size):
        yield slice(first, min(first + size, end))


class _Replay:
    """What other thresholds would have answered to everything that the evaluation sees."""

    def __init__(self, team: Team, split: Split, sweep: int, settings: Evaluation, device: torch.device) -> None:
        self._gate = team.gate
        parts = []
        with torch.no_grad():
            for images in split.images.split(settings.batch_size):
                moved = images.to(device).contiguous(memory_format=torch.channels_last)
                parts.append(team.member_log_probabilities(moved))
        logs = torch.cat(parts, dim=1)
        stops = self._gate.readings(logs).stops[:-1].cpu().numpy()
        self.thresholds = swept_thresholds(
            stops, sweep, high=highest_threshold(self._gate, stops), rounding=rounding_of(self._gate)
        )
        self._thresholds = torch.from_numpy(self.thresholds).to(logs)
        labels, run = answers_at(self._gate, logs, self._thresholds)
        self.clean = (labels.cpu() == split.labels).numpy()
        self.run = run.cpu().numpy()
        self.attacked_run = self.run.copy()
        self.robust = self.clean.copy()

    def alive(self, where: slice, device: torch.device) -> Bool[Tensor, " batch"]:
        """Which samples of a batch some threshold still answers rightly."""
        return torch.from_numpy(self.robust[:, where].any(axis=0)).to(device)

    def watch(self, start: int, labels: Int[Tensor, " batch"], alive: Int[Tensor, " some"]) -> Watch:
        """Take in what the attack tries on the samples `alive` of the batch that begins at `start`."""

        def see(positions: Tensor, logs: Tensor) -> Tensor:
            where = alive[positions]
            answers, run = answers_at(self._gate, logs, self._thresholds)
            wrong = (answers != labels[where]).cpu().numpy()
            here = start + where.cpu().numpy()
            self.attacked_run[:, here] = np.where(self.robust[:, here], run.cpu().numpy(), self.attacked_run[:, here])
            self.robust[:, here] &= ~wrong
            return torch.from_numpy(self.robust[:, here].any(axis=0)).to(positions.device)

        return see


def craft(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    settings: Evaluation,
    seed: int,
    device: torch.device,
    tell: Callable[[float], None] = lambda share: None,
) -> Float[Tensor, "samples channels height width"]:
    """Attack one network with PGD and keep the last iterates, to be replayed on other networks.

    Args:
        model: The network attacked.
        split: Images and labels.
        eps: Budget in pixel units.
        settings: Steps, step size, batch size.
        seed: Seed for the random starts.
        device: Where to compute.
        tell: Told which share of the images is done.

    Returns:
        Attacked images in the split's order, on the CPU.
    """
    model = place(model, device).eval()
    attack = TrainingAttack(method="pgd", steps=settings.steps, step_size=settings.step_size)
    generator = torch.Generator(device).manual_seed(seed)
    parts = []
    for images, labels in zip(
        split.images.split(settings.batch_size), split.labels.split(settings.batch_size), strict=True
    ):
        target = labels.to(device)

        def objective(moved: Tensor, target: Tensor = target) -> Tensor:
            return label_loss(model(moved), target)

        parts.append(perturb(objective, images.to(device), eps=eps, attack=attack, generator=generator).cpu())
        tell(min(1.0, len(parts) * settings.batch_size / len(split)))
    return torch.cat(parts)


def _starts(num: int, shape: torch.Size, where: slice, seed: int, surrogate: int) -> Tensor:
    """Uniform noise in [-1, 1] that depends on the sample's position, not on the batch size."""
    generator = torch.Generator().manual_seed(seed_of(str(seed), f"start/{surrogate}"))
    return torch.rand((num, *shape), generator=generator)[where].mul(2).sub(1)


def _broken(
    team: Team,
    images: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch channels height width"],
    surrogate: int,
    eps: float,
    settings: Evaluation,
    watch: Watch | None = None,
    tell: Callable[[float], None] = lambda share: None,
) -> tuple[Bool[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Attack one surrogate (0: executed path, k: mean of the first k) and judge every iterate on the gate.

    `tell` is told at each iterate which share of the steps is done.

    Returns:
        Which samples broke, and the members run on the image that broke each, else on the last one.
    """
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    step = settings.step_size or eps / 4
    moved = torch.clamp(images + eps * noise, low, high)
    broken = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    run = torch.ones_like(labels)
    active = torch.arange(len(labels), device=labels.device)
    for iterate in range(settings.steps + 1):
        point = moved[active].detach().requires_grad_(iterate < settings.steps)
        with torch.set_grad_enabled(iterate < settings.steps):
            logs = team.member_log_probabilities(point)
            seen = logs.detach()
            decision = team.gate.decide_logs(seen)
            wrong = decision.labels != labels[active]
            run[active] = torch.where(broken[active], run[active], decision.members_run)
            broken[active[wrong]] = True
            done = broken[active] if watch is None else broken[active] & ~watch(active, seen)
            if iterate == settings.steps or bool(done.all()):
                break
            answer = decision.answer if surrogate == 0 else torch.full_like(decision.answer, surrogate)
            loss = functional.nll_loss(log_answer(team.gate, logs, answer), labels[active], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        moved[active] = torch.clamp(point.detach() + step * gradient.sign(), low[active], high[active])
        active = active[~done]
        tell((iterate + 1) / (settings.steps + 1))
    return broken, run
