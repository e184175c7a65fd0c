"""The engine's Deployment: vLLM in `main`, the worker that feeds it beside it. Pure.

How a replica ends: Kubernetes tells the worker at once, which stops claiming, lets its answers
finish, and leaves a file behind. Until it does, and for `drain.preStopSeconds` at most, the
engine's preStop hook holds the signal back. Then vLLM has `drain.shutdownTimeoutSeconds` for what
still runs. What the worker cannot finish in that time goes back into the line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lengthwise_operator.children.pod_template import merge, merge_template
from lengthwise_operator.llmservice.rules import GPU
from lengthwise_operator.service import (
    CACHE,
    ENGINE,
    ENGINE_PORT,
    WORKER_PORT,
    Installation,
    Service,
)

#: Where the weights of pvc:// are, where downloads are kept, and where the worker leaves its file.
MODEL_MOUNT, CACHE_MOUNT, HANDOVER = "/mnt/model", "/cache", "/run/lengthwise"
ENDED_FILE = f"{HANDOVER}/worker-ended"

#: The worker hands back what it has not finished so long before the engine is killed, s; and the
#: engine gets so long to end after its own time-out.
_HAND_BACK_S, _LAST_S = 5, 15

#: vLLM has --shutdown-timeout since this version; before it, a signal cut running answers off.
_SHUTDOWN_TIMEOUT_SINCE = (0, 18)

_CHECK_MODEL = """\
for file in "$1" "$1/config.json" "$1/params.json"; do [ -f "$file" ] && exit 0; done
echo "no model at $1 ($2): there is neither config.json nor params.json."
if [ -d "$1" ]; then echo "The folder holds: $(ls -A "$1" | head -n 20 | tr '\\n' ' ')"
else echo "There is no such folder; $(dirname "$1") holds:" \\
  "$(ls -A "$(dirname "$1")" 2>&1 | head -n 20 | tr '\\n' ' ')"; fi
exit 1"""

_WAIT_FOR_WORKER = """\
i=0; while [ $i -lt {seconds} ] && [ ! -e {file} ]; do sleep 1; i=$((i+1)); done"""

#: For containers that are ours: Kubernetes' restricted profile, and nothing to write to.
RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
}


def engine_deployment(
    service: Service, installation: Installation, replicas: int
) -> dict[str, Any]:
    """The Deployment, without owner and namespace."""
    spec = service.spec
    template = merge_template(_template(service, installation), spec.pod_template)
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


def vllm_args(service: Service) -> list[str]:
    """The arguments of `vllm serve`."""
    spec = service.spec
    args = [
        model_path(service),
        *("--served-model-name", service.queue),
        *("--host", "0.0.0.0"),  # noqa: S104 - the kubelet probes the pod's address
        *("--port", str(ENGINE_PORT)),
        *("--scheduling-policy", "priority"),
        *("--max-num-seqs", str(spec.engine.max_num_seqs)),
    ]
    if spec.parallelism.tensor > 1:
        args += ["--tensor-parallel-size", str(spec.parallelism.tensor)]
    if spec.model.max_model_len is not None:
        args += ["--max-model-len", str(spec.model.max_model_len)]
    if spec.model.revision:
        args += ["--revision", spec.model.revision]
    if _knows_shutdown_timeout(spec.engine.image) and not any(
        re.match("--shutdown[-_]timeout", arg) for arg in spec.engine.args
    ):
        args += ["--shutdown-timeout", str(spec.drain.shutdown_timeout_seconds)]
    return [*args, *spec.engine.args]


def model_path(service: Service) -> str:
    """What vLLM is told to serve: a name on the hub, or a path in the container."""
    scheme, rest = service.spec.model.uri.split("://", 1)
    if scheme == "hf":
        return rest
    if scheme == "path":
        return rest.rstrip("/") or "/"
    folder = rest.partition("/")[2].strip("/")
    return f"{MODEL_MOUNT}/{folder}" if folder else MODEL_MOUNT


def model_claim(service: Service) -> str | None:
    """The PersistentVolumeClaim that a pvc:// model is on."""
    scheme, rest = service.spec.model.uri.split("://", 1)
    return rest.partition("/")[0] if scheme == "pvc" else None


def cache_claim(service: Service) -> str | None:
    """The PersistentVolumeClaim that downloads are kept on; None: each pod its own folder."""
    cache = service.spec.model_cache
    return None if cache is None else cache.existing_claim or service.child(CACHE)


def _knows_shutdown_timeout(image: str) -> bool:
    """Judged by the tag; one that is no version (a digest, `latest`) is taken for a new one."""
    tag = re.search(r":v?(\d+)\.(\d+)[^/:]*$", image)
    return tag is None or (int(tag[1]), int(tag[2])) >= _SHUTDOWN_TIMEOUT_SINCE


