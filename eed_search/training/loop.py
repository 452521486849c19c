"""The adversarial training loop, one for the base, the members, the baselines and the joint fine-tune.

Whoever calls it says what a batch's loss is (`BatchLoss`); the loop owns the optimiser, the
schedule, averaged weights, masks, precision, the check for divergence, and going on from a checkpoint.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eed_search.config.spec import Augment, Recipe
from eed_search.core.errors import Diverged
from eed_search.core.failpoints import fail_point
from eed_search.core.pace import Clock, Pace
from eed_search.data.splits import AnySplit
from eed_search.models import layout, place
from eed_search.training.attacks import ONE_STEP, at_least_two_steps
from eed_search.training.batches import Batches
from eed_search.training.checkpoints import Checkpoint, NoCheckpoint
from eed_search.training.generators import generators_state, restore_generators
from eed_search.training.guard import Guard
from eed_search.training.optimiser import Sgd

Masks = Mapping[str, Bool[Tensor, "..."]]
_LATE_STEPS = 20  # whose mean loss is shown
_LONG_EPOCH_S = 30.0  # from here on a tenth of an epoch is too coarse to be seen moving


class BatchLoss(Protocol):
    """What one batch costs: attacks it and returns a loss whose gradient reaches the weights."""

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Mean loss of a batch. Leaves the model in training mode."""
        ...


class Restorable(Protocol):
    """Something that changes while a network is trained, and goes on with it."""

    def state(self) -> Mapping[str, Tensor]:
        """Give everything that `restore` needs."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training run tells.

    Attributes:
        losses: Mean loss of each epoch begun.
        num_steps: Optimiser steps.
    """

    losses: tuple[float, ...]
    num_steps: int


