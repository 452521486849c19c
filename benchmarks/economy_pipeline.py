"""The trial with its savings switched off: what `economy.py` hands to the search in the place of `eed_search.trial`.

Each switch leaves the work itself as it is and takes away only what spares it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eed_search import trial
from eed_search.config.params import TrialParams
from eed_search.config.spec import Constraints, Spec
from eed_search.evaluation.latency import LatencyProbe, Probe
from eed_search.evaluation.sequential_test import Incumbent
from eed_search.frontier.points import violations
from eed_search.pipeline.search_context import SearchContext
from eed_search.runs.data_facts import DataFacts
from eed_search.runs.records import FreshCheck, Latency, Measurement, Reference, RungResult, TrialRecord

Report = Callable[[str], None]


@dataclass(frozen=True)
class Pipeline:
    """What one trial does.

    Args:
        store: Whether trials share what they make.
        gate: Whether limits that need no training are looked at before it.
        base: Whether a trial that shares nothing is still given the dense base.
    """

    store: bool = True
    gate: bool = True
    base: bool = False

    def read_data(self, spec: Spec, store_root: Path, report: Report) -> DataFacts:
        """As `trial.read_data`."""
        return trial.read_data(spec, store_root, report)

    def prepare(self, spec: Spec, store_root: Path, report: Report) -> SearchContext:
        """As `trial.prepare`; without the gate nothing is known of a trial beforehand."""
        setting = trial.prepare(spec, store_root, report)
        return setting if self.gate else replace(setting, profiles=())

    def make_probe(self, setting: SearchContext) -> LatencyProbe:
        """As `trial.make_probe`."""
        return trial.make_probe(setting)

    def run(
        self,
        number: int,
        params: TrialParams,
        setting: SearchContext,
        probe: Probe,
        report: Report,
        rung: int | None = None,
        rivals: Sequence[Incumbent] = (),
    ) -> TrialRecord | RungResult:
        """Run one trial: without the store in a store of its own, without the gate unlimited and judged afterwards."""
        given = setting
        if not self.store:
            given = replace(given, store_root=str(own_store(setting, number, base=self.base)))
        if not self.gate:
            given = replace(given, spec=without_limits(setting.spec))
        found = trial.run(number, params, given, probe, report, rung, rivals)
        if isinstance(found, RungResult):
            return found
        if not self.gate:
            found = judged(found, setting)
        if not self.store and found.measurement is not None:
            hand_over(found.measurement.artifact, Path(given.store_root), Path(setting.store_root))
        return found

    def baseline(self, size: float, setting: SearchContext, probe: Probe, report: Report) -> Reference:
        """As `trial.baseline`."""
        return trial.baseline(size, setting, probe, report)

    def final_latencies(
        self,
        classifiers: Sequence[tuple[str, TrialParams | None]],
        repeats: Sequence[int],
        setting: SearchContext,
        report: Report,
    ) -> list[Latency]:
        """As `trial.final_latencies`."""
        return trial.final_latencies(classifiers, repeats, setting, report)

    def confirm(
        self, artifact: str, params: TrialParams, bound: Measurement, setting: SearchContext, report: Report
    ) -> Measurement:
        """As `trial.confirm`."""
        return trial.confirm(artifact, params, bound, setting, report)

    def recheck(
        self, artifact: str, params: TrialParams | None, images: tuple[int, int], setting: SearchContext, report: Report
    ) -> FreshCheck:
        """As `trial.recheck`."""
        return trial.recheck(artifact, params, images, setting, report)


def own_store(setting: SearchContext, number: int, *, base: bool) -> Path:
    """Give a trial's own store, with nothing in it when it is new, or nothing but the dense base."""
    shared = Path(setting.store_root)
    own = shared.with_name("stores") / str(number)
    if base and not own.exists():
        artifact = Path(setting.base.measurement.artifact)
        shutil.copytree(shared / artifact, own / artifact)
    return own


def hand_over(artifact: str, own: Path, shared: Path) -> None:
    """Copy a trained team to where the finals look for it."""
    if not (shared / artifact).exists():
        shutil.copytree(own / artifact, shared / artifact)


def without_limits(spec: Spec) -> Spec:
    """Take all limits from a search."""
    return spec.model_copy(update={"search": spec.search.model_copy(update={"constraints": Constraints()})})


def judged(record: TrialRecord, setting: SearchContext) -> TrialRecord:
    """Hold a finished trial against the search's limits, as the trial itself would have after measuring."""
    if record.outcome != "done" or record.measurement is None:
        return record
    limits, base = setting.spec.search.constraints, setting.base
    swept = tuple(
        point
        for point in record.swept
        if all(value <= 0 for value in violations(dict(limits), point.measurement, base).values())
    )
    excess = violations(dict(limits), record.measurement, base)
    broken = [name for name, value in excess.items() if value > 0]
    record = replace(record, swept=swept, constraints=excess)
    if not broken:
        return record
    message = f"breaks {', '.join(broken)} (after measuring)"
    return replace(record, outcome="infeasible", reason=broken[0], message=message)
