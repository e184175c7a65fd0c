"""Whole reconciliations, with an API server and a queue service that live in memory.

tests/cluster/operator has the same on a real API server.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_operator.clients.predictors import PredictorClient
from lengthwise_operator.errors import BadSpec, Refused, Unreachable
from lengthwise_operator.installation import Apis, Installation
from lengthwise_operator.metrics import OperatorMetrics
from lengthwise_operator.observed import QueueFacts
from lengthwise_operator.planner import ServicePlan
from lengthwise_operator.reconciler import Reconciler
from lengthwise_operator.service_state import ServiceState

if TYPE_CHECKING:
    from tests.operator.conftest import MakeFacts


class MemoryCluster:
    """Stores objects as an API server does, and delivers them as the watches do."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.status: dict[str, Any] = {}
        self.sent: list[tuple[str, str]] = []
        self.refuse = ""

    def apis(self) -> Apis:
        return Apis(pdb_version="policy/v1", pod_monitors=False)

    def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.objects.get((kind, name)))

    def apply(self, manifest: dict[str, Any], uid: str | None) -> dict[str, Any]:
        key = (manifest["kind"], manifest["metadata"]["name"])
        present = self.objects.get(key)
        assert (present["metadata"]["uid"] if present else None) == uid
        self.sent.append(key)
        if self.refuse == key[0]:
            raise Refused("quota exceeded")
        stored = copy.deepcopy(manifest)
        stored["metadata"] |= {"uid": "-".join(key), "generation": len(self.sent)}
        stored["metadata"]["managedFields"] = [{"manager": "lengthwise-operator"}]
        self.objects[key] = stored
        return copy.deepcopy(stored)

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        self.objects["Deployment", deployment]["spec"]["replicas"] = replicas

    def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        assert self.objects[kind, name]["metadata"]["uid"] == uid
        del self.objects[kind, name]

    def write_status(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        self.status = {k: v for k, v in {**self.status, **status}.items() if v is not None}

    def warnings(self, namespace: str, pod_uid: str) -> list[Any]:
        return []

    def of_service(self, namespace: str, service: str) -> Iterator[Mapping[str, Any]]:
        yield from list(self.objects.values())

    def with_queue(self, queue: str) -> list[tuple[str, str, str]]:
        return [("2026-03-01T11:00:00Z", "team/chat", "uid-chat")]

    def condition(self, type_: str) -> tuple[str, str]:
        (found,) = [c for c in self.status["conditions"] if c["type"] == type_]
        return found["reason"], found["message"]


class MemoryQueues:
    """The queue service: one queue at most."""

    def __init__(self, facts: MakeFacts) -> None:
        self._facts = facts
        self.settings: dict[str, Any] | None = None
        self.commands: list[tuple[str, str]] = []
        self.found: dict[str, Any] = {}  #: facts of the queue that differ from those of an idle one
        self.problem: Exception | None = None

    async def read_all(self) -> dict[str, QueueFacts]:
        if self.problem is not None:
            raise self.problem
        if self.settings is None:
            return {}
        return {"chat": self._facts(settings=self.settings, **self.found)}

    async def put(self, name: str, settings: Mapping[str, Any]) -> QueueFacts:
        if self.problem is not None:
            raise self.problem
        self.settings = {**(self.settings or {}), **settings}
        return self._facts(settings=self.settings)

    async def command(self, name: str, command: str) -> None:
        self.commands.append((name, command))


class Operator:
    """A reconciler, with a clock that the test sets."""

    def __init__(
        self, installation: Installation, facts: MakeFacts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cluster, self.queues = MemoryCluster(), MemoryQueues(facts)
        self.metrics, self.state = OperatorMetrics(), ServiceState()
        self.body: dict[str, Any] = {
            "metadata": {
                "name": "chat",
                "namespace": "team",
                "uid": "uid-chat",
                "generation": 1,
                "creationTimestamp": "2026-03-01T11:00:00Z",
            },
            "spec": {"model": {"uri": "hf://org/model"}, "predictor": {"replicas": 0}},
        }
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        self._reconciler = Reconciler(
            installation,
            self.cluster,  # type: ignore[arg-type]
            self.queues,  # type: ignore[arg-type]
            PredictorClient(),
            self.metrics,
        )

    def plan(self, status: dict[str, Any] | None = None) -> ServicePlan:
        """Reconcile once, with the status that the watch delivers; return the plan."""
        seen = self.cluster.status if status is None else status
        body = {**self.body, "status": copy.deepcopy(seen)}

        async def run() -> ServicePlan:
            await self._reconciler.poll()
            return await self._reconciler.reconcile(body, self.cluster, self.state)

        return asyncio.run(run())

    def reconcile(self) -> list[tuple[str, str]]:
        """Reconcile once; return the children that were sent."""
        before = len(self.cluster.sent)
        self.plan()
        return self.cluster.sent[before:]


@pytest.fixture
def operator(
    installation: Installation, facts: MakeFacts, monkeypatch: pytest.MonkeyPatch
) -> Operator:
    return Operator(installation, facts, monkeypatch)


ENGINE = ("Deployment", "chat-engine")


def test_the_first_reconciliation_creates_everything_and_the_next_sends_nothing(
    operator: Operator,
) -> None:
    sent = operator.reconcile()
    assert set(sent) == {ENGINE, ("Service", "chat-engine"), ("NetworkPolicy", "chat-engine")}
    assert operator.queues.settings is not None
    assert operator.cluster.condition("QueueReady")[0] == "Accepting"
    operator.now_s += 60
    assert operator.reconcile() == []


def test_a_child_that_was_changed_or_deleted_is_sent_again_after_the_echo(
    operator: Operator,
) -> None:
    operator.reconcile()
    operator.cluster.objects[ENGINE]["spec"]["replicas"] = 7
    del operator.cluster.objects["Service", "chat-engine"]
    operator.now_s += 1
    assert operator.reconcile() == []  # the watch may be behind
    operator.now_s += 10
    assert set(operator.reconcile()) == {ENGINE, ("Service", "chat-engine")}
    assert operator.cluster.objects[ENGINE]["spec"]["replicas"] == 1
    repairs = operator.metrics.registry.get_sample_value(
        "lengthwise_operator_repairs_total", {"kind": "Deployment"}
    )
    assert repairs == 1


def test_a_refused_child_is_a_condition_and_is_sent_again_after_half_a_minute(
    operator: Operator,
) -> None:
    operator.cluster.refuse = "Deployment"
    operator.reconcile()
    assert operator.cluster.condition("EngineReady") == ("ManifestRefused", "quota exceeded")
    operator.now_s += 10
    assert operator.reconcile() == []
    operator.cluster.refuse = ""
    operator.now_s += 30
    assert operator.reconcile() == [ENGINE]
    assert operator.cluster.condition("EngineReady")[0] == "Starting"


def test_refused_settings_are_sent_again_after_half_a_minute(operator: Operator) -> None:
    operator.queues.settings = {"max_depth": 1}
    operator.reconcile()
    assert operator.queues.settings["max_depth"] == 10_000

    async def refuse(name: str, settings: Mapping[str, Any]) -> QueueFacts:
        tries.append(operator.now_s)
        raise Refused("max_depth is too large")

    tries: list[float] = []
    operator.queues.put = refuse  # type: ignore[method-assign]
    operator.body["spec"]["queue"] = {"maxDepth": 20_000}
    for _ in range(3):
        operator.reconcile()
        operator.now_s += 20
    assert tries == [1000, 1040]
    assert operator.cluster.condition("QueueReady") == (
        "SettingsRefused",
        "max_depth is too large",
    )


def test_the_children_do_not_wait_for_an_unreachable_queue_service(operator: Operator) -> None:
    operator.queues.problem = Unreachable("the queue service does not answer")
    assert ENGINE in operator.reconcile()
    assert operator.cluster.condition("QueueReady")[0] == "QueueServiceUnreachable"


def test_an_unreadable_spec_is_reported_in_the_status(operator: Operator) -> None:
    operator.body["spec"]["engine"] = {"maxNumSeqs": "many"}
    with pytest.raises(BadSpec, match=r"spec\.engine\.maxNumSeqs"):
        operator.reconcile()
    assert operator.cluster.condition("Ready")[0] == "InvalidSpec"
    assert operator.cluster.sent == []


def test_a_deleted_service_drains_its_queue(operator: Operator) -> None:
    operator.reconcile()
    operator.body["metadata"]["deletionTimestamp"] = "2126-03-01T12:00:00Z"
    operator.reconcile()
    assert operator.queues.commands == [("chat", "drain")]


@pytest.mark.parametrize(
    ("kind", "name", "condition", "spec"),
    [
        ("Deployment", "chat-engine", "EngineReady", {}),
        ("Service", "chat-engine", "EngineReady", {}),
        ("NetworkPolicy", "chat-engine", "EngineReady", {}),
        ("PodDisruptionBudget", "chat-engine", "EngineReady", {"replicas": 2}),
        ("PersistentVolumeClaim", "chat-model-cache", "CacheReady", {"modelCache": {}}),
        ("Deployment", "chat-predictor", "PredictorReady", {"predictor": {"replicas": 1}}),
        ("Service", "chat-predictor", "PredictorReady", {"predictor": {"replicas": 1}}),
    ],
)
def test_a_foreign_object_is_never_changed_and_is_a_condition(
    operator: Operator, kind: str, name: str, condition: str, spec: dict[str, Any]
) -> None:
    mine = {"kind": kind, "metadata": {"name": name, "namespace": "team", "uid": "theirs"}}
    operator.cluster.objects[kind, name] = copy.deepcopy(mine)
    operator.body["spec"] |= spec
    for _ in range(3):
        assert (kind, name) not in operator.reconcile()
        operator.now_s += 40
    assert operator.cluster.objects[kind, name] == mine
    reason, message = operator.cluster.condition(condition)
    assert reason == "NameConflict"
    assert f"{kind} team/{name}" in message
    del operator.cluster.objects[kind, name]
    operator.now_s += 40
    assert (kind, name) in operator.reconcile()
    assert operator.cluster.condition(condition)[0] != "NameConflict"


def test_a_foreign_object_with_our_labels_is_neither_read_nor_deleted(operator: Operator) -> None:
    operator.reconcile()
    copied = copy.deepcopy(operator.cluster.objects[ENGINE])
    copied["metadata"] |= {"name": "copy", "uid": "copied", "ownerReferences": []}
    operator.cluster.objects["Deployment", "copy"] = copied
    operator.now_s += 60
    operator.reconcile()
    assert ("Deployment", "copy") in operator.cluster.objects


def test_a_deletion_applies_no_child_and_sends_none_that_is_missing(operator: Operator) -> None:
    operator.reconcile()
    operator.body["metadata"]["deletionTimestamp"] = "2126-03-01T12:00:00Z"
    operator.cluster.objects.pop(("Service", "chat-engine"))
    operator.now_s += 60
    assert operator.reconcile() == []


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {"maxNumSeqs": "many"}},
        {"model": {"uri": "hf://org/model", "name": "other"}},
        {"podTemplate": {"spec": {"containers": "x"}}},
        {"replicas": 1, "autoscaling": {}},
        {"engine": 5, "drain": []},
    ],
    ids=["unreadable", "renamed", "bad-template", "broken-rule", "hopeless"],
)
def test_a_deletion_drains_the_queue_that_the_engine_served_whatever_the_spec_says_now(
    operator: Operator, change: dict[str, Any]
) -> None:
    operator.reconcile()
    operator.body["spec"] |= change
    operator.body["metadata"]["deletionTimestamp"] = "2126-03-01T12:00:00Z"
    operator.queues.found = {"depth": 3}
    assert not operator.plan().gone
    assert operator.queues.commands == [("chat", "drain")]
    operator.queues.found = {"depth": 0, "mode": "draining"}
    assert operator.plan().gone


