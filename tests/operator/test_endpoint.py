"""An LLMService over an endpoint that exists: workers, and no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.operator.kubernetes_objects import deployment
from tests.operator.manifests import container, env, pod

from lengthwise_operator.reasons import ConditionType

if TYPE_CHECKING:
    from tests.operator.conftest import MakeFacts

ENDPOINT: dict[str, Any] = {
    "model": {"name": "big"},
    "engine": {"url": "http://vllm:8000/v1", "apiKeySecretRef": {"name": "k", "key": "key"}},
}


def test_the_pod_has_the_worker_alone(make: Any) -> None:
    found = make(**ENDPOINT)
    assert [c["name"] for c in pod(found)["containers"]] == ["worker"]
    assert "initContainers" not in pod(found)
    volumes = {v["name"] for v in pod(found)["volumes"]}
    assert {m["name"] for m in container(found, "worker")["volumeMounts"]} == volumes


def test_the_worker_calls_the_endpoint_with_its_key(make: Any) -> None:
    got = env(container(make(**ENDPOINT), "worker"))
    assert got["LENGTHWISE_WORKER_ENGINE"] == "openai"
    assert got["LENGTHWISE_WORKER_ENGINE_URL"] == "http://vllm:8000/v1"
    assert got["LENGTHWISE_WORKER_QUEUE"] == "big"
    assert got["LENGTHWISE_WORKER_ENGINE_API_KEY"] == {"secretKeyRef": {"name": "k", "key": "key"}}
    assert "LENGTHWISE_WORKER_ENDED_FILE" not in got


def test_only_the_workers_metrics_are_scraped(make: Any) -> None:
    ports = make(**ENDPOINT)["Service", "chat-engine"]["spec"]["ports"]
    assert [port["name"] for port in ports] == ["worker-metrics"]


def test_an_endpoint_that_fails_is_a_condition_with_the_workers_words(
    judge: Any, facts: MakeFacts
) -> None:
    problem = "The engine does not answer: Name or service not known"
    found = judge(
        spec=ENDPOINT,
        deployments={"chat-engine": deployment(available=1)},
        queue=facts(workers=1, engine_problem=problem),
        served_queue="big",
    )
    engine = found[ConditionType.ENGINE]
    assert (engine.status, engine.reason) == ("False", "EngineFailing")
    assert engine.message == f"http://vllm:8000/v1: {problem}"
    assert found[ConditionType.READY].status == "False"


@pytest.mark.parametrize(
    ("spec", "user"), [({"engine": {"user": 1000}}, 1000), ({}, None)], ids=["user", "image"]
)
def test_an_engine_with_a_user_meets_the_restricted_profile(
    make: Any, spec: dict[str, Any], user: int | None
) -> None:
    found = make(model={"uri": "pvc://claim/m"}, **spec)
    context = pod(found)["securityContext"]
    assert context.get("runAsUser") == user
    assert context.get("runAsNonRoot", False) == (user is not None)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in [*pod(found)["containers"], *pod(found)["initContainers"]]:
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in one["securityContext"]
