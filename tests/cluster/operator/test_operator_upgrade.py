"""The order of an upgrade: the workers are replaced after the queue service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cluster.operator.rig import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400)]

#: An image that does not exist; the test reads only the Deployment.
NEXT = "lengthwise/worker:next"


def worker_image(rig: Rig) -> str:
    deployment = rig.kube.get("deployment", "upgraded-engine")
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return str(next(c["image"] for c in containers if c["name"] == "worker"))


def place_queue_service(rig: Rig, selector: dict[str, str | None]) -> None:
    pod = {"spec": {"nodeSelector": selector}}
    rig.kube.patch("deployment", "queue", {"spec": {"template": pod}})


def test_workers_are_replaced_after_the_queue_service(rig: Rig, made: Callable[..., Any]) -> None:
    # With workers of the next release and a queue service of the previous one, a request of a batch
    # that the engine refuses was reported as a malformed record: docs/decisions/0004.
    made(rig.simulated("upgraded"))
    rig.wait_ready("upgraded")
    before = worker_image(rig)
    place_queue_service(rig, {"no-node": "has-this"})  # its next pod is stuck, the old one serves
    rig.stop_operator()
    try:
        rig.start_operator(LENGTHWISE_OPERATOR_WORKER_IMAGE=NEXT)
        found = rig.wait_reason("upgraded", "RollingOut", type_="EngineReady")
        assert "rollout waits for the queue service" in found["message"]
        assert rig.condition("upgraded")["status"] == "True"
        assert worker_image(rig) == before
        assert rig.ask("upgraded").is_success
        place_queue_service(rig, {"no-node": None})
        rig.until("the worker of the next release", lambda: worker_image(rig) == NEXT, within_s=60)
    finally:
        place_queue_service(rig, {"no-node": None})
        rig.stop_operator()
        rig.start_operator()
