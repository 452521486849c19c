"""How networks are trained: the dense base, what each method does to a member, and a team together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eed_search.config.section import Section


class TrainingAttack(Section):
    """The inner maximisation of adversarial training."""

    method: Literal["pgd", "fgsm_rs", "n_fgsm", "none"] = Field(
        "pgd", description="how training images are attacked; none trains on clean ones"
    )
    steps: int = Field(7, ge=1, le=100, description="steps of pgd; the others take one")
    step_size: float | None = Field(
        None, gt=0, le=1, description="pixel units; eps/4 by default, 1.25 eps for fgsm_rs, eps for n_fgsm"
    )


class Recipe(Section):
    """One training run."""

    epochs: float = Field(10, ge=0, le=10_000, description="passes over the training images; 0 skips")
    batch_size: int = Field(128, ge=2, le=65_536, description="training images in a step")
    lr: float = Field(0.1, gt=0, le=10, description="highest learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of SGD")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="L2 penalty on the weights")
    schedule: Literal["cosine", "one_cycle", "multistep", "constant"] = Field(
        "one_cycle", description="how the learning rate changes over the run"
    )
    ema: float = Field(
        0.998, ge=0, lt=1, description="decay of the averaged weights, warming up; 0 takes the last weights"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="auto takes bfloat16 where the device has it"
    )
    attack: TrainingAttack = Field(TrainingAttack(), description="how the training images are attacked")


class Joint(Recipe):
    """The joint fine-tune with L_EED; `beta`, `omega`, `gamma` belong to the search."""

    epochs: float = Field(5, ge=0, le=10_000, description="passes over the training images; 0 skips")
    lr: float = Field(0.02, gt=0, le=10, description="highest learning rate")
    alpha: float = Field(0.5, ge=0, le=100, description="weight of the ensemble's entropy reward in L_E")
    psi: float = Field(1.0, ge=0, le=100, description="scale of L_R")
    lambda_w: float = Field(1e-5, ge=0, le=1, description="scale of the L1 norm of kept weights in L_C")
    lambda_a: float = Field(0.25, ge=0, le=100, description="scale of the activation term in L_C")
    delta: float = Field(0.1, gt=0, le=100, description="where the activation surrogate a/(a+delta) is one half")


class AdmmRecipe(Recipe):
    """Adversarial training while ADMM pulls the weights into their set; `members.finetune` follows."""

    epochs: float = Field(20, gt=0, le=10_000, description="passes over the training images")
    lr: float = Field(0.1, gt=0, le=10, description="highest learning rate")
    ema: float = Field(0, ge=0, lt=1, description="decay of the averaged weights, warming up; 0 takes the last weights")
    updates: int = Field(10, ge=1, le=10_000, description="updates of Z and U, spread evenly over the epochs")
    rho: float = Field(0.1, gt=0, le=1000, description="first weight of the penalty")
    rho_growth: float = Field(1.8, ge=1, le=100, description="factor of the penalty's weight at each update")
    rho_max: float = Field(10, gt=0, le=1000, description="largest weight of the penalty")
    tolerance: float = Field(
        0.05, ge=0, le=1, description="stop when |W-Z|/|W| and |Z'-Z|/|W| of every layer are below"
    )


class Radmm(AdmmRecipe):
    """Method `radmm`: concurrent adversarial training and ADMM pruning."""

    set: Literal["irregular", "filter", "column"] = Field(
        "filter", description="what is removed: single weights, channels, or columns of the weight matrix"
    )


class Cstar(AdmmRecipe):
    """Method `cstar`: adversarial training towards low rank, then factored layers."""

    block: int = Field(4, ge=1, le=256, description="ranks are taken in multiples of this")


class Learned(Recipe):
    """Method `learned`: which weights or channels stay is learned under a budget; `members.finetune` follows."""

    epochs: float = Field(20, gt=0, le=10_000, description="passes over the training images")
    lr: float = Field(0.1, gt=0, le=10, description="highest learning rate")
    weight_decay: float = Field(0, ge=0, le=1, description="L2 penalty on the learned importance")
    ema: float = Field(0, ge=0, lt=1, description="decay of the averaged weights, warming up; 0 takes the last weights")
    budget: Literal["global", "layer"] = Field(
        "global", description="global: each layer's share is learned; layer: all keep the same"
    )
    min_share: float = Field(0.1, ge=0, lt=1, description="smallest share of a layer, as a fraction of the size")
    phi: float = Field(0.01, gt=0, le=100, description="what the budget's weight gains at each step over budget")


class Members(Section):
    """How members are cut from the base and recover."""

    granularity: Literal["channel", "unstructured"] = Field(
        "channel",
        description="what prune and learned remove: channels, which saves time, or single weights, which does not",
    )
    block: int = Field(8, ge=1, le=256, description="channels are kept in multiples of this")
    score_samples: int = Field(256, ge=8, description="training images from which scores are taken")
    finetune: Recipe = Field(Recipe(), description="how a member regains its robustness; comes last for every method")
    radmm: Radmm = Field(Radmm(), description="method radmm")
    cstar: Cstar = Field(Cstar(), description="method cstar")
    learned: Learned = Field(Learned(), description="method learned")
