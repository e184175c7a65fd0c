"""The plan of a service that is being deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.operator.manifests import engine_replicas

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
        seen={"queue": facts(mode="draining", depth=1)},
    )
    assert engine_replicas(found) == 1


@pytest.mark.parametrize(
    ("deleted", "gone"), [("2026-03-01T11:59:30Z", False), ("2026-03-01T11:58:59Z", True)]
)
def test_an_unreachable_queue_service_delays_a_deletion_for_one_minute(
    plan: Any, deleted: str, gone: bool
) -> None:
    seen = {"queue": None, "queue_problem": "unreachable"}
    assert plan(deleted=deleted, seen=seen).gone == gone


def test_a_service_that_never_had_the_queue_is_deleted_at_once(plan: Any) -> None:
    found = plan(deleted="2026-03-01T11:59:59Z", seen={"name_owner": "other/chat"})
    assert (found.gone, found.queue_command) == (True, "")


def test_a_recreated_service_resumes_its_old_queue(plan: Any, facts: MakeFacts) -> None:
    left = facts(mode="draining", settings={})
    found = plan(seen={"deployments": {}, "queue": left, "served_queue": None})
    assert found.queue_command == "resume"


def test_a_queue_that_an_admin_drains_is_not_resumed(plan: Any, facts: MakeFacts) -> None:
    assert plan(seen={"queue": facts(mode="draining")}).queue_command == ""
