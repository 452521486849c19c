"""The rules for AWS: who may connect, what a machine may do, what its disks give away, what it may cost.

Ray's own defaults are what is guarded against: a security group that it makes opens port 22 to every
address, and a head without an instance profile gets full rights over EC2 and S3
(`ray.autoscaler._private.aws.config` of Ray 2.60: `_create_default_ssh_inbound_rules`, `_configure_iam_role`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from eed_search.cluster.cluster_file import ClusterFile
from eed_search.cluster.finding import Finding

EXAMPLE_IDS = {"sg-0123456789abcdef0", "ami-0123456789abcdef0"}
_SETUP = "docs/cluster.md shows the one command that makes it"


def findings(cluster: ClusterFile) -> Iterator[Finding]:
    """Judge what is special to `provider.type: aws`.

    Args:
        cluster: A file for AWS.

    Yields:
        A finding for each setting of the provider and of each node type.
    """
    yield from _provider(_table(cluster.raw.get("provider")))
    types = _table(cluster.raw.get("available_node_types"))
    head = cluster.raw.get("head_node_type")
    if not types or head not in types:
        text = (
            "names no node types: Ray fills in its own, open to the world" if not types else f"{head!r} is no node type"
        )
        yield Finding("wrong", "available_node_types", text, "copy this section from ray_cluster.yaml")
        return
    for name, node in types.items():
        where = f"available_node_types.{name}"
        config = _table(_table(node).get("node_config"))
        yield _group(where, config)
        yield from _metadata(where, config, in_docker="docker" in cluster.raw)
        yield _disks(where, config)
        yield _image(where, config)
        yield _profile(where, config, is_head=name == head)
        yield from _elsewhere(where, config)
        if name == head:
            yield _head_alone(where, _table(node))
        else:
            yield from _worker(where, _table(node), config)
    yield from _different_profiles(types, str(head))
    yield from _unjudged(types)


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _provider(provider: Mapping[str, Any]) -> Iterator[Finding]:
    if "security_group" in provider:
        text = "a group that Ray makes opens port 22 to every address, whatever rules stand here"
        fix = f"take it out and name a group of your own by SecurityGroupIds; {_SETUP}"
        yield Finding("wrong", "provider.security_group", text, fix)
    if "aws_credentials" in provider:
        text = "a key of your account stands in the file, and goes to the head"
        yield Finding("wrong", "provider.aws_credentials", text, "take it out; use `aws configure` or `aws sso login`")
    what = "provider.cache_stopped_nodes"
    if provider.get("cache_stopped_nodes") is False:
        yield Finding("ok", what, "workers that are not needed are deleted, not only stopped")
    else:
        text = "workers that are not needed are only stopped: their disks stay, with what is on them, and cost"
        yield Finding("note", what, text, "set it to False")


def _group(where: str, config: Mapping[str, Any]) -> Finding:
    what = f"{where}.node_config.SecurityGroupIds"
    groups = _groups(config)
    if groups:
        return Finding("ok", what, f"a group of your own ({', '.join(groups)})")
    text = "names no group: Ray makes one, with port 22 open to every address"
    return Finding("wrong", what, text, f"name a group that lets in SSH from your address only; {_SETUP}")


def _groups(config: Mapping[str, Any]) -> list[str]:
    """Give the groups that a machine is in; none if one of its network interfaces names none."""
    interfaces = config.get("NetworkInterfaces")
    each = [_table(one).get("Groups") for one in interfaces] if isinstance(interfaces, list) else []
    found = [groups for groups in each or [config.get("SecurityGroupIds")] if isinstance(groups, list) and groups]
    return [str(group) for groups in found for group in groups] if len(found) == max(1, len(each)) else []


def _metadata(where: str, config: Mapping[str, Any], *, in_docker: bool) -> Iterator[Finding]:
    options = _table(config.get("MetadataOptions"))
    what = f"{where}.node_config.MetadataOptions"
    if options.get("HttpTokens") == "required" or options.get("HttpEndpoint") == "disabled":
        yield Finding("ok", f"{what}.HttpTokens", "the machine's credentials need a session (IMDSv2)")
    else:
        text = "the machine's credentials can be asked for by any forwarded request (IMDSv1)"
        yield Finding("wrong", f"{what}.HttpTokens", text, "set it to required")
    hops, most = options.get("HttpPutResponseHopLimit"), 2 if in_docker else 1
    if not isinstance(hops, int) or hops <= most:
        yield Finding("ok", f"{what}.HttpPutResponseHopLimit", "the credentials do not travel on")
    else:
        text = f"{hops} lets the credentials travel {hops} hops, into containers and beyond"
        yield Finding("wrong", f"{what}.HttpPutResponseHopLimit", text, f"set it to {most}")


def _disks(where: str, config: Mapping[str, Any]) -> Finding:
    what = f"{where}.node_config.BlockDeviceMappings"
    disks = config.get("BlockDeviceMappings")
    fix = "give each an Ebs section with Encrypted: True"
    if not isinstance(disks, list) or not disks:
        return Finding("wrong", what, "names no disk: the image's own need not be encrypted", fix)
    for disk in disks:
        if "Ebs" in _table(disk) and _table(disk["Ebs"]).get("Encrypted") is not True:
            return Finding("wrong", what, f"{disk.get('DeviceName', 'a disk')} is not encrypted", fix)
    return Finding("ok", what, "every disk is encrypted")


def _image(where: str, config: Mapping[str, Any]) -> Finding:
    what, image = f"{where}.node_config.ImageId", config.get("ImageId")
    if isinstance(image, str) and re.fullmatch(r"ami-[0-9a-f]{8,17}", image):
        return Finding("ok", what, f"one image, {image}")
    text = "is not set: Ray takes one of Ubuntu 18.04, without updates" if not image else f"{image!r} is not one image"
    return Finding("wrong", what, text, "name one image as ami-…; docs/cluster.md shows how to find it")


def _profile(where: str, config: Mapping[str, Any], *, is_head: bool) -> Finding:
    what = f"{where}.node_config.IamInstanceProfile"
    name = _profile_name(config)
    if "ray-autoscaler" in name:
        return Finding("wrong", what, f"{name} has full rights over EC2 and S3", f"name a small one; {_SETUP}")
    if name:
        return Finding("ok", what, f"{name}: see its rights in your account")
    if is_head:
        text = "is not set: Ray makes one with full rights over EC2 and S3"
        return Finding("wrong", what, text, f"name one that may start and end this cluster's workers; {_SETUP}")
    return Finding("ok", what, "none: a worker has no rights in your account")


def _profile_name(config: Mapping[str, Any]) -> str:
    profile = _table(config.get("IamInstanceProfile"))
    return str(profile.get("Name") or profile.get("Arn", "").rpartition("/")[2])


def _different_profiles(types: Mapping[str, Any], head: str) -> Iterator[Finding]:
    names = {name: _profile_name(_table(_table(node).get("node_config"))) for name, node in types.items()}
    for name, profile in names.items():
        if name != head and profile and profile == names[head]:
            what = f"available_node_types.{name}.node_config.IamInstanceProfile"
            text = f"{profile} is the head's: code of a trial could start machines"
            yield Finding("wrong", what, text, f"give the workers one of their own; {_SETUP}")


def _elsewhere(where: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    if "UserData" in config:
        text = "every program on the machine can read it"
        yield Finding("note", f"{where}.node_config.UserData", text, "put no secret there")
    if "LaunchTemplate" in config:
        text = "what it says cannot be judged from the file; what stands here goes before it"
        yield Finding("note", f"{where}.node_config.LaunchTemplate", text, "write its settings here instead")


def _head_alone(where: str, node: Mapping[str, Any]) -> Finding:
    if node.get("max_workers") == 0:
        return Finding("ok", f"{where}.max_workers", "no worker is made of the head's type")
    text = "without max_workers: 0 Ray may start more machines of the head's type, with the head's rights"
    return Finding("wrong", f"{where}.max_workers", text, "set it to 0")


def _worker(where: str, node: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Finding]:
    if node.get("min_workers"):
        text = f"{node['min_workers']} of them run, and cost, even when nothing is to be done"
        yield Finding("note", f"{where}.min_workers", text, "set it to 0")
    else:
        yield Finding("ok", f"{where}.min_workers", "none runs when nothing is to be done")
    what = f"{where}.node_config.InstanceMarketOptions"
    if _table(config.get("InstanceMarketOptions")).get("MarketType") == "spot":
        yield Finding("ok", what, "spot: cheaper; a trial whose machine is taken away is tried elsewhere")
    else:
        yield Finding("note", what, "on demand, which costs more than spot", "set MarketType: spot")


def _unjudged(types: Mapping[str, Any]) -> Iterator[Finding]:
    configs = [_table(_table(node).get("node_config")) for node in types.values()]
    groups = list(dict.fromkeys(group for config in configs for group in _groups(config)))
    images = list(dict.fromkeys(str(config["ImageId"]) for config in configs if "ImageId" in config))
    if examples := [name for name in (*map(str, groups), *images) if name in EXAMPLE_IDS]:
        fix = "put yours; docs/cluster.md says where they come from"
        yield Finding("note", "ids", f"still the example's: {', '.join(examples)}", fix)
    if groups:
        text = f"cannot be judged from the file: who gets in by {', '.join(map(str, groups))}"
        fix = f"aws ec2 describe-security-groups --group-ids {' '.join(map(str, groups))} --query 'SecurityGroups[].IpPermissions'"
        yield Finding("note", "security group", text, fix)
