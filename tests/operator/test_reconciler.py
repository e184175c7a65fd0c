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

    def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        key = (manifest["kind"], manifest["metadata"]["name"])
        self.sent.append(key)
        if self.refuse == key[0]:
            raise Refused("quota exceeded")
        stored = copy.deepcopy(manifest)
        stored["metadata"] |= {"uid": "-".join(key), "generation": len(self.sent)}
        self.objects[key] = stored
        return copy.deepcopy(stored)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        del self.objects[kind, name]

    def write_status(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        self.status = {k: v for k, v in {**self.status, **status}.items() if v is not None}

    def claim(self, namespace: str, name: str) -> None: ...

    def deployment(self, namespace: str, name: str) -> None: ...

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
        self.commands: list[str] = []
        self.problem: Exception | None = None

    async def read_all(self) -> dict[str, QueueFacts]:
        if self.problem is not None:
            raise self.problem
        return {} if self.settings is None else {"chat": self._facts(settings=self.settings)}

    async def put(self, name: str, settings: Mapping[str, Any]) -> QueueFacts:
        if self.problem is not None:
            raise self.problem
        self.settings = {**(self.settings or {}), **settings}
        return self._facts(settings=self.settings)

    async def command(self, name: str, command: str) -> None:
        self.commands.append(command)


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

    def reconcile(self) -> list[tuple[str, str]]:
        """Reconcile once; return the children that were sent."""
        before = len(self.cluster.sent)
        body = {**self.body, "status": copy.deepcopy(self.cluster.status)}

        async def run() -> None:
            await self._reconciler.poll()
            await self._reconciler.reconcile(body, self.cluster, self.state)

        asyncio.run(run())
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
    assert operator.queues.commands == ["drain"]
