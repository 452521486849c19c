"""The shipped cluster files fit Ray's own schema, defaults filled in as `ray up` does, without network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

from tests.cli.calling import ROOT

FILES = pytest.mark.parametrize("name", ["ray_cluster.yaml", "ray_cluster.local.yaml"])


def _prepared(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """Do what `ray up` does before it asks the provider."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(folder))
    prepared = dict(prepare_config(raw))
    validate_config(prepared)
    return prepared


def _raw(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))


@FILES
def test_ray_takes_the_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every key is known, every type right; and no cloud library was needed to see it."""
    raw, before = _raw(name), set(sys.modules)
    prepared = _prepared(raw, monkeypatch, tmp_path)
    for section in ("head_start_ray_commands", "worker_start_ray_commands", "file_mounts", "idle_timeout_minutes"):
        assert prepared[section] == raw[section], "a default of Ray's took the place of what the file says"
    assert not {"boto3", "botocore"} & (sys.modules.keys() - before)


def test_the_cap_holds_for_every_node_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No more of the head's type; workers within the cap; none without work."""
    prepared = _prepared(_raw("ray_cluster.yaml"), monkeypatch, tmp_path)
    limits = {name: (n["min_workers"], n["max_workers"]) for name, n in prepared["available_node_types"].items()}
    assert limits == {"head": (0, 0), "gpu_worker": (0, 4)}


def test_own_machines_become_one_node_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every worker that is listed is wanted."""
    prepared = _prepared(_raw("ray_cluster.local.yaml"), monkeypatch, tmp_path)
    (node,) = prepared["available_node_types"].values()
    assert (node["min_workers"], node["max_workers"], prepared["max_workers"]) == (2, 2, 2)


@FILES
def test_the_schema_would_say_so(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key that Ray does not know is refused: the test above can fail."""
    with pytest.raises(ValidationError, match="idle_minutes"):
        _prepared({**_raw(name), "idle_minutes": 5}, monkeypatch, tmp_path)


@FILES
def test_everything_that_is_mounted_is_there(name: str) -> None:
    """Ray ends in an assertion for a local path that does not exist; the token is the user's own."""
    mounts = _raw(name)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert not [local for local in mounts.values() if not (ROOT / local).exists()]
