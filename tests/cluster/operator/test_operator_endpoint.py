"""An LLMService over an endpoint that exists, which another service's engine is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.operator.rig import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(240)]

Made = Callable[..., Any]


def over(rig: Rig, url: str, **spec: Any) -> Any:
    return {
        "apiVersion": "lengthwise.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "over", "namespace": rig.kube.namespace},
        "spec": {
            "model": {"name": "over"},
            "engine": {"url": url, "maxNumSeqs": 2},
            "predictor": {"replicas": 0},
            "drain": {"preStopSeconds": 5, "shutdownTimeoutSeconds": 5, "deleteTimeoutSeconds": 60},
            **spec,
        },
    }


@pytest.fixture
def endpoint(rig: Rig, made: Made) -> str:
    """The URL of an OpenAI endpoint in the same namespace that serves the model `over`."""
    manifest = rig.simulated("upstream")
    main = manifest["spec"]["podTemplate"]["spec"]["containers"][0]
    main["args"][main["args"].index("--model") + 1] = "over"
    made(manifest)
    return "http://upstream-engine:8000"


def test_jobs_flow_through_an_existing_endpoint_and_deletion_drains(
    rig: Rig, made: Made, endpoint: str
) -> None:
    made(over(rig, endpoint, replicas=2))
    rig.wait_ready("over", within_s=120)
    assert rig.ask("over").is_success
    assert rig.replicas("over") == 2
    rig.kube.patch("llmservices.lengthwise.dev", "over", {"spec": {"replicas": 1}})

    def scaled() -> bool:
        return rig.replicas("over") == 1

    eventually(scaled, "one worker", within_s=30)
    jobs = [rig.submit("over", tokens=40) for _ in range(6)]
    rig.remove("over", within_s=90)
    assert [rig.job(job)["state"] for job in jobs] == ["succeeded"] * len(jobs)


def test_a_broken_url_is_a_condition_and_heals(rig: Rig, made: Made, endpoint: str) -> None:
    made(over(rig, "http://nobody-here:8000"))
    found = rig.wait_reason("over", "EngineFailing", type_="EngineReady", within_s=90)
    assert "nobody-here" in found["message"]
    rig.kube.patch("llmservices.lengthwise.dev", "over", {"spec": {"engine": {"url": endpoint}}})
    rig.wait_ready("over", within_s=120)


def test_an_address_of_another_namespace_is_refused(rig: Rig, made: Made) -> None:
    made(over(rig, "http://kubernetes.default.svc"))
    found = rig.wait_reason("over", "InvalidSpec", within_s=30)
    assert "operator.allowedUrls" in found["message"]
    assert rig.kube.get("deployment", "over-engine") is None
