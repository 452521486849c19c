"""Where a search runs: what is named wins, a file counts only where its cluster was brought up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from eed_search.cluster import where
from eed_search.cluster.where import Place, WhereAsked, find
from eed_search.core.errors import RunError, SpecError
from tests.cli.calling import ROOT, environment

LOCAL = """
cluster_name: mine
provider: {type: local, head_ip: 192.0.2.10, worker_ips: [192.0.2.11]}
auth: {ssh_user: me}
"""
CLOUD = "cluster_name: mine\nprovider: {type: aws, region: us-west-2}\nauth: {ssh_user: ubuntu}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a temporary folder in which no `ray up` has left anything."""
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp" / "ray").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / "work"


def brought_up(folder: Path, state: str = "running") -> None:
    """Leave what `ray up` leaves of own machines, or `ray down`."""
    nodes = {"192.0.2.10": {"tags": {}, "state": state}}
    (folder.parent / "tmp" / "ray" / "cluster-mine.state").write_text(json.dumps(nodes))


def at(asked: WhereAsked | None = None, **environment: str) -> Place:
    """Find the place."""
    return find(asked or WhereAsked(), environment)


def test_nothing_named_is_this_machine() -> None:
    """And says what there is not."""
    assert at() == Place("here", "On this machine: no --address, no RAY_ADDRESS, no ray_cluster.yaml")


def test_local_wins_over_everything(folder: Path) -> None:
    """RAY_ADDRESS and a running cluster's file."""
    (folder / "ray_cluster.yaml").write_text(LOCAL)
    brought_up(folder)
    assert at(WhereAsked(local=True), RAY_ADDRESS="http://h:1").kind == "here"


def test_an_address_wins_over_the_environment_and_that_over_a_file(folder: Path) -> None:
    """In this order; the reason is said."""
    (folder / "ray_cluster.yaml").write_text(LOCAL)
    brought_up(folder)
    first = at(WhereAsked(address="http://a:1"), RAY_ADDRESS="http://b:2")
    second = at(WhereAsked(cluster=Path("ray_cluster.yaml")), RAY_ADDRESS="http://b:2")
    assert (first.address, first.text) == ("http://a:1", "On the cluster at http://a:1: --address")
    assert (second.address, second.text) == ("http://b:2", "On the cluster at http://b:2: RAY_ADDRESS")


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379"])
def test_an_address_of_ray_itself_is_joined(address: str) -> None:
    """By this process: no job is sent."""
    place = at(WhereAsked(address=address))
    assert (place.kind, place.address) == ("join", address)


@pytest.mark.parametrize("address", ["ray://h:10001", "h", "ftp://h:1"])
def test_other_addresses_are_refused(address: str) -> None:
    """With the forms that are allowed."""
    with pytest.raises(RunError, match="http://HOST:8265"):
        at(WhereAsked(address=address))


@pytest.mark.parametrize("text", [LOCAL, CLOUD])
def test_a_file_that_only_lies_there_is_passed_over(folder: Path, text: str) -> None:
    """A fresh clone: nobody is asked, nothing is loaded."""
    (folder / "ray_cluster.yaml").write_text(text)
    place = at()
    assert place.kind == "here"
    assert place.text == (
        "On this machine: the cluster of ray_cluster.yaml was not brought up from this machine (`ray up ray_cluster.yaml`)"
    )


