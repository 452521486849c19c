"""Doctor judges cluster files: the shipped ones pass, and each protected setting, changed, is caught alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from eed_search.cluster.cluster_file import read
from eed_search.cluster.finding import Finding
from eed_search.cluster.hardening import findings
from tests.cli.calling import ROOT, call, python

AWS, LOCAL = ROOT / "ray_cluster.yaml", ROOT / "ray_cluster.local.yaml"
FILES = pytest.mark.parametrize("file", [AWS, LOCAL], ids=["aws", "local"])
HEAD, WORKER = "available_node_types.head", "available_node_types.gpu_worker"
TOKEN = "file_mounts.~/.ray/auth_token"
TOKEN_MODE = "{}_start_ray_commands: RAY_AUTH_MODE"

Mutation = Callable[[Any], None]


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a token as it should be."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.touch(0o600)
    path.write_text("0123456789abcdef" * 4, encoding="ascii")
    return path


def _judged(raw: dict[str, Any], folder: Path) -> list[Finding]:
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(raw), encoding="utf-8")  # JSON is YAML, and quicker to write
    return findings(read(path))


@cache
def _shipped_text(file: Path) -> str:
    return json.dumps(yaml.safe_load(file.read_text(encoding="utf-8")))


def _shipped(file: Path) -> dict[str, Any]:
    # Through JSON: what an anchor shares becomes separate, so that a change touches one place.
    return dict(json.loads(_shipped_text(file)))


def _set(path: str, value: Any) -> Mutation:
    """Set `a.b.c`; None removes it."""

    def change(raw: Any) -> None:
        *parents, last = path.split(".")
        for key in parents:
            raw = raw[int(key) if isinstance(raw, list) else key]
        if value is None:
            del raw[last]
        else:
            raw[last] = value

    return change


def _edit(section: str, old: str, new: str) -> Mutation:
    """Replace a text in a section's commands; it must be there."""

    def change(raw: Any) -> None:
        before = copy.copy(raw[section])
        raw[section] = [command.replace(old, new) for command in before]
        assert raw[section] != before

    return change


def _add(section: str, command: str) -> Mutation:
    return lambda raw: raw[section].append(command)


