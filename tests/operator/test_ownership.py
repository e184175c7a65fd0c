"""Objects that have the name of a child and were not created by the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_operator.ownership import conflict, may_change

if TYPE_CHECKING:
    from tests.operator.conftest import MakeService

OURS = [{"manager": "kubectl"}, {"manager": "lengthwise-operator"}]


def owner(uid: str, *, name: str = "chat", kind: str = "LLMService") -> list[dict[str, Any]]:
    return [{"kind": kind, "name": name, "uid": uid, "controller": True}]


def child(**metadata: Any) -> dict[str, Any]:
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "chat-model-cache", "namespace": "team", **metadata},
    }


@pytest.mark.parametrize(
    ("metadata", "want"),
    [
        ({"ownerReferences": owner("uid-chat"), "managedFields": OURS}, True),
        ({"ownerReferences": owner("uid-chat"), "managedFields": OURS[:1]}, False),
        ({"managedFields": OURS}, False),
        ({"labels": {"app.kubernetes.io/managed-by": "lengthwise-operator"}}, False),
        ({"ownerReferences": [{**owner("uid-chat")[0], "controller": False}]}, False),
        ({"ownerReferences": owner("another"), "managedFields": OURS}, False),
        ({"annotations": {"lengthwise.dev/adopt-by": "chat"}}, True),
        ({"annotations": {"lengthwise.dev/adopt-by": "other"}}, False),
        (
            {
                "annotations": {"lengthwise.dev/adopt-by": "chat"},
                "ownerReferences": owner("x", kind="StatefulSet"),
            },
            False,
        ),
    ],
    ids=[
        "its-own",
        "no-field-of-ours",
        "no-owner",
        "only-the-label",
        "owner-that-does-not-control",
        "anothers",
        "handed-over",
        "handed-to-another",
        "handed-over-by-no-owner",
    ],
)
def test_only_an_own_child_or_one_that_was_handed_over_is_changed(
    service: MakeService, metadata: dict[str, Any], want: bool
) -> None:
    assert may_change(child(**metadata), service()) == want


def test_a_message_names_the_object_and_the_ways_out(service: MakeService) -> None:
    message = conflict(child(), service())
    assert "PersistentVolumeClaim team/chat-model-cache" in message
    assert "lengthwise.dev/adopt-by=chat" in message


def test_what_an_earlier_service_of_the_name_left_is_waited_for(service: MakeService) -> None:
    left = child(ownerReferences=owner("uid-before"))
    assert "earlier LLMService" in conflict(left, service())


def test_the_owner_of_a_foreign_object_is_named(service: MakeService) -> None:
    left = child(ownerReferences=owner("uid-db", name="db", kind="StatefulSet"))
    assert "StatefulSet db" in conflict(left, service())
