"""The plan of a service that is being deleted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.operator.kubernetes_objects import engine

from lengthwise_operator.queue_plan import overdue

if TYPE_CHECKING:
    from tests.operator.conftest import MakeFacts


def test_a_deletion_stops_admission_first(plan: Any, facts: MakeFacts) -> None:
    found = plan(deleted="2026-03-01T11:59:58Z", seen={"queue": facts(depth=2)})
    assert (found.queue_command, found.gone) == ("drain", False)
    assert found.queue_settings is None


@pytest.mark.parametrize(
    ("queue", "gone"),
    [
        ({"mode": "draining", "depth": 2}, False),
        ({"mode": "draining", "in_flight": 1}, False),
        ({"mode": "draining"}, True),
        ({"mode": "open"}, False),
    ],
    ids=["waiting", "running", "empty", "still-open"],
)
def test_a_deletion_waits_for_the_queued_jobs(
    plan: Any, facts: MakeFacts, queue: dict[str, Any], gone: bool
) -> None:
    assert plan(deleted="2026-03-01T11:59:00Z", seen={"queue": facts(**queue)}).gone == gone


def test_a_deletion_waits_no_longer_than_its_limit(plan: Any, facts: MakeFacts) -> None:
    stuck = {"queue": facts(mode="draining", depth=1)}
    drain = {"deleteTimeoutSeconds": 30}
    assert not plan(deleted="2026-03-01T11:59:35Z", drain=drain, seen=stuck).gone
    assert plan(deleted="2026-03-01T11:59:29Z", drain=drain, seen=stuck).gone


def test_a_deletion_starts_an_engine_for_the_queued_jobs(plan: Any, facts: MakeFacts) -> None:
    found = plan(
        deleted="2026-03-01T11:59:58Z",
        autoscaling={},
        status={"desiredReplicas": 0},
        seen={"queue": facts(mode="draining", depth=1), "deployments": {"chat-engine": engine(0)}},
    )
    assert (found.scale, found.apply) == (1, [])


@pytest.mark.parametrize(
    ("deleted", "gone"), [("2026-03-01T11:59:30Z", False), ("2026-03-01T11:58:59Z", True)]
)
def test_an_unreachable_queue_service_delays_a_deletion_for_one_minute(
    plan: Any, deleted: str, gone: bool
) -> None:
    seen = {"queue": None, "queue_problem": "unreachable"}
    assert plan(deleted=deleted, seen=seen).gone == gone


def test_a_service_that_never_had_the_queue_is_deleted_at_once(plan: Any) -> None:
    seen: dict[str, Any] = {"name_owner": "other/chat", "served_queue": None, "deployments": {}}
    found = plan(deleted="2026-03-01T11:59:59Z", seen=seen)
    assert (found.gone, found.queue_command) == (True, "")


def test_a_recreated_service_resumes_its_old_queue(plan: Any, facts: MakeFacts) -> None:
    left = facts(mode="draining", settings={})
    found = plan(seen={"deployments": {}, "queue": left, "served_queue": None})
    assert found.queue_command == "resume"


def test_a_queue_that_an_admin_drains_is_not_resumed(plan: Any, facts: MakeFacts) -> None:
    assert plan(seen={"queue": facts(mode="draining")}).queue_command == ""


@pytest.mark.parametrize(
    ("spec", "after_s", "over"),
    [
        ({"drain": {"deleteTimeoutSeconds": 30}}, 29, False),
        ({"drain": {"deleteTimeoutSeconds": 30}}, 31, True),
        ({"drain": {"deleteTimeoutSeconds": 0}}, 0, True),
        ({"drain": "soon"}, 599, False),
        ({"drain": "soon"}, 601, True),
        (None, 601, True),
    ],
)
def test_no_fault_keeps_a_deleted_service_beyond_its_limit(
    now: datetime, spec: Any, after_s: int, over: bool
) -> None:
    body = {"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}, "spec": spec}
    assert overdue(body, now + timedelta(seconds=after_s)) == over
