"""Shared by all tests: one thread each, since the suite runs on every core at once; no example has a deadline."""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits leaves its core to the other tests
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# A slow machine, or a busy one, is no fault of what is tested.
settings.register_profile("anywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anywhere")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A trial takes all cores of its process; the next test has one again."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture
def forgets_plugins() -> Iterator[None]:
    """Registered names are this process's: the next test begins with none."""
    from eed_search.config import names, plugins

    yield
    for entry in list(plugins._loaded):
        names.forget(entry)
    plugins._loaded.clear()
