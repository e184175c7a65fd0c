"""The container `worker`: it claims jobs and sends them to the engine. Pure.

The engine is vLLM in the same pod, or an endpoint elsewhere (`engine.url`).
"""

from __future__ import annotations

from typing import Any

from lengthwise_operator.children.manifest import RESTRICTED
from lengthwise_operator.children.vllm import ENDED_FILE, HANDOVER_MOUNT
from lengthwise_operator.children.worker_redis import redis_env, redis_mounts
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.names import ENGINE_PORT, WORKER_PORT
from lengthwise_operator.llmservice.service import LLMService

#: The worker returns its unfinished jobs this long before the engine is killed, s.
_RETURN_BEFORE_KILL_S = 5


def worker_container(
    service: LLMService, installation: Installation, drain_s: int
) -> dict[str, Any]:
    """Build the container.

    Args:
        service: The owner.
        installation: What all services share.
        drain_s: How long the engine may continue after its pod was asked to end, s.
    """
    url = service.spec.engine.url
    values = {
        "QUEUE": service.queue,
        "ENGINE": "openai" if url else "vllm",
        "ENGINE_URL": url or f"http://127.0.0.1:{ENGINE_PORT}",
        "SLOTS": str(service.slots),
        "SHUTDOWN_GRACE_S": str(max(0, drain_s - _RETURN_BEFORE_KILL_S)),
        **({"ENGINE_MUST_LIST": "false"} if url else {"ENDED_FILE": ENDED_FILE}),
        "METRICS_PORT": str(WORKER_PORT),
        "METRICS_HOST": "0.0.0.0",  # noqa: S104 - Prometheus scrapes the pod's address
    }
    alive = {"path": "/healthz", "port": "worker-metrics"}
    return {
        "name": "worker",
        "image": installation.worker_image,
        "imagePullPolicy": installation.image_pull_policy,
        "env": [
            *redis_env(installation.redis),
            *_api_key(service),
            *({"name": f"LENGTHWISE_WORKER_{k}", "value": v} for k, v in values.items()),
        ],
        "ports": [{"name": "worker-metrics", "containerPort": WORKER_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "volumeMounts": [
            *([] if url else [{"name": "handover", "mountPath": HANDOVER_MOUNT}]),
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
            *redis_mounts(installation.redis),
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


def _api_key(service: LLMService) -> list[dict[str, Any]]:
    reference = service.spec.engine.api_key_secret_ref
    if reference is None:
        return []
    source = {"secretKeyRef": {"name": reference.name, "key": reference.key}}
    return [{"name": "LENGTHWISE_WORKER_ENGINE_API_KEY", "valueFrom": source}]
