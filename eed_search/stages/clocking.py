"""Stages that measure time: single networks in the search, deployed cascades at its end."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from eed_search.compression.member import Member
from eed_search.core.errors import ModelError
from eed_search.core.records import Denominator, Interval, Latency, from_json, to_json
from eed_search.core.store import Artifact
from eed_search.deployment.gates import to_settings
from eed_search.deployment.onnx_export import to_onnx
from eed_search.ensemble.gate import DeployedGate
from eed_search.evaluation.cascade import Cascade
from eed_search.evaluation.latency import Probe, RatioEstimate
from eed_search.evaluation.sittings import cascade_latencies
from eed_search.models import signature
from eed_search.stages.bench import Bench


@dataclass(frozen=True)
class Deployed:
    """Members in gate order with their gate, and where they lie in the store."""

    members: Sequence[Member]
    gate: DeployedGate
    artifact: str
    plain: bool = False  # a base or control, which a practitioner would run without a script


class Clocking(Bench):
    """Whatever is timed."""

    def latency(self, model: nn.Module, probe: Probe, reference_signature: str) -> RatioEstimate:
        """Measure a network's latency against the dense base, once for each architecture on each machine."""
        spec = self.spec
        settings = {
            "architecture": signature(model, self.data.image_shape),
            "reference": reference_signature,
            "runtime": _runtime_version(),
            "protocol": spec.latency.model_dump(exclude={"final_rounds", "final_calls", "final_processes", "node"}),
            "machine": getattr(probe, "machine", "") or machine_name(),  # the probe may be on another node
        }

        def compute(seed: int) -> Artifact:
            self.report("latency")
            estimate = probe.measure(to_onnx(model, self.data.image_shape))
            return Artifact(meta={"estimate": asdict(estimate)})

        stored = self.store.get("latency.5", settings, compute, keep=lambda found: not found.meta["estimate"]["noisy"])
        meta = stored.artifact.meta["estimate"]
        return RatioEstimate(
            **(meta | {name: Interval(**value) for name, value in meta.items() if isinstance(value, dict)})
        )

    def cascades(
        self,
        teams: Sequence[Deployed],
        base: nn.Module,
        dense_ms: float,
        repeats: Sequence[int] | None = None,
        denominator: Denominator = "plain",
    ) -> list[Latency]:
        """Time deployed cascades together on the validation images; those in the store are not timed again.

        Args:
            teams: What is deployed; equal single networks are timed once.
            base: The dense base.
            dense_ms: Its latency in this search.
            repeats: How often each was timed before: for that number it is timed once. 0 for all by default.
            denominator: How the dense base runs.
        """
        spec, shape = self.spec, self.data.image_shape
        shared = {
            "reference": signature(base, shape),
            "dense_ms": dense_ms,
            "runtime": _runtime_version(),
            "protocol": spec.latency.model_dump(exclude={"node"}),
            "machine": machine_name(),
        }
        settings = [
            shared
            | {
                "networks": [signature(m.model, shape) for m in team.members],
                # a single network's time depends on its architecture, a team's on whom the gate asks too
                "team": [team.artifact, asdict(team.gate), self.data.key] if len(team.members) > 1 else None,
            }
            | ({"repeat": repeat} if repeat else {})
            | ({"denominator": "plain"} if denominator == "plain" else {})
            | ({"plain": True} if team.plain else {})
            for team, repeat in zip(teams, repeats or [0] * len(teams), strict=True)
        ]
        keys = [self.store.key("cascade.5", one) for one in settings]
        untimed = {key: team for key, team in zip(keys, teams, strict=True) if not self.store.has("cascade.5", key)}
        timed = self._time_cascades(list(untimed.values()), base, dense_ms, denominator) if untimed else []
        found = {key: to_json(one) for key, one in zip(untimed, timed, strict=True)}

        def kept(key: str, one: dict[str, Any]) -> Latency:
            # noisy ones too: `dense_ms` is this search's own, so the time is not carried to another
            stored = self.store.get("cascade.5", one, lambda seed: Artifact(meta=found[key]))
            return from_json(Latency, stored.artifact.meta)

        return [kept(key, one) for key, one in zip(keys, settings, strict=True)]

    def _time_cascades(
        self, teams: Sequence[Deployed], base: nn.Module, dense_ms: float, denominator: Denominator
    ) -> list[Latency]:
        shape = self.data.image_shape
        cascades = [
            Cascade(
                [to_onnx(m.model, shape) for m in team.members],
                to_settings(team.gate),
                team.plain,
            )
            for team in teams
        ]
        images = self.data.validation.images.numpy()
        return cascade_latencies(
            cascades,
            images,
            to_onnx(base, shape),
            self.sentinel(),
            self.spec.latency,
            dense_ms,
            self.report,
            denominator,
        )

    def sentinel(self) -> bytes:
        """A half-width network: if it does not time as half, the machine is not to be trusted."""
        try:
            network = self.architecture(0.5)
        except ModelError:  # no channel of it can be removed; any network of unchanging cost will do
            network = self._untrained(0)
        return to_onnx(network, self.data.image_shape)


@lru_cache(maxsize=1)
def machine_name() -> str:
    """Name the kind of machine that latencies belong to: processor model and host."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.partition(":")[2].strip()
            for line in info.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.startswith("model name")
        ]
        processor = models[0] if models else processor
    return f"{processor} at {platform.node()}"


def _runtime_version() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
