"""Which changes of a child count as drift: the fingerprint."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lengthwise_operator.service_state import fingerprint

CHILD: dict[str, Any] = {
    "metadata": {
        "name": "chat-engine",
        "labels": {"a": "b"},
        "annotations": {"deployment.kubernetes.io/revision": "1", "lengthwise.dev/queue": "chat"},
        "ownerReferences": [{"uid": "1", "controller": True}],
        "resourceVersion": "1",
        "generation": 1,
        "managedFields": [{"manager": "x"}],
    },
    "spec": {"replicas": 1},
    "status": {"replicas": 0},
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    child = copy.deepcopy(CHILD)
    at = child
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = to
    return child


@pytest.mark.parametrize(
    "path",
    [
        ("status", "replicas"),
        ("metadata", "resourceVersion"),
        ("metadata", "generation"),
        ("metadata", "managedFields"),
        ("metadata", "annotations", "deployment.kubernetes.io/revision"),
    ],
)
def test_a_field_that_controllers_write_is_no_drift(path: tuple[str, ...]) -> None:
    assert fingerprint(changed(*path, to="9")) == fingerprint(CHILD)


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "replicas"),
        ("metadata", "labels", "a"),
        ("metadata", "annotations", "lengthwise.dev/queue"),
        ("metadata", "ownerReferences"),
    ],
)
def test_a_field_that_a_user_changes_is_drift(path: tuple[str, ...]) -> None:
    assert fingerprint(changed(*path, to="9")) != fingerprint(CHILD)