def test_a_service_whose_spec_was_never_readable_is_deleted_at_once(operator: Operator) -> None:
    operator.body["spec"]["engine"] = {"maxNumSeqs": "many"}
    operator.body["metadata"]["deletionTimestamp"] = "2126-03-01T12:00:00Z"
    assert operator.plan().gone
    assert operator.cluster.sent == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"podTemplate": {"spec": {"containers": "x"}}}, "podTemplate.spec.containers"),
        (
            {"podTemplate": {"spec": {"terminationGracePeriodSeconds": "abc"}}},
            "podTemplate.spec.terminationGracePeriodSeconds",
        ),
        ({"affinity": {"nodeAffinity": 5}}, "affinity.nodeAffinity"),
        ({"engine": {"env": [{"name": "A", "valueFrom": {"fieldRef": 1}}]}}, "engine.env[0]"),
    ],
)
def test_a_part_that_is_no_part_of_a_pod_is_a_condition_that_names_the_field(
    operator: Operator, spec: dict[str, Any], field: str
) -> None:
    operator.body["spec"] |= spec
    assert operator.reconcile() == []
    reason, message = operator.cluster.condition("Ready")
    assert reason == "InvalidSpec"
    assert field in message


def test_an_event_is_posted_once_though_the_watch_is_behind(operator: Operator) -> None:
    first = operator.plan(status={})
    assert "Starting" in [event.reason for event in first.events]
    assert operator.plan(status={}).events == []
    operator.now_s += 1
    assert operator.plan(status={}).events == []