def _template(service: Service, installation: Installation) -> dict[str, Any]:
    spec = service.spec
    drain = spec.drain.pre_stop_seconds + spec.drain.shutdown_timeout_seconds
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": drain + _LAST_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_main(service), _worker(service, installation, drain)],
        "volumes": [*_volumes(service), *installation.redis.volumes()],
    }
    if not spec.model.uri.startswith("hf://"):
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


def _main(service: Service) -> dict[str, Any]:
    spec = service.spec
    ours: list[dict[str, Any]] = [
        {"name": "HF_HOME", "value": f"{CACHE_MOUNT}/huggingface"},
        {"name": "VLLM_CACHE_ROOT", "value": f"{CACHE_MOUNT}/vllm"},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    ]
    if spec.hf_token_secret_ref is not None:
        reference = {"name": spec.hf_token_secret_ref.name, "key": spec.hf_token_secret_ref.key}
        ours.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    theirs = [e.model_dump(by_alias=True, exclude_none=True) for e in spec.engine.env]
    mounts = [
        {"name": "cache", "mountPath": CACHE_MOUNT},
        {"name": "handover", "mountPath": HANDOVER, "readOnly": True},
    ]
    if model_claim(service):
        mounts.append({"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True})
    if _shared_memory(service):
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - no file of ours
    health = {"path": "/health", "port": "http"}
    wait = _WAIT_FOR_WORKER.format(seconds=spec.drain.pre_stop_seconds, file=ENDED_FILE)
    main: dict[str, Any] = {
        "name": "main",
        "image": spec.engine.image,
        "imagePullPolicy": "IfNotPresent",
        "args": vllm_args(service),
        "env": merge({"env": ours}, {"env": theirs})["env"],
        "ports": [{"name": "http", "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "resources": _resources(service),
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        # The last lines of its log become the message of the condition when it does not start.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # The socket opens only when the model is loaded.
        "startupProbe": {
            "httpGet": health,
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": max(1, spec.engine.startup_timeout_seconds // 5),
        },
        "readinessProbe": {
            "httpGet": health,
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        # A loaded server answers late; it is dead only if it is silent for long.
        "livenessProbe": {
            "httpGet": health,
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 10,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", wait]}}},
    }
    if spec.engine.env_from:
        main["envFrom"] = [dict(source) for source in spec.engine.env_from]
    return main


def _worker(service: Service, installation: Installation, drain_s: int) -> dict[str, Any]:
    values = {
        "QUEUE": service.queue,
        "ENGINE": "vllm",
        "ENGINE_URL": f"http://127.0.0.1:{ENGINE_PORT}",
        "SLOTS": str(service.slots),
        "SHUTDOWN_GRACE_S": str(max(0, drain_s - _HAND_BACK_S)),
        "ENDED_FILE": ENDED_FILE,
        "METRICS_PORT": str(WORKER_PORT),
        "METRICS_HOST": "0.0.0.0",  # noqa: S104 - Prometheus scrapes the pod's address
    }
    alive = {"path": "/healthz", "port": "worker-metrics"}
    return {
        "name": "worker",
        "image": installation.worker_image,
        "imagePullPolicy": installation.image_pull_policy,
        "env": [
            *installation.redis.env(),
            *({"name": f"LENGTHWISE_WORKER_{k}", "value": v} for k, v in values.items()),
        ],
        "ports": [{"name": "worker-metrics", "containerPort": WORKER_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "volumeMounts": [
            {"name": "handover", "mountPath": HANDOVER},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
            *installation.redis.mounts(),
        ],
        "securityContext": RESTRICTED,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "livenessProbe": {
            "httpGet": alive,
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "readinessProbe": {"httpGet": alive, "periodSeconds": 5, "timeoutSeconds": 5},
    }


def _check_model(service: Service) -> dict[str, Any]:
    """Finds a wrong path in a second, and says what is there instead; vLLM takes a minute."""
    mounts = (
        [{"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True}]
        if model_claim(service)
        else []
    )
    uri = service.spec.model.uri
    return {
        "name": "check-model",
        "image": service.spec.engine.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", _CHECK_MODEL, "check-model", model_path(service), uri],
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _resources(service: Service) -> dict[str, Any]:
    limits = dict(service.spec.resources.limits)
    if service.spec.parallelism.tensor > 1:
        limits.setdefault(GPU, service.spec.parallelism.tensor)
    # Kubernetes stores quantities as strings; given as such, an apply changes nothing.
    out = {
        "limits": {name: str(value) for name, value in limits.items()},
        "requests": {name: str(value) for name, value in service.spec.resources.requests.items()},
    }
    return {name: value for name, value in out.items() if value}


def _shared_memory(service: Service) -> str | None:
    size = service.spec.shared_memory_size
    if size is None:
        return "8Gi" if service.spec.parallelism.tensor > 1 else "2Gi"
    return None if size == "0" else size


def _volumes(service: Service) -> list[dict[str, Any]]:
    cache, model, shm = cache_claim(service), model_claim(service), _shared_memory(service)
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
    if shm:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}})
    return volumes
