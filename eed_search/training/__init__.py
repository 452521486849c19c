"""Adversarial training: the inner attacks, the losses of recovery, the loop."""

from eed_search.training.attacks import perturb
from eed_search.training.loop import TrainingResult, train
from eed_search.training.recovery import DistillRecovery, LabelRecovery, distill_loss, label_loss

__all__ = ["DistillRecovery", "LabelRecovery", "TrainingResult", "distill_loss", "label_loss", "perturb", "train"]
