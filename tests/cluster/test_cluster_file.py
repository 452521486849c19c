"""A cluster file says how the cluster is reached; every mistake is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from eed_search.cluster.cluster_file import read
from eed_search.core.errors import SpecError

LOCAL = """
cluster_name: lab
provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2, 10.0.0.3]}
auth: {ssh_user: ana, ssh_private_key: ~/.ssh/lab, ssh_proxy_command: nc %h %p}
file_mounts: {"~/.ray/auth_token": ~/tokens/lab}
"""


def _written(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _problems(folder: Path, text: str) -> list[str]:
    path = _written(folder, text)
    with pytest.raises(SpecError) as caught:
        read(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_own_machines(tmp_path: Path) -> None:
    """Head, workers, user, key and token stand in the file."""
    cluster = read(_written(tmp_path, LOCAL))
    assert (cluster.name, cluster.provider, cluster.is_local) == ("lab", "local", True)
    assert (cluster.head_address, cluster.worker_addresses) == ("10.0.0.1", ("10.0.0.2", "10.0.0.3"))
    assert (cluster.ssh_user, cluster.ssh_key) == ("ana", Path.home() / ".ssh/lab")
    assert cluster.token_file == Path.home() / "tokens/lab"
    key = str(Path.home() / ".ssh/lab")
    assert cluster.ssh_options() == ["-i", key, "-o", "IdentitiesOnly=yes", "-o", "ProxyCommand=nc %h %p"]


def test_a_head_alone_is_a_cluster(tmp_path: Path) -> None:
    """Without workers: Ray takes an empty list too."""
    assert read(_written(tmp_path, LOCAL.replace("[10.0.0.2, 10.0.0.3]", "[]"))).worker_addresses == ()


def test_a_cloud_knows_its_head_only_once_it_runs(tmp_path: Path) -> None:
    """No address in the file; the user is the one that Ray fills in."""
    cluster = read(_written(tmp_path, "cluster_name: c\nprovider: {type: aws, region: eu-central-1}\n"))
    assert (cluster.head_address, cluster.worker_addresses, cluster.ssh_user) == (None, (), "ubuntu")
    assert (cluster.ssh_key, cluster.token_file, cluster.ssh_options()) == (None, None, [])


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """A file of own machines without name, user and addresses."""
    assert _problems(tmp_path, "provider: {type: local, worker_ips: [1]}\nauth: {}\n") == [
        "cluster_name: is missing; give the cluster a name",
        "auth.ssh_user: is missing; name the user who logs in",
        "provider.head_ip: is missing; give the head's address",
        "provider.worker_ips: 1 is not text; quote each address",
    ]


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    """The last would win, unseen."""
    assert _problems(tmp_path, LOCAL + "\nfile_mounts: {}\n") == [
        "is not YAML: the key 'file_mounts' stands twice, line 7"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds nothing, not a table; see ray_cluster.yaml for one that works"),
        ("- a\n", "holds list, not a table; see ray_cluster.yaml for one that works"),
        ("a: [\n", "is not YAML: line 2: expected the node content, but found '<stream end>'"),
        ("a: !!python/object/apply:os.getcwd []\n", "is not YAML: line 1: could not determine a constructor for the"),
        ("cluster_name: x\nprovider: here\n", "provider: 'here' is not a table; say where the nodes are"),
        ("a: " + "x" * (1 << 20), "larger than 1 MiB; a cluster file is a few pages of YAML"),
    ],
)
def test_what_is_no_cluster_file_is_one_clear_error(tmp_path: Path, text: str, problem: str) -> None:
    """Broken, foreign or dangerous content."""
    assert _problems(tmp_path, text)[0].startswith(problem)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    """The message names a file to start from."""
    with pytest.raises(SpecError, match=r"no such file; name a cluster file such as ray_cluster\.yaml"):
        read(tmp_path / "absent.yaml")
