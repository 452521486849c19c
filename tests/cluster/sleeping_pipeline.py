"""The stub pipeline whose trials sleep (EED_SLEEP seconds) and write down when they began and ended (EED_SPANS)."""

from __future__ import annotations

import os
import time
from typing import Any

from tests.search import stub_pipeline
from tests.search.stub_pipeline import (
    SearchContext,
    baseline,
    confirm,
    final_latencies,
    make_probe,
    prepare,
    read_data,
    recheck,
)

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
]


def run(number: int, *given: Any) -> Any:
    begin = time.time()
    time.sleep(float(os.environ["EED_SLEEP"]))
    record = stub_pipeline.run(number, *given)
    with open(os.environ["EED_SPANS"], "a", encoding="utf-8") as file:
        file.write(f"{begin} {time.time()}\n")
    return record
