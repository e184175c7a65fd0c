"""An LLMService with a real vLLM on the CPU: its arguments, its probes, and how it ends.

The image comes from the fixture `vllm_image`, with a model at LENGTHWISE_TEST_VLLM_MODEL inside.
Without such an image the tests are skipped; it is large.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cluster.operator.rig import Rig

MODEL = os.environ.get("LENGTHWISE_TEST_VLLM_MODEL", "/models/smollm2")

pytestmark = [
    pytest.mark.kube,
    pytest.mark.slow,
    pytest.mark.timeout(590),
]


def manifest(rig: Rig, image: str) -> Any:
    return {
        "apiVersion": "lengthwise.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "real", "namespace": rig.kube.namespace},
        "spec": {
            "model": {"uri": f"path://{MODEL}", "maxModelLen": 1024},
            "engine": {
                "image": image,
                "args": ["--dtype", "bfloat16", "--enforce-eager"],
                "maxNumSeqs": 8,
                "startupTimeoutSeconds": 300,
            },
            "sharedMemorySize": "256Mi",
            "predictor": {"replicas": 0},
            # Two engines at once do not fit on a small node.
            "rolloutStrategy": {"maxSurge": 0, "maxUnavailable": 1},
            "drain": {"preStopSeconds": 20, "shutdownTimeoutSeconds": 20},
        },
    }


def test_a_real_vllm_serves_and_is_replaced_without_a_failed_request(
    rig: Rig, made: Callable[..., Any], vllm_image: str
) -> None:
    wanted = made(manifest(rig, vllm_image))
    rig.wait_ready("real", within_s=240)
    first = rig.ask("real", tokens=8, timeout_s=120)
    assert first.status_code == 200, first.text
    assert first.json()["usage"]["completion_tokens"] == 8
    with ThreadPoolExecutor(6) as pool:
        # Some run during the change; the others wait in the queue while there is no replica.
        asked = [pool.submit(rig.ask, "real", tokens=120, timeout_s=400) for _ in range(12)]
        wanted["spec"]["engine"]["env"] = [{"name": "CHANGED", "value": "1"}]
        rig.kube.apply(wanted)
        answers = [a.result(timeout=450) for a in asked]
    assert [a.status_code for a in answers] == [200] * 12
    assert {a.json()["usage"]["completion_tokens"] for a in answers} == {120}
    rig.wait_ready("real", within_s=240)
    pods = rig.kube.list("pods", "lengthwise.dev/service=real")
    # The old pod's object may outlive its containers for a while.
    (env,) = [
        container["env"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for container in pod["spec"]["containers"]
        if container["name"] == "main"
    ]
    assert {"name": "CHANGED", "value": "1"} in env
