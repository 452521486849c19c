"""One gate in two tongues: as torch's team has it, and as the runtime's settings."""

from __future__ import annotations

from eed_search.config.spec import GateSpec
from eed_search.deployment.runtime import ABOVE_ALL_LEADS, GateSettings
from eed_search.ensemble.gate import LEAST_LOG, DeployedGate, Gate, MarginGate

assert -LEAST_LOG < ABOVE_ALL_LEADS


def gate_of(spec: GateSpec, threshold: float) -> DeployedGate:
    """Build the gate that a search-space file asks for.

    Args:
        spec: Its section `gate`.
        threshold: Stop probability, or the lead in logits where `spec.rule` is `margin`.
    """
    if spec.rule == "margin":
        return MarginGate(threshold)
    return Gate(threshold, spec.rule, spec.sharpness, spec.tau)


def to_settings(gate: DeployedGate) -> GateSettings:
    """Give torch's gate as the runtime's settings."""
    if isinstance(gate, MarginGate):
        return GateSettings("margin", gate.threshold)
    return GateSettings(gate.rule, gate.threshold, gate.sharpness, gate.tau)


def from_settings(settings: GateSettings) -> DeployedGate:
    """Give the runtime's settings as torch's gate."""
    if settings.rule == "margin":
        return MarginGate(settings.threshold)
    return Gate(settings.threshold, "map" if settings.rule == "map" else "threshold", settings.sharpness, settings.tau)
