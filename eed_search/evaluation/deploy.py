"""From a trained team in torch to a verified bundle."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eed_search.core.errors import BundleError
from eed_search.deployment.bundle import Replay, refuse_existing, write_bundle
from eed_search.deployment.gates import to_settings
from eed_search.deployment.onnx_export import to_onnx
from eed_search.ensemble.gate import Decision, DeployedGate, GatedEnsemble, MarginGate, at_prefix, prefix_means
from eed_search.ensemble.sweep import rounding_of

NUM_REPLAY = 200


def deploy(
    members: Sequence[nn.Module],
    gate: DeployedGate,
    images: Float[Tensor, "images channels height width"],
    out: Path,
    *,
    claims: Mapping[str, Any],
    config: Mapping[str, Any],
    search_space_yaml: str,
    class_names: Sequence[str] | None = None,
    num_replay: int = NUM_REPLAY,
) -> Path:
    """Export a team, store inputs with the answers that torch gives, and verify the result.

    Args:
        members: Networks from images in [0, 1] to logits, in gate order; left as they were.
        gate: The team's gate.
        images: Real images in [0, 1]; up to `num_replay` of them, evenly spread, are stored.
        out: The folder to make; must not exist.
        claims: What was measured; JSON-ready.
        config: How the team was made; JSON-ready.
        search_space_yaml: A search-space file that runs this point again.
        class_names: A name for each class; numbers by default.
        num_replay: Most images to store.

    Returns:
        The folder.

    Raises:
        BundleError: If the folder exists or cannot be written, or the exported team answers otherwise.
        ModelError: If a member cannot be exported.
    """
    refuse_existing(out)  # before the work, not only after it
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    picks = torch.linspace(0, len(images) - 1, min(num_replay, len(images))).round().long()
    replay, num_classes = expected_answers(members, gate, images[picks].float().cpu())
    return write_bundle(
        out,
        [to_onnx(member, shape) for member in members],
        to_settings(gate),
        shape,
        class_names or num_classes,
        replay=replay,
        claims=claims,
        config=config,
        search_space_yaml=search_space_yaml,
    )


def expected_answers(
    members: Sequence[nn.Module], gate: DeployedGate, images: Float[Tensor, "images channels height width"]
) -> tuple[Replay, int]:
    """Ask torch's team, and keep the images whose answer rounding cannot change.

    Args:
        members: In gate order; run in evaluation mode as copies on the CPU.
        gate: The team's gate.
        images: float32 on the CPU.

    Returns:
        The images kept with label and members run, and the number of classes.

    Raises:
        BundleError: If no image is left.
    """
    team = GatedEnsemble([copy.deepcopy(member).float().cpu() for member in members], gate).eval()
    with torch.inference_mode():
        parts = [team.member_log_probabilities(part) for part in torch.split(images, 256)]
    logs = torch.cat(parts, dim=1)
    decision = gate.decide_logs(logs)
    keep = clear_of_rounding(logs, gate, decision)
    if not keep.any():
        raise BundleError(
            f"all {len(images)} images lie within {rounding_of(gate):g} of the gate's threshold {gate.threshold:g}, so no answer"
            " can be stored for the replay; choose another gate threshold"
        )
    replay = Replay(
        images[keep].numpy(),
        decision.labels[keep].numpy(),
        decision.members_run[keep].numpy(),
        num_skipped=int((~keep).sum()),
    )
    return replay, logs.shape[-1]


def clear_of_rounding(
    logs: Float[Tensor, "members images classes"], gate: DeployedGate, decision: Decision
) -> Bool[Tensor, " images"]:
    """Mark the images for which no comparison on the way to the answer was close.

    Close means within 1e-5: of a stop probability to the threshold (rule `map`: of the best value so
    far to what is left, and to the second best), and of the two highest probabilities of the answer
    to each other. Where the gate magnifies rounding (sharpness above 1, tau below 1), so is the margin. Behind a
    `MarginGate` it means within 1e-4: of a lead to the threshold, and of the answer's lead to 0.

    Args:
        logs: Log-softmax outputs of every member.
        gate: The team's gate.
        decision: What it decided on them.
    """
    if isinstance(gate, MarginGate):
        return _clear_of_margin(logs, gate, decision)
    least = rounding_of(gate)
    margin = least * max(1.0, gate.sharpness, 1 / gate.tau)
    means = prefix_means(logs.exp().double())
    stop = gate.stop_probabilities(means)
    place = torch.arange(1, len(stop) + 1)[:, None]
    compared = (place <= decision.members_run) & (place < len(stop))  # the last member stops without a comparison
    if gate.rule == "threshold":
        distance = (stop - gate.threshold).abs()
    else:
        left = torch.cumprod(1 - stop, dim=0)
        value = stop * torch.cat([torch.ones_like(left[:1]), left[:-1]])
        distance = (torch.cummax(value, dim=0).values - left).abs()
    clear = (distance >= margin).logical_or(~compared).all(dim=0)
    if gate.rule == "map" and len(stop) > 1:
        best_two = value.masked_fill(place > decision.members_run, -1.0).topk(2, dim=0).values
        clear &= best_two[0] - best_two[1] >= margin
    top_two = at_prefix(means, decision.answer).topk(2, dim=-1).values
    return clear & (top_two[:, 0] - top_two[:, 1] >= least)


def _clear_of_margin(
    logs: Float[Tensor, "members images classes"], gate: MarginGate, decision: Decision
) -> Bool[Tensor, " images"]:
    least = rounding_of(gate)
    leads = gate.readings(logs.double()).stops
    place = torch.arange(1, len(leads) + 1)[:, None]
    compared = (place <= decision.members_run) & (place < len(leads))
    clear = ((leads - gate.threshold).abs() >= least).logical_or(~compared).all(dim=0)
    return clear & (at_prefix(leads[..., None], decision.answer)[:, 0] >= least)