EVERYWHERE: list[tuple[str, str, Mutation]] = [
    ("wrong", "max_workers", _set("max_workers", None)),
    ("wrong", "idle_timeout_minutes", _set("idle_timeout_minutes", None)),
    ("wrong", "idle_timeout_minutes", _set("idle_timeout_minutes", 600)),
    ("wrong", "idle_timeout_minutes", _set("idle_timeout_minutes", 0)),
    ("note", "auth.ssh_user", _set("auth.ssh_user", "root")),
    ("wrong", TOKEN, lambda raw: raw["file_mounts"].pop("~/.ray/auth_token")),
    ("wrong", "setup_commands", _edit("setup_commands", "chmod 600 ~/.ray/auth_token", "true")),
    ("wrong", "setup_commands", _edit("setup_commands", "chmod 600", "chmod 644")),
    (
        "wrong",
        "RAY_AUTH_TOKEN",
        _edit("worker_start_ray_commands", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN=abc RAY_AUTH_MODE"),
    ),
    ("wrong", TOKEN_MODE.format("head"), _edit("head_start_ray_commands", "RAY_AUTH_MODE=token", "")),
    ("wrong", TOKEN_MODE.format("head"), _edit("head_start_ray_commands", "MODE=token", "MODE=disabled")),
    ("wrong", TOKEN_MODE.format("worker"), _edit("worker_start_ray_commands", "RAY_AUTH_MODE=token", "")),
    ("wrong", "worker_start_ray_commands", _set("worker_start_ray_commands", None)),
    ("wrong", "head_start_ray_commands: --dashboard-host", _edit("head_start_ray_commands", "127.0.0.1 ", "0.0.0.0 ")),
    (
        "wrong",
        "head_start_ray_commands: --dashboard-host",
        _edit("head_start_ray_commands", "--dashboard-host=127.0.0.1", ""),
    ),
    (
        "wrong",
        "head_start_ray_commands: --dashboard-host",
        _add("head_start_ray_commands", "RAY_AUTH_MODE=token ray start --head --dashboard-host ::"),
    ),
    ("wrong", "file_mounts.~/.aws", lambda raw: raw["file_mounts"].update({"~/.aws": "~/.aws"})),
    ("wrong", "file_mounts./keys", lambda raw: raw["file_mounts"].update({"/keys": "/home/ana/.ssh/"})),
    ("note", "pip install", _edit("setup_commands", "-c ~/eed-search-code/constraints.txt", "")),
    ("note", "MLflow", _edit("head_start_ray_commands", "eed-search mlflow-server", "true")),
    (
        "wrong",
        "MLflow: allowed hosts",
        _edit("head_start_ray_commands", "--background", "--background --allow-host '*'"),
    ),
]
ON_AWS: list[tuple[str, str, Mutation]] = [
    ("note", "provider.cache_stopped_nodes", _set("provider.cache_stopped_nodes", None)),
    ("wrong", "provider.security_group", _set("provider.security_group", {"GroupName": "mine", "IpPermissions": []})),
    ("wrong", "provider.aws_credentials", _set("provider.aws_credentials", {"aws_secret_access_key": "x"})),
    ("wrong", f"{HEAD}.max_workers", _set(f"{HEAD}.max_workers", None)),
    ("wrong", f"{HEAD}.node_config.IamInstanceProfile", _set(f"{HEAD}.node_config.IamInstanceProfile", None)),
    (
        "wrong",
        f"{HEAD}.node_config.IamInstanceProfile",
        _set(f"{HEAD}.node_config.IamInstanceProfile", {"Arn": "arn:aws:iam::1:instance-profile/ray-autoscaler-v1"}),
    ),
    (
        "wrong",
        f"{WORKER}.node_config.IamInstanceProfile",
        _set(f"{WORKER}.node_config.IamInstanceProfile", {"Name": "eed-search-head"}),
    ),
    ("note", f"{WORKER}.min_workers", _set(f"{WORKER}.min_workers", 1)),
    ("note", f"{WORKER}.node_config.InstanceMarketOptions", _set(f"{WORKER}.node_config.InstanceMarketOptions", None)),
    ("note", f"{WORKER}.node_config.UserData", _set(f"{WORKER}.node_config.UserData", "#!/bin/sh")),
    ("note", f"{WORKER}.node_config.LaunchTemplate", _set(f"{WORKER}.node_config.LaunchTemplate", {"Version": "1"})),
    ("wrong", "RAY_AUTH_TOKEN", _set(f"{WORKER}.worker_setup_commands", ["RAY_AUTH_TOKEN=abc true"])),
    ("wrong", "available_node_types", _set("head_node_type", "absent")),
]
for node in (HEAD, WORKER):
    config = f"{node}.node_config"
    ON_AWS += [
        ("wrong", f"{config}.SecurityGroupIds", _set(f"{config}.SecurityGroupIds", None)),
        ("wrong", f"{config}.SecurityGroupIds", _set(f"{config}.SecurityGroupIds", [])),
        ("wrong", f"{config}.MetadataOptions.HttpTokens", _set(f"{config}.MetadataOptions.HttpTokens", "optional")),
        ("wrong", f"{config}.MetadataOptions.HttpTokens", _set(f"{config}.MetadataOptions", None)),
        (
            "wrong",
            f"{config}.MetadataOptions.HttpPutResponseHopLimit",
            _set(f"{config}.MetadataOptions.HttpPutResponseHopLimit", 2),
        ),
        ("wrong", f"{config}.BlockDeviceMappings", _set(f"{config}.BlockDeviceMappings", None)),
        ("wrong", f"{config}.BlockDeviceMappings", _set(f"{config}.BlockDeviceMappings.0.Ebs.Encrypted", None)),
        ("wrong", f"{config}.BlockDeviceMappings", _set(f"{config}.BlockDeviceMappings.0.Ebs.Encrypted", "no")),
        ("wrong", f"{config}.ImageId", _set(f"{config}.ImageId", None)),
        ("wrong", f"{config}.ImageId", _set(f"{config}.ImageId", "latest_dlami")),
    ]
ON_OWN_MACHINES: list[tuple[str, str, Mutation]] = [
    (
        "wrong",
        "head_start_ray_commands: RAY_enable_autoscaler_v2",
        _edit("head_start_ray_commands", "RAY_enable_autoscaler_v2=0", ""),
    ),
    (
        "wrong",
        "head_start_ray_commands: --node-ip-address",
        _edit("head_start_ray_commands", "--node-ip-address=192.0.2.10", ""),
    ),
    ("wrong", "head_start_ray_commands: --node-ip-address", _set("provider.head_ip", "192.0.2.9")),
]
CASES = [(file, *case) for file in (AWS, LOCAL) for case in EVERYWHERE]
CASES += [(AWS, *case) for case in ON_AWS] + [(LOCAL, *case) for case in ON_OWN_MACHINES]


@FILES
def test_the_shipped_files_are_safe(file: Path, tmp_path: Path) -> None:
    """Nothing is wrong; the notes are what no file can show, and the ids to fill in."""
    notes = {finding.what for finding in _judged(_shipped(file), tmp_path) if finding.level == "note"}
    assert not [finding for finding in _judged(_shipped(file), tmp_path) if finding.level == "wrong"]
    assert notes == ({"ids", "security group"} if file == AWS else {"firewall"})


@pytest.mark.parametrize(("file", "level", "what", "mutate"), CASES, ids=[f"{c[0].stem}-{c[2]}" for c in CASES])
def test_each_changed_setting_is_caught_alone(
    file: Path, level: str, what: str, mutate: Mutation, tmp_path: Path
) -> None:
    """One finding more than before, of that setting, with a fix."""
    raw = _shipped(file)
    before = {"ids", "security group", "firewall"}
    mutate(raw)
    found = [f for f in _judged(raw, tmp_path) if f.level != "ok" and f.what not in before]
    assert [(finding.level, finding.what) for finding in found] == [(level, what)]
    assert found[0].fix


@FILES
def test_no_protected_setting_is_forgotten(file: Path, tmp_path: Path) -> None:
    """Whatever doctor calls good in the shipped files is changed by a test above."""
    good = {finding.what for finding in _judged(_shipped(file), tmp_path) if finding.level == "ok"}
    assert good <= {case[2] for case in CASES if case[0] == file}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda path: path.unlink(), "does not exist on this machine"),
        (lambda path: path.chmod(0o640), "may be read by others (mode 0640)"),
        (lambda path: path.write_text("short", encoding="ascii"), "holds 5 characters, fewer than 32"),
    ],
    ids=["absent", "open", "short"],
)
def test_the_token_itself_is_looked_at(change: Callable[[Path], None], text: str, token: Path, tmp_path: Path) -> None:
    """Absent, open to others, or too short."""
    change(token)
    wrong = [finding for finding in _judged(_shipped(LOCAL), tmp_path) if finding.level == "wrong"]
    assert [(finding.what, finding.text.removeprefix(f"{token} ")) for finding in wrong] == [(TOKEN, text)]


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ("--host 127.0.0.1", "MLflow: --allowed-hosts"),
        ("--host 0.0.0.0 --allowed-hosts a:5000", "MLflow: --host"),
        ("--allowed-hosts a:5000 --disable-security-middleware", "MLflow: --disable-security-middleware"),
        ("--allowed-hosts 'a:5000,*'", "MLflow: allowed hosts"),
        ("--allowed-hosts '10.*'", "MLflow: allowed hosts"),
        ("--allowed-hosts '127.0.0.1:*,localhost:*'", None),
    ],
)
def test_a_server_of_mlflow_s_own_is_judged(flags: str, what: str | None, tmp_path: Path) -> None:
    """Loopback, exact hosts, no jobs, with its guard; any port of an exact host is fine."""
    raw = _shipped(LOCAL)
    command = f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server {flags}"
    raw["head_start_ray_commands"][-1] = command
    assert [f.what for f in _judged(raw, tmp_path) if f.level == "wrong"] == ([what] if what else [])
    raw["head_start_ray_commands"][-1] = command.removeprefix("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false ")
    assert "MLflow: MLFLOW_SERVER_ENABLE_JOB_EXECUTION" in [f.what for f in _judged(raw, tmp_path)]


