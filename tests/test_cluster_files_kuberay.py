"""The KubeRay file, held against KubeRay's own list of fields, its operator's rules, and its half in Ray."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from test_cluster_files import KUBERAY, locked

Schema = dict[str, Any]

BOOLEAN: Schema = {"type": "boolean"}
STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
MAP: Schema = {"type": "object", "additionalProperties": STRING}
ELSEWHERE: Schema = {"type": "object"}
"""What Kubernetes describes, such as pod templates, and parts of KubeRay that the file does without."""
LIST_ELSEWHERE: Schema = {"type": "array", "items": ELSEWHERE}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def having(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    """An object with no other fields than these: KubeRay would forget others without a word."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


# Every field of ray.io/v1 in KubeRay 1.6.2 that a RayJob can have. Source: docs/reference/api.md of the repository
# ray-project/kuberay at its tag v1.6.2, which is generated from the same types as the CRD. It does not say which fields
# are required: that is from a later version of ray-operator/apis/ray/v1/raycluster_types.go.
AUTH_OPTIONS = having(enableK8sTokenAuth=BOOLEAN, secretName=STRING, mode=one_of("disabled", "token"))
AUTOSCALER_OPTIONS = having(
    resources=ELSEWHERE,
    image=STRING,
    imagePullPolicy=STRING,
    securityContext=ELSEWHERE,
    idleTimeoutSeconds=INTEGER,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    version=one_of("v1", "v2"),
    env=LIST_ELSEWHERE,
    envFrom=LIST_ELSEWHERE,
    volumeMounts=LIST_ELSEWHERE,
)
HEAD_GROUP_SPEC = having(
    ("template",),
    template=ELSEWHERE,
    headService=ELSEWHERE,
    enableIngress=BOOLEAN,
    resources=MAP,
    labels=MAP,
    rayStartParams=MAP,
    serviceType=STRING,
)
WORKER_GROUP_SPEC = having(
    ("groupName", "template", "minReplicas", "maxReplicas"),
    suspend=BOOLEAN,
    groupName=STRING,
    replicas=INTEGER,
    minReplicas=INTEGER,
    maxReplicas=INTEGER,
    idleTimeoutSeconds=INTEGER,
    resources=MAP,
    labels=MAP,
    rayStartParams=MAP,
    template=ELSEWHERE,
    scaleStrategy=having(workersToDelete={"type": "array", "items": STRING}),
    numOfHosts=INTEGER,
)
RAY_CLUSTER_SPEC = having(
    ("headGroupSpec",),
    upgradeStrategy=having(type=one_of("Recreate", "None")),
    authOptions=AUTH_OPTIONS,
    suspend=BOOLEAN,
    managedBy=STRING,
    autoscalerOptions=AUTOSCALER_OPTIONS,
    headServiceAnnotations=MAP,
    enableInTreeAutoscaling=BOOLEAN,
    gcsFaultToleranceOptions=ELSEWHERE,
    headGroupSpec=HEAD_GROUP_SPEC,
    rayVersion=STRING,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP_SPEC},
)
RAY_JOB_SPEC = having(
    activeDeadlineSeconds=INTEGER,
    backoffLimit=INTEGER,
    rayClusterSpec=RAY_CLUSTER_SPEC,
    submitterPodTemplate=ELSEWHERE,
    metadata=MAP,
    clusterSelector=MAP,
    submitterConfig=having(backoffLimit=INTEGER),
    managedBy=STRING,
    deletionStrategy=ELSEWHERE,
    entrypoint=STRING,
    runtimeEnvYAML=STRING,
    jobId=STRING,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=STRING,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=INTEGER,
    preRunningDeadlineSeconds=INTEGER,
    shutdownAfterJobFinishes=BOOLEAN,
    suspend=BOOLEAN,
)


@pytest.fixture
def job() -> dict[str, Any]:
    first, claim = yaml.safe_load_all(KUBERAY.read_text(encoding="utf-8"))
    assert (first["apiVersion"], first["kind"], claim["kind"]) == ("ray.io/v1", "RayJob", "PersistentVolumeClaim")
    assert isinstance(first, dict)
    return first


def complaints(spec: dict[str, Any]) -> list[str]:
    Draft202012Validator.check_schema(RAY_JOB_SPEC)
    return [error.json_path for error in Draft202012Validator(RAY_JOB_SPEC).iter_errors(spec)]


def test_kuberay_knows_every_field_and_its_type(job: dict[str, Any]) -> None:
    assert complaints(job["spec"]) == []


def test_the_check_sees_what_is_wrong(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    cluster["autoscalerOptions"] |= {"version": "v3", "idleTimeoutSeconds": "600"}  # no such one; text for a number
    cluster["workerGroupSpecs"][0]["rayStartParams"] = {"num-cpus": 4}  # a number for text
    cluster["headGroupSpec"]["rayStartParms"] = {}
    assert sorted(complaints(job["spec"])) == [
        "$.rayClusterSpec.autoscalerOptions.idleTimeoutSeconds",
        "$.rayClusterSpec.autoscalerOptions.version",
        "$.rayClusterSpec.headGroupSpec",
        "$.rayClusterSpec.workerGroupSpecs[0].rayStartParams['num-cpus']",
    ]


def test_the_operator_takes_the_job(job: dict[str, Any]) -> None:
    # ray-operator/controllers/ray/utils/validation.go: what the CRD cannot say, and the operator asks for.
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"])  # 47 characters at most
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"] or spec.get("ttlSecondsAfterFinished", 0) == 0
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"]
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"  # autoscaler v2
    assert all(group["minReplicas"] <= group["maxReplicas"] for group in cluster["workerGroupSpecs"])
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)  # the first with tokens


def test_kuberays_autoscaler_reads_the_groups(job: dict[str, Any]) -> None:
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "fmasearch", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    )
    head, workers = config["available_node_types"]["headgroup"], config["available_node_types"]["gpu"]
    assert head["resources"]["CPU"] == 0
    assert (workers["resources"]["CPU"], workers["resources"]["GPU"]) == (4, 1)
    assert (workers["min_workers"], workers["max_workers"]) == (1, 4)
    assert config["idle_timeout_minutes"] == 10


def test_the_ray_job_asks_for_the_token_and_the_locked_ray(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == locked("ray")
    images = re.findall(r"image: (\S+)", KUBERAY.read_text(encoding="utf-8"))
    assert len(set(images)) == 1  # head and workers alike


def test_pods_mount_volumes_they_have(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
