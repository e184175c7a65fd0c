"""The engine's container `main`, which runs vLLM: arguments, variables, probes. Pure."""

from __future__ import annotations

import re
from typing import Any

from lengthwise_operator.children.manifest import MODEL_MOUNT
from lengthwise_operator.children.pod_template import merge
from lengthwise_operator.llmservice.names import ENGINE_PORT, GPU
from lengthwise_operator.llmservice.service import LLMService

#: Where downloads are stored, and the folder in which the worker leaves `ENDED_FILE`.
CACHE_MOUNT, HANDOVER_MOUNT = "/cache", "/run/lengthwise"

#: The worker creates this file when it has ended; the engine's preStop hook waits for it.
ENDED_FILE = f"{HANDOVER_MOUNT}/worker-ended"

#: vLLM has --shutdown-timeout since this version. Before it, a signal aborted running answers.
_SHUTDOWN_TIMEOUT_SINCE = (0, 18)

_WAIT_FOR_WORKER = """\
i=0; while [ $i -lt {seconds} ] && [ ! -e {file} ]; do sleep 1; i=$((i+1)); done"""


def vllm_args(service: LLMService) -> list[str]:
    """Build the arguments of `vllm serve`."""
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
    if _has_shutdown_timeout(spec.engine.image) and not any(
        re.match("--shutdown[-_]timeout", arg) for arg in spec.engine.args
    ):
        args += ["--shutdown-timeout", str(spec.drain.shutdown_timeout_seconds)]
    return [*args, *spec.engine.args]


def model_path(service: LLMService) -> str:
    """The model argument of `vllm serve`: a name on the hub, or a path in the container."""
    scheme, rest = service.spec.model.uri.split("://", 1)
    if scheme == "hf":
        return rest
    if scheme == "oci":
        return MODEL_MOUNT
    if scheme == "path":
        return rest.rstrip("/") or "/"
    folder = rest.partition("/")[2].strip("/")
    return f"{MODEL_MOUNT}/{folder}" if folder else MODEL_MOUNT


def model_claim(service: LLMService) -> str | None:
    """Name of the PersistentVolumeClaim of a pvc:// model; None: the model is elsewhere."""
    scheme, rest = service.spec.model.uri.split("://", 1)
    return rest.partition("/")[0] if scheme == "pvc" else None


def model_image(service: LLMService) -> str | None:
    """Reference of the image of an oci:// model; None: the model is elsewhere."""
    scheme, _, rest = service.spec.model.uri.partition("://")
    return rest if scheme == "oci" else None


def shared_memory_size(service: LLMService) -> str | None:
    """Size of the volume at /dev/shm; None: no volume, the container runtime's default."""
    size = service.spec.shared_memory_size
    if size is None:
        return "8Gi" if service.spec.parallelism.tensor > 1 else "2Gi"
    return None if size == "0" else size


def vllm_container(service: LLMService) -> dict[str, Any]:
    """Build the container `main`."""
    spec = service.spec
    health = {"path": "/health", "port": "http"}
    wait = _WAIT_FOR_WORKER.format(seconds=spec.drain.pre_stop_seconds, file=ENDED_FILE)
    main: dict[str, Any] = {
        "name": "main",
        "image": spec.engine.image,
        "imagePullPolicy": "IfNotPresent",
        "args": vllm_args(service),
        "env": _env(service),
        "ports": [{"name": "http", "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "resources": _resources(service),
        "volumeMounts": _mounts(service),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        # If the container fails, the last lines of its log become the message of the condition.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # vLLM opens its port only after the model is loaded.
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
        # A busy server answers late; only a long silence means that it is dead.
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


def _has_shutdown_timeout(image: str) -> bool:
    """Decide by the tag. A tag that is no version (a digest, `latest`) counts as a new version."""
    tag = re.search(r":v?(\d+)\.(\d+)[^/:]*$", image)
    return tag is None or (int(tag[1]), int(tag[2])) >= _SHUTDOWN_TIMEOUT_SINCE


def _env(service: LLMService) -> list[dict[str, Any]]:
    spec = service.spec
    base: list[dict[str, Any]] = [
        {"name": "HF_HOME", "value": f"{CACHE_MOUNT}/huggingface"},
        {"name": "VLLM_CACHE_ROOT", "value": f"{CACHE_MOUNT}/vllm"},
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    ]
    if spec.engine.user is not None:
        # That user is not in the image's /etc/passwd, and Python asks for a name and a home.
        base += [{"name": "HOME", "value": CACHE_MOUNT}, {"name": "USER", "value": "vllm"}]
    if spec.hf_token_secret_ref is not None:
        reference = {"name": spec.hf_token_secret_ref.name, "key": spec.hf_token_secret_ref.key}
        base.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    override = [e.model_dump(by_alias=True, exclude_none=True) for e in spec.engine.env]
    merged: list[dict[str, Any]] = merge({"env": base}, {"env": override})["env"]
    return merged


def _mounts(service: LLMService) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "cache", "mountPath": CACHE_MOUNT},
        {"name": "handover", "mountPath": HANDOVER_MOUNT, "readOnly": True},
    ]
    if model_claim(service) or model_image(service):
        mounts.append({"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True})
    if shared_memory_size(service):
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - a mount point
    return mounts


def _names_devices(service: LLMService) -> bool:
    """Whether the spec names the replica's accelerators, of any vendor."""
    resources = service.spec.resources
    # An extended resource has its vendor's domain in its name; cpu and memory have none.
    if any("/" in name for name in (*resources.limits, *resources.requests)):
        return True
    return bool((service.spec.pod_template.spec or {}).get("resourceClaims"))


def _resources(service: LLMService) -> dict[str, Any]:
    limits = dict(service.spec.resources.limits)
    if service.spec.parallelism.tensor > 1 and not _names_devices(service):
        limits[GPU] = service.spec.parallelism.tensor
    # Kubernetes stores quantities as strings. Sent as numbers, every apply would be a change.
    out = {
        "limits": {name: str(value) for name, value in limits.items()},
        "requests": {name: str(value) for name, value in service.spec.resources.requests.items()},
    }
    return {name: value for name, value in out.items() if value}
