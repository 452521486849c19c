"""AWS as moto simulates it, in this process: what Ray's launcher makes of ray_cluster.yaml and its account.

No AWS is asked. The rights of the head are not simulated: moto does not judge conditions.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.calling import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="needs moto"),
]
REGION = "eu-central-1"
TEMPLATE = ROOT / "ray_cluster.aws.yaml"
SSH_FROM = "203.0.113.7/32"


@dataclass(frozen=True)
class Account:
    """A simulated account in which ray_cluster.aws.yaml was deployed.

    Attributes:
        ec2: Its client for machines.
        iam: Its client for rights.
        outputs: What the template says it made.
    """

    ec2: Any
    iam: Any
    outputs: dict[str, str]

    def rules(self, group: str) -> list[tuple[str, int | None, str]]:
        """Give a security group's rules: protocol, port and from where."""
        (found,) = self.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
        return sorted(
            (rule["IpProtocol"], rule.get("FromPort"), where)
            for rule in found["IpPermissions"]
            for where in [r["CidrIp"] for r in rule["IpRanges"]] + [p["GroupId"] for p in rule["UserIdGroupPairs"]]
        )


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """The template, deployed."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws import utils

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # moto's CloudFormation knows no key pairs, and says so
        ec2, iam, stacks = (boto3.client(name, REGION) for name in ("ec2", "iam", "cloudformation"))
        network = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        given = {"SshFrom": SSH_FROM, "PublicKey": "ssh-ed25519 AAAA", "Vpc": network}
        stacks.create_stack(
            StackName="eed-search",
            TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        )
        (stack,) = stacks.describe_stacks(StackName="eed-search")["Stacks"]
        yield Account(ec2, iam, {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]})
    for cached in (utils.resource_cache, utils.client_cache):
        cached.cache_clear()


def _launched(raw: dict[str, Any], account: Account) -> list[dict[str, Any]]:
    """Start one machine of each type, as `ray up` and the autoscaler do; give what AWS says of them."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(raw))
    validate_config(config)
    config = AWSNodeProvider.bootstrap_config(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, node in config["available_node_types"].items():
        head_only = config["head_node"] if name == config["head_node_type"] else {}
        provider.create_node({**node["node_config"], **head_only}, {"ray-user-node-type": name}, 1)
    reservations = account.ec2.describe_instances()["Reservations"]
    return [instance for reservation in reservations for instance in reservation["Instances"]]


def _filled_in(account: Account) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(json.dumps(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text("utf-8"))))
    image = account.ec2.describe_images()["Images"][0]["ImageId"]
    for node in raw["available_node_types"].values():
        node["node_config"] |= {"ImageId": image, "SecurityGroupIds": [account.outputs["SecurityGroup"]]}
    return raw


def test_machines_are_as_the_file_says(account: Account) -> None:
    """Group, session for credentials, profile, encrypted disks, spot, name; and Ray made no right or group of its own."""
    roles, groups = (
        len(account.iam.list_roles()["Roles"]),
        len(account.ec2.describe_security_groups()["SecurityGroups"]),
    )
    head, worker = _launched(_filled_in(account), account)
    group = account.outputs["SecurityGroup"]
    assert account.rules(group) == [("-1", None, group), ("tcp", 22, SSH_FROM)]
    for machine, profile in ((head, "eed-search-head"), (worker, "eed-search-worker")):
        assert [found["GroupId"] for found in machine["SecurityGroups"]] == [group]
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert machine["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert machine["IamInstanceProfile"]["Arn"].endswith(f"/{profile}")
        assert {"Key": "ray-cluster-name", "Value": "eed-search"} in machine["Tags"]  # which the head's rights ask for
    assert [volume["Encrypted"] for volume in account.ec2.describe_volumes()["Volumes"]] == [True, True]
    assert (head.get("InstanceLifecycle"), worker["InstanceLifecycle"]) == (None, "spot")
    assert len(account.iam.list_roles()["Roles"]) == roles
    assert len(account.ec2.describe_security_groups()["SecurityGroups"]) == groups


def test_what_doctor_guards_against_is_what_ray_does(account: Account) -> None:
    """Without group and profile: SSH from everywhere, and full rights for the head."""
    raw = _filled_in(account)
    for node in raw["available_node_types"].values():
        del node["node_config"]["SecurityGroupIds"], node["node_config"]["IamInstanceProfile"]
    raw["provider"]["security_group"] = {
        "GroupName": "mine",
        "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": SSH_FROM}]}],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: None)  # Ray waits for real AWS to spread the rights
        patch.setattr("moto.iam.models.IAMBackend.attach_role_policy", _note_policy)
        _ATTACHED.clear()
        head, _ = _launched(raw, account)
    (group,) = head["SecurityGroups"]
    assert ("tcp", 22, "0.0.0.0/0") in account.rules(group["GroupId"])
    assert head["IamInstanceProfile"]["Arn"].endswith("/ray-autoscaler-v1")
    assert {arn.rpartition("/")[2] for arn in _ATTACHED} == {"AmazonEC2FullAccess", "AmazonS3FullAccess"}


_ATTACHED: list[str] = []


def _note_policy(self: Any, policy_arn: str, role_name: str) -> None:
    """Stand in for moto, which does not hold AWS's own policies."""
    _ATTACHED.append(policy_arn)


def test_the_head_s_rights_are_small() -> None:
    """No action by a pattern, and everything that changes something is limited to named things."""
    resources = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))["Resources"]
    statements = [
        statement
        for name in ("HeadRole", "BucketRights")
        for policy in resources[name]["Properties"].get("Policies", [resources[name]["Properties"]])
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    assert len(statements) > 6
    for statement in statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [action for action in actions if "*" in action]
        if statement["Resource"] == "*":
            assert all(action.startswith("ec2:Describe") for action in actions)


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [("203.0.113.7/32", True), ("203.0.113.0/24", True), ("0.0.0.0/0", False), ("10.0.0.0/8", False), ("x", False)],
)
def test_ssh_is_let_in_from_few_addresses_only(address: str, is_allowed: bool) -> None:
    """The template refuses a wide network."""
    pattern = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))["Parameters"]["SshFrom"]["AllowedPattern"]
    assert (re.search(pattern, address) is not None) == is_allowed


@pytest.mark.skipif(importlib.util.find_spec("cfnlint") is None, reason="needs cfn-lint")
def test_the_template_fits_amazon_s_own_schema() -> None:
    """By cfn-lint, which brings the schema of every resource."""
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), TEMPLATE], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
