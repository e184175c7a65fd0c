"""The workers wait while the queue service is rolled out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from lengthwise_operator.clients import queue_rollout
from lengthwise_operator.clients.queue_rollout import QueueRollout, rolled_out
from lengthwise_operator.errors import Refused


def deployment(
    *, wanted: int = 2, generation: int = 2, seen: int = 2, **counts: int
) -> dict[str, Any]:
    there = {"replicas": wanted, "updatedReplicas": wanted, "availableReplicas": wanted} | counts
    return {
        "metadata": {"generation": generation},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": seen, **there},
    }


@pytest.mark.parametrize(
    ("found", "want"),
    [
        (deployment(), True),
        (deployment(seen=1), False),
        (deployment(updatedReplicas=1), False),
        (deployment(replicas=3), False),
        (deployment(availableReplicas=1), False),
        (deployment(wanted=0), True),
        ({"metadata": {"generation": 1}, "spec": {}}, False),
    ],
    ids=[
        "done",
        "not observed",
        "an old pod",
        "one too many",
        "one unavailable",
        "none wanted",
        "new",
    ],
)
def test_a_deployment_is_rolled_out_when_all_pods_are_new_and_available(
    found: dict[str, Any], want: bool
) -> None:
    assert rolled_out(found) is want


class Cluster:
    """Has one Deployment, and records the calls."""

    def __init__(self, found: dict[str, Any] | Refused | None) -> None:
        self.found = found
        self.asked: list[tuple[str, str]] = []

    def find(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        self.asked.append((namespace, name))
        if isinstance(self.found, Refused):
            raise self.found
        return self.found


def in_progress(rollout: QueueRollout, times: int = 1) -> list[bool]:
    async def ask() -> list[bool]:
        return [await rollout.in_progress() for _ in range(times)]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("found", "want"),
    [
        (deployment(), False),
        (deployment(updatedReplicas=1), True),
        (None, False),
        (Refused("forbidden"), False),
    ],
    ids=["done", "in progress", "no such Deployment", "no right to list"],
)
def test_workers_wait_only_for_a_visible_rollout(
    found: dict[str, Any] | Refused | None, want: bool
) -> None:
    cluster = Cluster(found)
    assert in_progress(QueueRollout("lw/queue", cluster), times=5) == [want] * 5
    assert cluster.asked == [("lw", "queue")]  # one call, although many services ask at once


def test_without_a_deployment_name_the_cluster_is_not_asked() -> None:
    cluster = Cluster(deployment(updatedReplicas=1))
    assert in_progress(QueueRollout("", cluster)) == [False]
    assert cluster.asked == []


def test_workers_do_not_wait_forever_for_a_rollout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_rollout, "GIVE_UP_S", 0.0)
    rollout = QueueRollout("lw/queue", Cluster(deployment(updatedReplicas=1)))
    assert in_progress(rollout) == [False]