@pytest.mark.parametrize("text", [LOCAL, CLOUD])
def test_looking_at_such_a_file_loads_neither_ray_nor_a_clouds_library(folder: Path, text: str) -> None:
    """So `make launch` in a fresh clone needs none of this."""
    (folder / "ray_cluster.yaml").write_text(text)
    code = (
        "import sys; from eed_search.cluster.where import WhereAsked, find; print(find(WhereAsked()).kind);"
        "print([m for m in sys.modules if m.split('.')[0] in ('ray', 'boto3', 'botocore', 'torch')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["here", "[]"]


def test_the_running_cluster_of_a_file_is_taken(folder: Path) -> None:
    """What `ray up` left says so."""
    (folder / "ray_cluster.yaml").write_text(LOCAL)
    brought_up(folder)
    place = at()
    assert (place.kind, place.head) == ("submit", "192.0.2.10")
    assert place.text == "On the cluster mine of ray_cluster.yaml, head 192.0.2.10: it is up"


def test_a_cluster_that_was_brought_down_is_passed_over(folder: Path) -> None:
    """What `ray down` left says so."""
    (folder / "ray_cluster.yaml").write_text(LOCAL)
    brought_up(folder, "terminated")
    assert at().text.startswith("On this machine: the cluster of ray_cluster.yaml is down")


def test_a_cluster_that_is_named_must_run(folder: Path) -> None:
    """The error names the command that starts it."""
    (folder / "mine.yaml").write_text(LOCAL)
    brought_up(folder, "terminated")
    with pytest.raises(RunError, match=r"the cluster mine does not run; start it with `ray up mine\.yaml`"):
        at(WhereAsked(cluster=Path("mine.yaml")))


def test_a_named_file_that_another_machine_brought_up_counts(folder: Path) -> None:
    """Its head stands in it; ssh will tell."""
    (folder / "mine.yaml").write_text(LOCAL)
    assert at(WhereAsked(cluster=Path("mine.yaml"))).kind == "submit"


def test_a_named_file_that_is_not_there_is_a_mistake() -> None:
    """Not a reason to search here."""
    with pytest.raises(SpecError, match="no such file"):
        at(WhereAsked(cluster=Path("none.yaml")))


def noted(folder: Path) -> None:
    """Leave the launcher's note of a cloud's cluster."""
    config = {"cluster_name": "mine", "provider": {"type": "aws"}, "auth": {"ssh_private_key": "/made.pem"}}
    (folder.parent / "tmp" / "ray-config-0a1b").write_text(json.dumps({"_version": 1, "config": config}))


def provider_says(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in the place of `ray get-head-ip`: a provider costs an account."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_cloud_is_asked_where_its_cluster_was_brought_up_from_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line is the head's address."""
    (folder / "ray_cluster.yaml").write_text(CLOUD)
    noted(folder)
    provider_says(folder, monkeypatch, "echo Loaded cached provider configuration; echo 203.0.113.7")
    assert at().head == "203.0.113.7"


def test_a_cloud_that_knows_of_no_head_means_down(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the search runs here, and says why."""
    (folder / "ray_cluster.yaml").write_text(CLOUD)
    noted(folder)
    provider_says(folder, monkeypatch, "echo 'RuntimeError: Head node of cluster (mine) not found!' >&2; exit 1")
    assert at().text.startswith("On this machine: the cluster of ray_cluster.yaml is down")


def test_a_cloud_that_does_not_tell_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that was meant for a cluster does not quietly start elsewhere."""
    (folder / "ray_cluster.yaml").write_text(CLOUD)
    noted(folder)
    provider_says(folder, monkeypatch, "echo NoCredentialsError: Unable to locate credentials >&2; exit 1")
    with pytest.raises(RunError, match=r"Unable to locate credentials.*`ray get-head-ip.*`--local`"):
        at()


def test_a_cloud_that_does_not_answer_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit of time."""
    (folder / "ray_cluster.yaml").write_text(CLOUD)
    noted(folder)
    monkeypatch.setattr(where, "_PROVIDER_S", 0.3)
    provider_says(folder, monkeypatch, "exec sleep 3600")
    with pytest.raises(RunError, match=r"no answer within 0\.3 s"):
        at()


def test_another_users_note_does_not_count(folder: Path) -> None:
    """The folder for temporary files belongs to everybody."""
    (folder / "ray_cluster.yaml").write_text(CLOUD)
    noted(folder)
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(folder.parent / "tmp" / "ray-config-0a1b", 65534, 65534)
    assert at().kind == "here"


def test_the_repositorys_own_file_keeps_a_launch_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh clone."""
    monkeypatch.chdir(ROOT)
    assert at().kind == "here"