def test_groups_of_network_interfaces_count(tmp_path: Path) -> None:
    """Each interface must name one."""
    raw = _shipped(AWS)
    config = raw["available_node_types"]["head"]["node_config"]
    config["NetworkInterfaces"] = [{"SubnetId": "subnet-1", "Groups": config.pop("SecurityGroupIds")}]
    assert not [finding for finding in _judged(raw, tmp_path) if finding.level == "wrong"]
    config["NetworkInterfaces"].append({"SubnetId": "subnet-1"})
    wrong = [finding.what for finding in _judged(raw, tmp_path) if finding.level == "wrong"]
    assert wrong == [f"{HEAD}.node_config.SecurityGroupIds"]


def test_containers_need_one_hop_more(tmp_path: Path) -> None:
    """Two hops are right with docker, three are not."""
    raw = _shipped(AWS)
    raw["docker"] = {"image": "x", "container_name": "y"}
    for hops, expected in ((2, []), (3, [f"{WORKER}.node_config.MetadataOptions.HttpPutResponseHopLimit"])):
        raw["available_node_types"]["gpu_worker"]["node_config"]["MetadataOptions"]["HttpPutResponseHopLimit"] = hops
        assert [finding.what for finding in _judged(raw, tmp_path) if finding.level == "wrong"] == expected


