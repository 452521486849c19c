"""Clean and robust accuracy of a gated team, judged on what would be deployed.

The attack knows members, order, gate and threshold. PGD follows several surrogates in turn, and
EVERY iterate of each is judged on the gated forward pass; a sample counts as robust only if no
iterate of any surrogate broke it. The executed path alone is several points too kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from eed_search.core.seeds import seed_of
from eed_search.core.spec import Evaluation, TrainingAttack
from eed_search.data.splits import Split
from eed_search.ensemble.gate import DeployedGate, GatedEnsemble, log_answer
from eed_search.ensemble.sweep import answers_at, highest_threshold, rounding_of, swept_thresholds
from eed_search.models import place
from eed_search.training.attacks import perturb
from eed_search.training.recovery import label_loss


@dataclass(frozen=True)
class Judgement:
    """What an evaluation saw, sample by sample.

    Attributes:
        clean_right: Right answers on the clean images.
        robust_right: Right on the clean image and on every iterate of every surrogate.
        executed_right: The same for the executed path alone: the usual, too kind figure.
        members_run: Members the gate ran on each clean image.
        attack: What attacked, for people.
        thresholds: Gate thresholds that the same evaluation was replayed at; empty without a sweep.
        swept_clean_right: Right answers on the clean images at each threshold.
        swept_robust_right: Right on every image seen, at each threshold. An upper bound: the attack on
            the executed path followed the gate at its own threshold.
        swept_members_run: Members run on each clean image at each threshold.
    """

    clean_right: Bool[np.ndarray, " samples"]
    robust_right: Bool[np.ndarray, " samples"]
    executed_right: Bool[np.ndarray, " samples"]
    members_run: Int[np.ndarray, " samples"]
    attack: str
    thresholds: Float[np.ndarray, " thresholds"] = field(default_factory=lambda: np.zeros(0))
    swept_clean_right: Bool[np.ndarray, "thresholds samples"] = field(default_factory=lambda: np.zeros((0, 0), bool))
    swept_robust_right: Bool[np.ndarray, "thresholds samples"] = field(default_factory=lambda: np.zeros((0, 0), bool))
    swept_members_run: Int[np.ndarray, "thresholds samples"] = field(default_factory=lambda: np.zeros((0, 0), np.int64))


Watch = Callable[[Int[Tensor, " some"], Float[Tensor, "members some classes"]], Bool[Tensor, " some"]]
"""Told the positions in a batch, and the members' log probabilities, of every image that the attack tries; says
which of them are worth attacking on, broken or not."""
Team = GatedEnsemble[DeployedGate]


def judge(
    team: Team,
    split: Split,
    *,
    eps: float,
    settings: Evaluation,
    seed: int,
    device: torch.device,
    sweep: int = 0,
) -> Judgement:
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
        seed: Of the random starts.
        device: Where to compute.
        sweep: Other gate thresholds to replay everything at that is seen on the way; for a team of
            several members behind a gate with a threshold.

    Returns:
        Flags for each sample.

    Source:
        PGD: Madry et al. 2018, arXiv 1706.06083. The union over prefixes, each iterate judged on the
        gated forward, is ours.
    """
    team = place(team, device).eval()
    num = len(split)
    surrogates = [0, *range(1, len(team.members) + 1)] if len(team.members) > 1 else [1]
    replay = _Replay(team, split, sweep, settings, device) if sweep and len(team.members) > 1 else None
    clean = np.zeros(num, bool)
    executed = np.zeros(num, bool)
    robust = np.zeros(num, bool)
    run = np.zeros(num, np.int64)
    for start in range(0, num, settings.batch_size):
        where = slice(start, min(start + settings.batch_size, num))
        images = split.images[where].to(device).contiguous(memory_format=torch.channels_last)
        labels = split.labels[where].to(device)
        with torch.no_grad():
            decision = team.decide(images)
        right = decision.labels == labels
        clean[where], run[where] = right.cpu().numpy(), decision.members_run.cpu().numpy()
        for number, surrogate in enumerate(surrogates):
            alive = (right if replay is None else right | replay.alive(where, device)).nonzero().flatten()
            if len(alive):
                noise = _starts(num, images.shape[1:], where, seed, surrogate).to(device)[alive]
                watch = replay.watch(start, labels, alive) if replay else None
                right[alive] &= ~_broken(team, images[alive], labels[alive], noise, surrogate, eps, settings, watch)
            if number == 0:
                executed[where] = right.cpu().numpy()
        robust[where] = right.cpu().numpy()
    prefixes = (
        "" if len(team.members) == 1 else " through the executed path, each prefix mean and the member mean, union"
    )
    attack = f"PGD-{settings.steps}{prefixes}"
    if replay is None:
        return Judgement(clean, robust, executed, run, attack)
    return Judgement(clean, robust, executed, run, attack, replay.thresholds, replay.clean, replay.robust, replay.run)


class _Replay:
    """What other thresholds would have answered to everything that the evaluation sees."""

    def __init__(
        self, team: Team, split: Split, sweep: int, settings: Evaluation, device: torch.device
    ) -> None:
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
        self.robust = self.clean.copy()

    def alive(self, where: slice, device: torch.device) -> Bool[Tensor, " batch"]:
        """Which samples of a batch some threshold still answers rightly."""
        return torch.from_numpy(self.robust[:, where].any(axis=0)).to(device)

    def watch(self, start: int, labels: Int[Tensor, " batch"], alive: Int[Tensor, " some"]) -> Watch:
        """Take in what the attack tries on the samples `alive` of the batch that begins at `start`."""

        def see(positions: Tensor, logs: Tensor) -> Tensor:
            where = alive[positions]
            answers, _ = answers_at(self._gate, logs, self._thresholds)
            wrong = (answers != labels[where]).cpu().numpy()
            here = start + where.cpu().numpy()
            self.robust[:, here] &= ~wrong
            return torch.from_numpy(self.robust[:, here].any(axis=0)).to(positions.device)

        return see


def craft(
    model: nn.Module, split: Split, *, eps: float, settings: Evaluation, seed: int, device: torch.device
) -> Float[Tensor, "samples channels height width"]:
    """Attack one network with PGD and keep the last iterates, to be replayed on other networks.

    Args:
        model: The network attacked.
        split: Images and labels.
        eps: Budget in pixel units.
        settings: Steps, step size, batch size.
        seed: Of the random starts.
        device: Where to compute.

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
) -> Bool[Tensor, " batch"]:
    """Attack one surrogate (0: executed path, k: mean of the first k) and judge every iterate on the gate."""
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    step = settings.step_size or eps / 4
    moved = torch.clamp(images + eps * noise, low, high)
    broken = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    active = torch.arange(len(labels), device=labels.device)
    for iterate in range(settings.steps + 1):
        point = moved[active].detach().requires_grad_(iterate < settings.steps)
        with torch.set_grad_enabled(iterate < settings.steps):
            logs = team.member_log_probabilities(point)
            seen = logs.detach()
            decision = team.gate.decide_logs(seen)
            wrong = decision.labels != labels[active]
            broken[active[wrong]] = True
            done = broken[active] if watch is None else broken[active] & ~watch(active, seen)
            if iterate == settings.steps or bool(done.all()):
                break
            answer = decision.answer if surrogate == 0 else torch.full_like(decision.answer, surrogate)
            loss = functional.nll_loss(log_answer(team.gate, logs, answer), labels[active], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        moved[active] = torch.clamp(point.detach() + step * gradient.sign(), low[active], high[active])
        active = active[~done]
    return broken
