"""Services, installations and queues to decide about; a test sets only what it is about."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.operator.kubernetes_objects import deployment, engine
from tests.operator.manifests import by_kind

from lengthwise_operator.autoscaling import ScalingDecision
from lengthwise_operator.children.all import all_children
from lengthwise_operator.conditions import Condition, conditions
from lengthwise_operator.installation import Apis, Installation, WorkerRedis
from lengthwise_operator.llmservice.service import LLMService, llmservice_of
from lengthwise_operator.llmservice.spec import LLMServiceSpec
from lengthwise_operator.observed import Observed, PredictorFacts, QueueFacts
from lengthwise_operator.planner import PlannerState, ServicePlan, make_plan
from lengthwise_operator.queue_plan import queue_settings
from lengthwise_operator.reasons import ConditionType

MakeService = Callable[..., LLMService]
MakeFacts = Callable[..., QueueFacts]


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def installation() -> Installation:
    return Installation(
        queue_url="http://queue.lw",
        queue_deployment="lw/queue",
        public_url="http://queue.lw/v1",
        predictor_url="http://predictor.lw",
        worker_image="lengthwise/worker:1",
        predictor_image="lengthwise/predictor:1",
        image_pull_policy="IfNotPresent",
        image_pull_secrets=(),
        redis=WorkerRedis(secret_name="lw-redis", url_key="url"),
        metrics_namespace="",
        allowed_urls=(),
    )


@pytest.fixture
def apis() -> Apis:
    return Apis(pdb_version="policy/v1", pod_monitors=False)


@pytest.fixture
def service() -> MakeService:
    """make(status=..., deleted=..., **spec) -> LLMService."""

    def make(
        *,
        name: str = "chat",
        status: dict[str, Any] | None = None,
        deleted: str | None = None,
        created: str = "2026-03-01T11:00:00Z",
        **spec: Any,
    ) -> LLMService:
        body: dict[str, Any] = {
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"uid-{name}",
                "generation": 3,
                "creationTimestamp": created,
                "deletionTimestamp": deleted,
            },
            "status": status or {},
        }
        whole = {"model": {"uri": "hf://org/model"}} | spec
        return llmservice_of(body, LLMServiceSpec.model_validate(whole))

    return make


@pytest.fixture
def facts() -> MakeFacts:
    """make(**fields) -> facts of a queue, idle except for these fields."""

    def make(**change: Any) -> QueueFacts:
        idle: dict[str, Any] = {
            "depth": 0,
            "in_flight": 0,
            "backlog_tokens": 0.0,
            "ms_per_token": 20.0,
            "backlog_s": None,
            "oldest_wait_s": 0.0,
            "workers": 0,
            "engine_problem": "",
            "mode": "open",
            "active_policy": "sjf",
            "rank_accuracy": None,
            "fallback_active": False,
            "settings": {},
        }
        return QueueFacts(**(idle | change))

    return make


@pytest.fixture
def judge(service: MakeService, installation: Installation, facts: MakeFacts) -> Any:
    """judge(observed fields, spec=..., scaling=..., broken=...) -> {type: condition}."""

    def judge(
        *,
        spec: dict[str, Any] | None = None,
        scaling: ScalingDecision | None = None,
        broken: list[str] | None = None,
        deleted: str | None = None,
        **seen: Any,
    ) -> dict[ConditionType, Condition]:
        whole: dict[str, Any] = {
            "deployments": {"chat-engine": deployment(available=1)},
            "queue": facts(),
            "predictor": PredictorFacts(version="bundled-1", problem=""),
            "served_queue": "chat",
        }
        found = conditions(
            service(deleted=deleted, **(spec or {})),
            Observed(**(whole | seen)),
            installation,
            scaling,
            broken or [],
        )
        return {c.type: c for c in found}

    return judge


@pytest.fixture
def make(installation: Installation, apis: Apis, service: MakeService) -> Any:
    """make(**spec) -> children by kind and name."""

    def make(*, with_apis: Apis = apis, **spec: Any) -> Any:
        return by_kind(all_children(service(**spec), installation, with_apis, 1))

    return make


@pytest.fixture
def plan(
    service: MakeService, installation: Installation, apis: Apis, facts: MakeFacts, now: datetime
) -> Any:
    """plan(spec..., seen={...}, status={...}, state=..., at_s=...) -> ServicePlan."""

    def make(
        *,
        seen: dict[str, Any] | None = None,
        state: PlannerState | None = None,
        at_s: float = 1000,
        **service_fields: Any,
    ) -> ServicePlan:
        made = service(**service_fields)
        there = facts(settings=queue_settings(made))
        whole: dict[str, Any] = {
            "deployments": {"chat-engine": engine()},
            "queue": there,
            "served_queue": made.queue,
        }
        return make_plan(
            made,
            Observed(**(whole | (seen or {}))),
            installation,
            apis,
            state or PlannerState(),
            now=now,
            now_s=at_s,
        )

    return make
