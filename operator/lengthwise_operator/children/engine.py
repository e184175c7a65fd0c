"""The engine's Deployment: vLLM in the container `main`, and the worker that feeds it. Pure.

With `engine.url` there is only the worker.

How a replica ends: the worker gets the signal at once. It stops claiming, lets its answers finish,
and creates a file. Until then, and for `drain.preStopSeconds` at most, the engine's preStop hook
delays the engine's signal. Then vLLM has `drain.shutdownTimeoutSeconds` for what still runs. Jobs
that the worker cannot finish in that time return to the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lengthwise_operator.children.manifest import MODEL_MOUNT, Manifest, spread
from lengthwise_operator.children.model_cache import cache_claim
from lengthwise_operator.children.pod_template import merge_template
from lengthwise_operator.children.vllm import (
    model_claim,
    model_image,
    model_path,
    shared_memory_size,
    vllm_container,
)
from lengthwise_operator.children.worker import worker_container
from lengthwise_operator.children.worker_redis import redis_volumes
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.names import ENGINE
from lengthwise_operator.llmservice.service import LLMService

#: The engine gets this long to end after its own time-out, s.
_KILL_AFTER_S = 15

#: Name of the init container that looks for the model.
_CHECK = "check-model"

#: Script of the init container: ends with an error if the folder holds no model.
CHECK_MODEL = """\
for file in "$1" "$1/config.json" "$1/params.json"; do [ -f "$file" ] && exit 0; done
echo "no model at $1 ($2): there is neither config.json nor params.json."
if [ -d "$1" ]; then echo "The folder holds: $(ls -A "$1" | head -n 20 | tr '\\n' ' ')"
else echo "There is no such folder; $(dirname "$1") holds:" \\
  "$(ls -A "$(dirname "$1")" 2>&1 | head -n 20 | tr '\\n' ' ')"; fi
exit 1"""


def engine_deployment(service: LLMService, installation: Installation, replicas: int) -> Manifest:
    """Build the Deployment, without owner and namespace."""
    spec = service.spec
    template = merge_template(_template(service, installation), spec.pod_template.as_dict())
    if spec.model.uri:
        _mount_like_main(template["spec"], model_path(service))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": service.child(ENGINE), "labels": service.labels(ENGINE)},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": service.selector(ENGINE)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {
                    "maxUnavailable": spec.rollout_strategy.max_unavailable,
                    "maxSurge": spec.rollout_strategy.max_surge,
                },
            },
            "progressDeadlineSeconds": spec.engine.startup_timeout_seconds + 600,
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def worker_image(deployment: Mapping[str, Any]) -> str | None:
    """The image of the worker in an engine's Deployment; None: it has no worker."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return next((c["image"] for c in containers if c["name"] == "worker"), None)


def _template(service: LLMService, installation: Installation) -> dict[str, Any]:
    spec = service.spec
    drain_s = spec.drain.pre_stop_seconds + spec.drain.shutdown_timeout_seconds
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        # A Service named `vllm` would set VLLM_PORT=tcp://..., which vLLM reads as its own setting.
        "enableServiceLinks": False,
        "topologySpreadConstraints": spread(service.selector(ENGINE)),
        "terminationGracePeriodSeconds": drain_s + _KILL_AFTER_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            *([] if spec.engine.url else [vllm_container(service)]),
            worker_container(service, installation, drain_s),
        ],
        "volumes": [*_volumes(service), *redis_volumes(installation.redis)],
    }
    if spec.engine.user is not None:
        pod["securityContext"] |= {
            "runAsNonRoot": True,
            "runAsUser": spec.engine.user,
            "runAsGroup": spec.engine.user,
            "fsGroup": spec.engine.user,
        }
    if spec.model.uri and not spec.model.uri.startswith("hf://"):
        pod["initContainers"] = [_check_model(service)]
    if installation.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in installation.image_pull_secrets]
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    if spec.tolerations:
        pod["tolerations"] = [
            t.model_dump(by_alias=True, exclude_none=True) for t in spec.tolerations
        ]
    for name, value in {
        "affinity": spec.affinity,
        "runtimeClassName": spec.runtime_class_name,
        "priorityClassName": spec.priority_class_name,
    }.items():
        if value:
            pod[name] = value
    return {"metadata": {"labels": service.labels(ENGINE), "annotations": {}}, "spec": pod}


def _mount_like_main(pod: Mapping[str, Any], path: str) -> None:
    """Mount in the check what `main` mounts at the model's path, perhaps by the user's template."""
    containers = {c["name"]: c for c in [*pod["containers"], *pod.get("initContainers", ())]}
    check, main = containers.get(_CHECK), containers.get("main", {})
    if check is None:
        return
    mounts = check.setdefault("volumeMounts", [])
    there = {mount["mountPath"] for mount in mounts}
    for mount in main.get("volumeMounts", ()):
        folder = str(mount["mountPath"])
        if folder not in there and f"{path}/".startswith(f"{folder.rstrip('/')}/"):
            mounts.append(mount)


def _check_model(service: LLMService) -> dict[str, Any]:
    """Detect a wrong path within a second and report what is there; vLLM needs a minute."""
    mounts = (
        [{"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True}]
        if model_claim(service) or model_image(service)
        else []
    )
    uri = service.spec.model.uri
    return {
        "name": _CHECK,
        "image": service.spec.engine.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", CHECK_MODEL, "check-model", model_path(service), uri],
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _volumes(service: LLMService) -> list[dict[str, Any]]:
    if service.spec.engine.url:
        return [{"name": "tmp", "emptyDir": {}}]
    cache, model = cache_claim(service), model_claim(service)
    shared_memory = shared_memory_size(service)
    volumes: list[dict[str, Any]] = [
        {"name": "cache", "persistentVolumeClaim": {"claimName": cache}}
        if cache
        else {"name": "cache", "emptyDir": {}},
        {"name": "handover", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if model:
        claim = {"claimName": model, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": claim})
    if (image := model_image(service)) is not None:
        source = {"reference": image, "pullPolicy": "IfNotPresent"}
        volumes.append({"name": "model", "image": source})
    if shared_memory:
        memory = {"medium": "Memory", "sizeLimit": shared_memory}
        volumes.append({"name": "shm", "emptyDir": memory})
    return volumes
