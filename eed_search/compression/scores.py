"""Importance scores: one number for each weight; the higher, the more it is worth keeping.

A score is a function `score(model, batch) -> {parameter name: tensor of the parameter's shape}` for
the weights of all convolutions and linear layers. `config.registry` lists them; scores compare weights
WITHIN a layer, and every rule built on them is free of a layer's scale.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from eed_search.config import names, registry
from eed_search.config.spec import TrainingAttack
from eed_search.core.errors import ModelError
from eed_search.models.factored import replace
from eed_search.training.attacks import perturb
from eed_search.training.recovery import label_loss

Scores = Mapping[str, Tensor]
_BENDS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)


@dataclass(frozen=True)
class ScoreBatch:
    """What a score may look at.

    Attributes:
        images: Training images in [0, 1].
        labels: Their classes.
        eps: L∞ budget of the adversarial loss.
        attack: The inner attack of the adversarial loss.
        seed: Seed for the attack's random start.
    """

    images: Float[Tensor, "batch channels height width"]
    labels: Int[Tensor, " batch"]
    eps: float
    attack: TrainingAttack
    seed: int


ScoreFunction = Callable[[nn.Module, ScoreBatch], dict[str, Tensor]]


def weight_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Find the layers whose weights are scored, by name, in order.

    Raises:
        ModelError: If there is none.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if not layers:
        raise ModelError(f"{type(model).__name__} has no convolution or linear layer, so nothing can be compressed")
    return layers


def erm(model: nn.Module, batch: ScoreBatch) -> dict[str, Tensor]:
    """Magnitude, scaled as HYDRA and HARP initialise their learned scores.

    I = sqrt(6 / fan_in) * |w| / max|w| in each layer. Without score learning it ranks as layer-wise
    magnitude. Looks at no data.

    Source:
        HYDRA, Sehwag et al. 2020, arXiv 2002.10509, section 3; EED, arXiv 2504.04747.
    """
    scores = {}
    for name, layer in weight_layers(model).items():
        weight = layer.weight.detach()
        fan_in = weight[0].numel()
        scores[f"{name}.weight"] = math.sqrt(6 / fan_in) * weight.abs() / weight.abs().max().clamp_min(1e-30)
    return scores


def nis(model: nn.Module, batch: ScoreBatch) -> dict[str, Tensor]:
    """Neuron importance score propagation: how much a neuron can move the logits through all paths.

    The importance of a layer's outputs is |W|ᵀ times that of the next layer's outputs, from ones at
    the logits; residual branches both receive it and forks add. The weight form is
    S_oik = |W_oik| * I_o. Computed as the gradient of the summed logits in a float64 copy with
    absolute weights, absolute batch-norm scales, no biases, no activation functions and wrapped borders,
    summed over positions: there, autograd IS the recursion. Looks at the batch only for its shape.

    Source:
        NISP, Yu et al. 2018, arXiv 1711.05908, equation 9; EED, arXiv 2504.04747; the weight form is ours.
    """
    importance = neuron_importance(model, batch.images[:1].shape[1:])
    scores = {}
    for name, layer in weight_layers(model).items():
        weight = layer.weight.detach()
        row = importance[name].to(weight.device, torch.float64)
        if not bool(row.any()):  # beside the path to the logits, as a channel gate's layers are: magnitude alone
            row = torch.ones_like(row)
        row = row / row.max().clamp_min(1e-300)  # ranks stay, float32 cannot overflow
        scores[f"{name}.weight"] = (weight.abs() * row.view(-1, *[1] * (weight.ndim - 1))).to(weight.dtype)
    return scores


def neuron_importance(model: nn.Module, image_shape: torch.Size) -> dict[str, Float[Tensor, " outputs"]]:
    """Importance of every scored layer's output channels, before their batch norm, in float64.

    Args:
        model: The network; left untouched.
        image_shape: Channels, height, width.

    Returns:
        For each layer of `weight_layers`, one non-negative number an output channel.
    """
    positive = copy.deepcopy(model).cpu().double().eval()
    for module in positive.modules():
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            # wrapped borders: every kernel tap meets every position, as in the recursion
            module.register_forward_pre_hook(_wrapped(module.padding))
            module.padding = (0,) * len(module.padding)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            scale = batch_norm_scale(module)
            module.running_mean = torch.zeros_like(scale)
            module.running_var = torch.ones_like(scale)
            module.eps = 0.0
            module.weight = nn.Parameter(scale.abs())
            module.bias = nn.Parameter(torch.zeros_like(scale))
    for name, module in list(positive.named_modules()):
        if isinstance(module, _BENDS):  # ReLU takes nothing away from positive numbers, the others would saturate
            replace(positive, name, nn.Identity())
    layers = weight_layers(positive)
    outputs: dict[str, Tensor] = {}
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.abs_()
            if layer.bias is not None:
                layer.bias.zero_()

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    for name in dict(positive.named_children()):
        if name == "normalise":  # a shift would make inputs negative; the logits' gradient ignores the input
            setattr(positive, name, nn.Identity())
    try:
        logits = positive(torch.ones(1, *image_shape, dtype=torch.float64))
        gradients = torch.autograd.grad(logits.sum(), list(outputs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    found = {name: torch.zeros(layer.weight.shape[0], dtype=torch.float64) for name, layer in layers.items()}
    for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
        if gradient is not None:
            channel = output.ndim - 1 if isinstance(layers[name], nn.Linear) else 1
            found[name] = gradient.movedim(channel, -1).flatten(0, -2).sum(0)
    return found


def _wrapped(padding: tuple[int, ...]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Wrap images around by a convolution's padding, which may be wider than they are."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images = inputs[0]
        for dim, width in enumerate(padding, start=2):
            size = images.shape[dim]
            images = images.index_select(dim, torch.arange(-width, size + width) % size)
        return (images,)

    return hook


def ase(model: nn.Module, batch: ScoreBatch) -> dict[str, Tensor]:
    """Adversarial saliency: half the curvature of the ADVERSARIAL loss times the squared weight.

    I = H_ii * w_i² / 2, H by the diagonal of the empirical Fisher matrix (true labels): the mean
    over samples of the squared per-sample gradient at PGD examples. Not the square of the mean
    gradient, which is up to a batch size too small.

    Source:
        LeCun et al. 1990 (Optimal Brain Damage), equation 5, on the adversarial loss; EED, arXiv 2504.04747.
    """
    model = copy.deepcopy(model).eval()
    fisher = fisher_diagonal(model, _attacked(model, batch), batch.labels)
    return {
        f"{name}.weight": 0.5 * fisher[f"{name}.weight"] * layer.weight.detach() ** 2
        for name, layer in weight_layers(model).items()
    }


def fisher_diagonal(
    model: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    *,
    chunk: int = 16,
) -> dict[str, Tensor]:
    """Mean over samples of the squared per-sample gradient of the cross-entropy.

    Args:
        model: In evaluation mode.
        images: Where the gradients are taken.
        labels: True classes give the empirical Fisher matrix, classes drawn from the model the true one.
        chunk: Samples whose gradients are held at once (memory: chunk times the weights).

    Returns:
        For each weight of `weight_layers`, a tensor of its shape.
    """
    names = [f"{name}.weight" for name in weight_layers(model)]
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    scored = {name: parameters[name] for name in names}
    rest = {name: p for name, p in parameters.items() if name not in scored}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, ({**weights, **rest}, buffers), (image[None],))
        return functional.cross_entropy(logits.float(), label[None])

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(scored[name]) for name in names}
    for some_images, some_labels in zip(images.split(chunk), labels.split(chunk), strict=True):
        with warnings.catch_warnings():  # an operation that is done sample by sample is said to be slow
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            gradients = per_sample(scored, some_images, some_labels)
        for name in names:
            total[name] += gradients[name].square().sum(0)
    return {name: value / len(labels) for name, value in total.items()}


def _attacked(model: nn.Module, batch: ScoreBatch) -> Tensor:
    generator = torch.Generator(batch.images.device).manual_seed(batch.seed)
    return perturb(
        lambda images: label_loss(model(images), batch.labels),
        batch.images,
        eps=batch.eps,
        attack=batch.attack,
        generator=generator,
    )


def batch_norm_scale(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """Give gamma / sigma of each channel.

    Raises:
        ModelError: If the layer keeps no running statistics.
    """
    if norm.running_var is None:
        raise ModelError("batch norm without running statistics cannot be scored; train with track_running_stats=True")
    gamma = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach()
    return gamma / torch.sqrt(norm.running_var + norm.eps)


def score_function(name: str) -> ScoreFunction:
    """Give a score by its name, built in or registered by user code; what the latter gives is checked.

    Raises:
        ModelError: If there is none of that name.
    """
    if name in registry.BUILT_IN["score"]:
        built_in: ScoreFunction = registry.load("score", name)
        return built_in
    found = names.needed("score", name)

    def score(model: nn.Module, batch: ScoreBatch) -> dict[str, Tensor]:
        what = f"{found.place}: score {name!r}"
        given = found.make(model, batch)
        if not isinstance(given, Mapping):
            raise ModelError(f"{what}: gives {type(given).__name__}; give a tensor for each weight, by its name")
        scores = {}
        for layer, module in weight_layers(model).items():
            one = given.get(f"{layer}.weight")
            if not isinstance(one, Tensor) or one.shape != module.weight.shape:
                shown = f"shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
                raise ModelError(
                    f"{what}: gives {shown} for {layer}.weight; give a tensor of its shape {tuple(module.weight.shape)}"
                )
            scores[f"{layer}.weight"] = one.detach()
        return scores

    return score