class Training:
    """One training run; can be stopped after any step, kept, and continued with equal bits.

    Call `go_on`, `advance` until `done`, then `finish`; `train` does all of it.

    Args:
        model: The network; trained in place on `device`.
        split: Training images and labels.
        recipe: Epochs, batch size, optimiser, schedule, averaging, precision.
        batch_loss: Attacks a batch and gives its loss.
        seed: Seed for the order, the augmentation and the attacks' random starts.
        augment: `crop` shifts images by up to 4 pixels, `crop_flip` mirrors half of them too.
        masks: For masked parameters, true where a weight is kept; applied again after every step,
            because momentum and weight decay would move zeros.
        device: Where to compute; the CPU by default.
        report: Called with a line of progress after each epoch, and within it about once a second.
        clock: Gives seconds, for when a line is due and for the time left; plays no part in the result.
        checkpoint: Where the state is kept when that is due.
        beside: What else changes meanwhile, by name; it is kept and restored with the run.
        eps: Budget in pixel units of an attack of one step, which is guarded against collapse; 0: it is not.

    Attributes:
        step: Optimiser steps done.
        num_steps: Optimiser steps of the whole run.
        steps_per_epoch: Optimiser steps of one pass over the images.
    """

    def __init__(
        self,
        model: nn.Module,
        split: AnySplit,
        recipe: Recipe,
        batch_loss: BatchLoss,
        *,
        seed: int,
        augment: Augment = "none",
        masks: Masks | None = None,
        device: torch.device | None = None,
        report: Callable[[str], None] = lambda text: None,
        clock: Clock = time.monotonic,
        checkpoint: Checkpoint | None = None,
        beside: Mapping[str, Restorable] | None = None,
        eps: float = 0.0,
    ) -> None:
        self._model, self._recipe, self._batch_loss = model, recipe, batch_loss
        self._report, self._checkpoint, self._beside = report, checkpoint or NoCheckpoint(), dict(beside or {})
        self._device = device = device or torch.device("cpu")
        place(model, device).train()
        self.steps_per_epoch = math.ceil(len(split) / recipe.batch_size)
        self.num_steps = math.ceil(recipe.epochs * self.steps_per_epoch)
        self.step = 0
        self._masks = {name: mask.to(device) for name, mask in (masks or {}).items()}
        if self.num_steps:
            apply_masks(model, self._masks)
        self._optimiser = Sgd(model, recipe.momentum, recipe.weight_decay)
        self._average = _Average(model, recipe.ema) if recipe.ema > 0 else None
        self._generator = torch.Generator(device).manual_seed(seed)
        self._batches = Batches(
            split, recipe.batch_size, seed=seed, augment=augment, device=device, memory_format=layout(model)
        )
        self._guard: Guard | None = None
        if eps and recipe.attack.method in ONE_STEP:
            average = self._average.state if self._average else []
            self._guard = self._beside["guard"] = Guard(
                model, average, split, eps=eps, seed=seed, device=device, memory_format=layout(model)
            )
        self._losses: list[float] = []
        self._total, self._count = torch.zeros((), device=device), 0
        self._clock = clock
        self._pace: Pace | None = None  # from the first step of this process on
        self._late: deque[Tensor] = deque(maxlen=min(_LATE_STEPS, max(1, self.steps_per_epoch)))

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.step >= self.num_steps

    def go_on(self) -> None:
        """Start from where the checkpoint says that an earlier attempt was cut off, if it holds anything."""
        if (state := self._checkpoint.load()) is not None:
            self.restore(state)

    def advance(self, num_steps: int | None = None) -> None:
        """Take some optimiser steps, by default all that are left.

        Raises:
            Diverged: If an epoch's mean loss is NaN or infinite.
        """
        last = self.num_steps if num_steps is None else min(self.num_steps, self.step + num_steps)
        model, recipe = self._model, self._recipe
        model.train()
        pace = self._pace = self._pace or Pace(self.num_steps, self.step, clock=self._clock)
        with precision_context(recipe.precision, self._device):
            while self.step < last:
                images, labels = self._batches.take()
                self._optimiser.forget_gradients()
                with at_least_two_steps(self._collapsed):
                    loss = self._batch_loss(model, images, labels, self._generator)
                loss.backward()
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
                self._optimiser.step(recipe.lr * learning_rate_factor(recipe.schedule, self.step / self.num_steps))
                apply_masks(model, self._masks)
                if self._average is not None:
                    self._average.update(model, self.step)
                self._total, self._count = self._total + loss.detach(), self._count + 1
                self._late.append(loss.detach())
                self.step += 1
                due = pace.at(self.step)
                if self._count == self.steps_per_epoch or self.done:
                    self._end_epoch()
                    due = True
                if due:
                    self._say(pace)
                fail_point("training.step")
                if not self.done:
                    self._checkpoint.at(self.state)

    def finish(self) -> TrainingResult:
        """Take the averaged weights where the recipe wants them, and put the network into evaluation mode.

        Raises:
            Diverged: If a weight or a statistic is NaN or infinite.
        """
        if self.step:
            if self._average is not None:
                self._average.copy_to(self._model)
                apply_masks(self._model, self._masks)
            state = self._model.state_dict()
            if broken := next((name for name, t in state.items() if not bool(torch.isfinite(t).all())), ""):
                raise Diverged(f"{broken} is not finite after training; lower the learning rate or set clip_norm")
        if self._guard is not None and (at := self._guard.collapsed_at) is not None:
            self._checkpoint.note(
                f"training with {self._recipe.attack.method} collapsed by epoch {_count(at, 1)}: PGD broke what it had held."
                " It went on from the weights before, with two steps"
            )
        self._model.eval()
        return TrainingResult(tuple(self._losses), self.step)

    def state(self) -> dict[str, Tensor]:
        """Give everything that `restore` needs to go on from here, as copies by name."""
        kept = {
            "step": torch.tensor(self.step),
            "attacks": self._generator.get_state(),
            "losses": torch.tensor(self._losses, dtype=torch.float64),
            "epoch_loss": self._total,
            "epoch_steps": torch.tensor(self._count),
        }
        kept |= {f"model/{name}": tensor for name, tensor in self._model.state_dict().items()}
        kept |= {
            f"momentum/{i}": momentum for i, momentum in enumerate(self._optimiser.momenta) if momentum is not None
        }
        if self._average is not None:
            kept |= {f"average/{i}": tensor for i, tensor in enumerate(self._average.state)}
        kept |= {f"batches/{name}": tensor for name, tensor in self._batches.state().items()}
        kept |= {f"generators/{name}": tensor for name, tensor in generators_state(self._device).items()}
        for what, other in self._beside.items():
            kept |= {f"beside/{what}/{name}": tensor for name, tensor in other.state().items()}
        return {name: tensor.detach().clone().cpu() for name, tensor in kept.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, in a run made with the same arguments."""
        self.step, self._count = int(state["step"]), int(state["epoch_steps"])
        self._generator.set_state(state["attacks"])
        self._losses = state["losses"].tolist()
        self._total = state["epoch_loss"].to(self._device)
        self._model.load_state_dict(_under("model", state))
        self._optimiser.set_momenta([state.get(f"momentum/{i}") for i in range(len(self._optimiser.momenta))])
        if self._average is not None:
            for i, tensor in enumerate(self._average.state):
                tensor.copy_(state[f"average/{i}"])
        self._batches.restore(_under("batches", state))
        restore_generators(_under("generators", state), self._device)
        for what, other in self._beside.items():
            other.restore(_under(f"beside/{what}", state))
        epochs = self._recipe.epochs
        self._report(f"goes on at epoch {_count(epochs * self.step / self.num_steps, 1)} of {epochs:g}")

    def _end_epoch(self) -> None:
        self._losses.append(_finite(float(self._total) / self._count, self.step - 1))
        self._total, self._count = torch.zeros((), device=self._device), 0
        if self._guard is not None and self._guard.look(self._losses[-1], self._epochs_done):
            self._optimiser.set_momenta([None] * len(self._optimiser.momenta))  # they led there
            self._report(f"collapsed by epoch {_count(self._epochs_done, 1)}; goes on from before, with two steps")

    @property
    def _epochs_done(self) -> float:
        return self._recipe.epochs * self.step / self.num_steps

    @property
    def _collapsed(self) -> bool:
        return self._guard is not None and self._guard.collapsed_at is not None

    def _say(self, pace: Pace) -> None:
        """Report the epoch, the loss of the last steps and the time left; only here is a device waited for."""
        epochs, epoch = self._recipe.epochs, self._epochs_done
        slow = (pace.step_s or 0.0) * self.steps_per_epoch > _LONG_EPOCH_S
        loss = float(torch.stack(tuple(self._late)).mean())
        self._report(f"epoch {_count(epoch, 2 if slow else 1)} of {epochs:g}, loss {loss:.3g}{pace.left}")


def train(
    model: nn.Module,
    split: AnySplit,
    recipe: Recipe,
    batch_loss: BatchLoss,
    *,
    seed: int,
    augment: Augment = "none",
    masks: Masks | None = None,
    device: torch.device | None = None,
    report: Callable[[str], None] = lambda text: None,
    clock: Clock = time.monotonic,
    checkpoint: Checkpoint | None = None,
    eps: float = 0.0,
) -> TrainingResult:
    """Train a network in place; the arguments are those of `Training`.

    Returns:
        Losses by epoch; the network is then in evaluation mode on `device`, holding the averaged
        weights where `recipe.ema` is above 0.

    Raises:
        Diverged: If a loss, a weight or a statistic becomes NaN or infinite.
    """
    run = Training(
        model,
        split,
        recipe,
        batch_loss,
        seed=seed,
        augment=augment,
        masks=masks,
        device=device,
        report=report,
        clock=clock,
        checkpoint=checkpoint,
        eps=eps,
    )
    run.go_on()
    run.advance()
    return run.finish()


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set every masked-out weight to zero."""
    if masks:
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name].mul_(mask)


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Share of the highest learning rate.

    Args:
        schedule: `cosine`, `one_cycle` (linear warm-up over the first fifth, then linear to 0),
            `multistep` (a tenth after one half, a hundredth after three quarters) or `constant`.
        progress: Share of all steps done, in [0, 1).

    Returns:
        A factor in (0, 1].
    """
    match schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "one_cycle":
            return (progress + 0.01) / 0.21 if progress < 0.2 else (1 - progress) / 0.8
        case "multistep":
            return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
        case _:
            return 1.0


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 convolutions in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def precision_context(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the recipe wants it (`auto`: where the device has it)."""
    enabled = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def _count(epoch: float, digits: int) -> str:
    """Print an epoch and its fraction; a whole one without."""
    return f"{epoch:.0f}" if epoch == int(epoch) else f"{epoch:.{digits}f}"


def _under(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the part of a state below a name."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in state.items() if key.startswith(f"{name}/")}


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise Diverged(f"the training loss is {loss} by step {step}; lower the learning rate or set clip_norm")
    return loss


class _Average:
    """Averaged weights and batch-norm statistics, the decay warming up from 0.

    Source:
        Izmailov et al. 2018 (arXiv 1803.05407) for the use, with an exponential window; a cure of
        robust overfitting (Rebuffi et al. 2021, arXiv 2103.01946).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = [tensor.detach().clone() for tensor in _floats(model)]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.state, [tensor.detach() for tensor in _floats(model)], weight)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for target, value in zip(_floats(model), self.state, strict=True):
            target.copy_(value)


def _floats(model: nn.Module) -> list[Tensor]:
    return [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
