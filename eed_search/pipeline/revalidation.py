"""What is done to finished classifiers when the trials are over: a last attack, fresh images, and the final latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eed_search.config.params import TrialParams
from eed_search.deployment.gates import gate_of
from eed_search.ensemble.gate import RUNS_ALL
from eed_search.models import count_macs
from eed_search.pipeline.context import Report, open_context
from eed_search.pipeline.latency import Deployed, cascades
from eed_search.pipeline.measurement import robust_accuracy, robustness_of, under_attack
from eed_search.pipeline.robustness import robust_evaluation, slow_down
from eed_search.pipeline.search_context import SearchContext
from eed_search.pipeline.team import find_networks
from eed_search.pipeline.training import dense_base
from eed_search.runs.records import Accuracy, FreshCheck, Latency, Measurement, pack_bits


def confirm(
    artifact: str, params: TrialParams, bound: Measurement, setting: SearchContext, report: Report
) -> Measurement:
    """Attack a trained team at one gate threshold: what was an upper bound becomes a measurement.

    Args:
        artifact: `stage/key` of the team in the store.
        params: Parameters of the point, its threshold included.
        bound: What the sweep measured there: clean accuracy and latency are exact and stay.
        setting: What all trials share.
        report: Told which stage runs.
    """
    spec = setting.spec
    context = open_context(spec, setting.store_root, report, whole_machine=True)
    stored = find_networks(context, artifact, params)
    team = [m.model for m in context.read_members(stored)]
    gate = gate_of(spec.gate, params.gate_threshold)
    judged = robust_evaluation(context, team, stored.key, gate, name="a swept threshold")
    slow = slow_down(context, team, stored.key, gate, name="a swept threshold")
    macs = [count_macs(network, setting.image_shape) for network in team]
    return replace(
        bound,
        **robustness_of(judged, setting),
        under_attack=under_attack(judged, slow, macs),
        remade=tuple(context.store.remade),
    )


def recheck(
    artifact: str, params: TrialParams | None, images: tuple[int, int], setting: SearchContext, report: Report
) -> FreshCheck:
    """Evaluate one classifier again on fresh images, which no decision of the search has seen.

    Args:
        artifact: `stage/key` of the networks in the store.
        params: Parameters of the point, for its gate; none for the base and the baselines.
        images: The first of the fresh images, and one past the last.
        setting: What all trials share.
        report: Told which stage runs.
    """
    spec = setting.spec
    context = open_context(spec, setting.store_root, report, whole_machine=True)
    stored = find_networks(context, artifact, params)
    networks = [m.model for m in context.read_members(stored)]
    gate = gate_of(spec.gate, params.gate_threshold if params else RUNS_ALL)
    judged = robust_evaluation(context, networks, stored.key, gate, name="fresh images", split="fresh", part=images)
    robust, bits = robust_accuracy(judged, spec), pack_bits(judged.robust_right)
    return FreshCheck(Accuracy.of(judged.clean_right), robust, bits, tuple(context.store.remade))


def final_latencies(
    classifiers: Sequence[tuple[str, TrialParams | None]],
    repeats: Sequence[int],
    setting: SearchContext,
    report: Report,
) -> list[Latency]:
    """Time deployed cascades themselves, image by image, in the same rounds, with the whole machine to themselves.

    Args:
        classifiers: For each the `stage/key` of its networks in the store, and the trial's parameters for
            its gate; no parameters for the base and the baselines.
        repeats: How often each was timed before; what lies in the store for that number is not timed again.
        setting: What all trials share.
        report: Told what is going on.

    Returns:
        One for each.
    """
    context = open_context(setting.spec, setting.store_root, report)
    report(f"{len(classifiers)} classifiers in turns")
    teams = [
        Deployed(
            context.read_members(find_networks(context, artifact, params)),
            gate_of(setting.spec.gate, params.gate_threshold if params else RUNS_ALL),
            artifact,
            plain=params is None and setting.denominator == "plain",
        )
        for artifact, params in classifiers
    ]
    dense_ms = setting.base.measurement.latency.latency_ms.value
    found = cascades(context, teams, dense_base(context)[0], dense_ms, repeats, setting.denominator)
    if remade := tuple(context.store.remade):
        found[0] = replace(found[0], remade=remade)  # said once: they were timed together
    return found
