"""`ray up cluster.yaml` as far as it goes without machines: ssh is cut off, EC2 and IAM are a mock's."""

from __future__ import annotations

import os
import tempfile
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private import commands as launcher
from ray.autoscaler._private.util import prepare_config

ROOT = Path(__file__).parents[1]
AWS = ROOT / "cluster.yaml"
REGION = "eu-central-1"

pytestmark = pytest.mark.ray


@dataclass
class Launched:
    """What `ray up cluster.yaml` asked of AWS and of ssh, and an EC2 client to look at the rest."""

    config: dict[str, Any]
    ec2: Any
    ssh: list[list[str]] = field(default_factory=list)

    def check_call(self, command: list[str], **_: object) -> None:
        self.ssh.append(command)

    def instances(self, kind: str) -> list[dict[str, Any]]:
        found = self.ec2.describe_instances(Filters=[{"Name": "tag:ray-node-type", "Values": [kind]}])
        return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        (home / ".ray").mkdir()
        (home / ".ray/auth_token").write_text("0" * 64, encoding="utf-8")
        patch.setenv("HOME", str(home))
        patch.setattr(tempfile, "tempdir", str(home))  # the launcher caches configurations there
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "made-up")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.chdir(ROOT)
        yield _ray_up(patch)
        server.stop()


def _ray_up(patch: pytest.MonkeyPatch) -> Launched:
    import boto3
    from ray.autoscaler._private.aws import config as aws_config
    from ray.autoscaler._private.aws import node_provider
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache

    client_cache.cache_clear()
    resource_cache.cache_clear()
    patch.setattr(aws_config, "time", types.SimpleNamespace(sleep=lambda seconds: None))  # IAM is slow; the mock is not
    patch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
    config = launcher._bootstrap_config(_read(), no_config_cache=True)
    up = Launched(config, boto3.client("ec2", region_name=REGION))
    launcher.get_or_create_head_node(config, str(AWS), False, False, True, None, _runner=up)
    # What the autoscaler on the head does when a trial waits for a GPU.
    worker = config["available_node_types"]["worker"]["node_config"]
    provider = node_provider.AWSNodeProvider(config["provider"], config["cluster_name"])
    provider.create_node(worker, {"ray-node-type": "worker", "ray-launch-config": "x"}, 1)
    return up


def test_ray_up_starts_one_head_that_stays_and_keeps_its_disk(launched: Launched) -> None:
    (head,) = launched.instances("head")
    assert head.get("InstanceLifecycle") is None  # not spot
    assert head["ImageId"].startswith("resolve:ssm:/aws/service/canonical/ubuntu/server/24.04/")
    assert launched.config["provider"]["cache_stopped_nodes"] is True


def test_a_worker_is_a_spot_machine_in_the_heads_group(launched: Launched) -> None:
    (head,) = launched.instances("head")
    (worker,) = launched.instances("worker")
    assert worker["InstanceLifecycle"] == "spot"  # the mock says so of any market, so:
    asked = launched.config["available_node_types"]["worker"]["node_config"]["InstanceMarketOptions"]
    assert asked == {"MarketType": "spot"}
    assert worker["SecurityGroups"] == head["SecurityGroups"]
    assert "nvidia-driver-gpu-ubuntu-24.04" in worker["ImageId"]


def test_only_ssh_is_open_to_the_world(launched: Launched) -> None:
    (head,) = launched.instances("head")
    groups = launched.ec2.describe_security_groups(GroupIds=[group["GroupId"] for group in head["SecurityGroups"]])
    rules = [rule for group in groups["SecurityGroups"] for rule in group["IpPermissions"]]
    from_outside = [rule for rule in rules if rule["IpRanges"] or rule["Ipv6Ranges"] or rule["PrefixListIds"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [("tcp", 22, 22)]
    (among_themselves,) = (rule for rule in rules if rule not in from_outside)
    own_group = head["SecurityGroups"][0]["GroupId"]
    assert [pair["GroupId"] for pair in among_themselves["UserIdGroupPairs"]] == [own_group]


def test_a_narrowed_ssh_rule_stays_narrow(launched: Launched) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    # docs/cluster.md: replace the rule once; the next `ray up` must not open it again.
    group = launched.instances("head")[0]["SecurityGroups"][0]["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    world, mine = [{"CidrIp": "0.0.0.0/0"}], [{"CidrIp": "203.0.113.7/32"}]
    launched.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[{**ssh, "IpRanges": world}])
    launched.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{**ssh, "IpRanges": mine}])
    again = AWSNodeProvider.bootstrap_config(prepare_config(_read()))
    assert again["available_node_types"]["head"]["node_config"]["SecurityGroupIds"] == [group]
    rules = launched.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert [rule["IpRanges"] for rule in rules if rule["IpRanges"]] == [mine]
    # For the tests that come after.
    launched.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[{**ssh, "IpRanges": mine}])
    launched.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{**ssh, "IpRanges": world}])


def test_the_autoscaler_knows_the_gpu_and_the_bounds(launched: Launched) -> None:
    head, worker = (launched.config["available_node_types"][name] for name in ("head", "worker"))
    assert worker["resources"]["GPU"] == 1  # g6.xlarge: one L4, four CPUs, says EC2
    assert worker["resources"]["CPU"] == 4
    assert (worker["min_workers"], worker["max_workers"]) == (0, launched.config["max_workers"])
    assert head["resources"]["CPU"] == 0  # no trials on the head
    assert head["max_workers"] == 0
    assert 0 < launched.config["idle_timeout_minutes"] <= 30


def test_the_head_is_sent_the_token_the_code_and_no_data(launched: Launched) -> None:
    sent = [command[-2:] for command in launched.ssh if command[0] == "rsync"]
    remote = {target.split(":")[1]: source for source, target in sent}
    assert remote["~/.ray/auth_token"].endswith("/.ray/auth_token")
    assert remote["~/fmasearch/code/src/"] == "src/"
    assert remote["~/fmasearch/code/requirements.lock"] == "requirements.lock"
    assert not [source for source in remote.values() if source.rstrip("/") in (".", str(ROOT))]


def test_the_head_is_set_up_before_ray_is_started(launched: Launched) -> None:
    lines = [command[-1] for command in launched.ssh if command[0] == "ssh"]
    places = [_first(lines, text) for text in ("cloud-init", "-m venv", "requirements.lock boto3", "ray start --head")]
    assert places == sorted(places)
    assert "RAY_OVERRIDE_RESOURCES=" in lines[places[-1]]  # where the head's CPU: 0 arrives


def _read() -> dict[str, Any]:
    return dict(yaml.safe_load(AWS.read_text(encoding="utf-8")))


def _first(lines: Sequence[str], text: str) -> int:
    return next(place for place, line in enumerate(lines) if text in line)
