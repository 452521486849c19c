"""The stub pipeline that also writes down on which node each thing is done (a file that EED_PLACES names)."""

from __future__ import annotations

import os
import time
from typing import Any

from eed_search.runs.data_facts import DataFacts
from tests.search import stub_pipeline
from tests.search.stub_pipeline import SearchContext, baseline, confirm, recheck

__all__ = [
    "SearchContext",
    "baseline",
    "confirm",
    "final_latencies",
    "make_probe",
    "prepare",
    "read_data",
    "recheck",
    "run",
    "train_base",
]


def _here(what: str) -> None:
    import ray

    with open(os.environ["EED_PLACES"], "a", encoding="utf-8") as file:
        file.write(f"{what} {ray.get_runtime_context().get_node_id()}\n")


class Probe(stub_pipeline.Probe):
    """Writes down where it measures."""

    def measure(self, onnx: bytes) -> float:
        _here("probe")
        return super().measure(onnx)


def train_base(spec: Any, store_root: Any, report: Any) -> None:
    _here("train_base")


def read_data(spec: Any, store_root: Any, report: Any) -> DataFacts:
    return stub_pipeline.read_data(spec, store_root, report)


def prepare(spec: Any, store_root: Any, report: Any) -> SearchContext:
    _here("prepare")
    return stub_pipeline.prepare(spec, store_root, report)


def make_probe(setting: SearchContext) -> Probe:
    return Probe()


def run(number: int, *given: Any) -> Any:
    """Take a while, so that a node can be lost meanwhile."""
    _here(f"trial-{number}")
    time.sleep(float(os.environ["EED_STUB_PAUSE"]))
    return stub_pipeline.run(number, *given)


def final_latencies(classifiers: Any, repeats: Any, setting: SearchContext, report: Any) -> Any:
    _here("final_latencies")
    return stub_pipeline.final_latencies(classifiers, repeats, setting, report)
