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
    ids=["done", "not begun", "an old pod", "one too many", "one is away", "none wanted", "new"],
)
def test_a_deployment_is_rolled_out_when_all_its_pods_are_new_and_answer(
    found: dict[str, Any], want: bool
) -> None:
    assert rolled_out(found) is want


class Cluster:
    """Has one Deployment, and counts who asks."""

    def __init__(self, found: dict[str, Any] | Refused | None) -> None:
        self.found = found
        self.asked: list[tuple[str, str]] = []

    def deployment(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        self.asked.append((namespace, name))
        if isinstance(self.found, Refused):
            raise self.found
        return self.found


def under_way(rollout: QueueRollout, times: int = 1) -> list[bool]:
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
    ids=["done", "under way", "no such Deployment", "no right to look"],
)
def test_what_cannot_be_seen_is_not_waited_for(
    found: dict[str, Any] | Refused | None, want: bool
) -> None:
    cluster = Cluster(found)
    assert under_way(QueueRollout("lw/queue", cluster), times=5) == [want] * 5
    assert cluster.asked == [("lw", "queue")]  # two hundred services ask at once


def test_without_the_deployments_name_nobody_is_asked() -> None:
    cluster = Cluster(deployment(updatedReplicas=1))
    assert under_way(QueueRollout("", cluster)) == [False]
    assert cluster.asked == []


def test_a_rollout_that_does_not_end_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_rollout, "GIVE_UP_S", 0.0)
    rollout = QueueRollout("lw/queue", Cluster(deployment(updatedReplicas=1)))
    assert under_way(rollout) == [False]