def test_another_provider_is_judged_as_far_as_possible(tmp_path: Path) -> None:
    """What holds everywhere is judged; for the rest doctor says that it cannot."""
    raw = _shipped(AWS)
    raw["provider"] = {"type": "gcp", "region": "europe-west3"}
    raw["idle_timeout_minutes"] = 999
    found = [finding for finding in _judged(raw, tmp_path) if finding.level != "ok"]
    assert [finding.what for finding in found] == ["idle_timeout_minutes", "provider.type"]
    assert "cannot be judged for gcp" in found[1].text


def test_the_command_says_it_and_ends_with_1(tmp_path: Path) -> None:
    """One line for each setting, the fix below it; JSON for programs."""
    raw = _shipped(AWS)
    raw["available_node_types"]["gpu_worker"]["node_config"]["MetadataOptions"]["HttpTokens"] = "optional"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    result = call("doctor", "--cluster", path)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{path}: cluster eed-search, provider aws\n")
    assert (
        f"WRONG {WORKER}.node_config.MetadataOptions.HttpTokens: the machine's credentials can be asked for by any"
        " forwarded request (IMDSv1)\n      fix: set it to required\n"
    ) in result.stdout
    assert result.stdout.endswith("1 thing to correct\n")
    answer = json.loads(call("doctor", "--cluster", path, "--json").stdout)
    assert (answer["provider"], answer["num_wrong"]) == ("aws", 1)
    assert [f["what"] for f in answer["findings"] if f["level"] == "wrong"] == [
        f"{WORKER}.node_config.MetadataOptions.HttpTokens"
    ]


@FILES
def test_the_command_passes_the_shipped_files(file: Path) -> None:
    """Exit code 0, and the next command."""
    result = call("doctor", "--cluster", file)
    assert result.exit_code == 0, result.stdout
    assert result.stdout.endswith(f"Nothing unsafe in the file: start it with `ray up {file}`\n")


def test_what_is_no_cluster_file_ends_with_3(tmp_path: Path) -> None:
    """One clear line."""
    result = call("doctor", "--cluster", tmp_path / "absent.yaml")
    assert result.exit_code == 3
    assert "no such file" in result.stderr


def test_judging_needs_neither_ray_nor_a_cloud() -> None:
    """The rules are plain code: no network can be asked."""
    code = (
        "import sys, pathlib\n"
        "from eed_search.cluster.cluster_file import read\nfrom eed_search.cluster.hardening import findings\n"
        "findings(read(pathlib.Path(sys.argv[1])))\n"
        "print([name for name in ('ray', 'boto3', 'torch', 'numpy', 'requests') if name in sys.modules])"
    )
    assert python(code, AWS).stdout == "[]\n"
