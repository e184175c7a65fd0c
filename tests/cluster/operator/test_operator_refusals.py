"""Objects that are not the operator's, and specs that no API server takes, on a real one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.operator.rig import Rig

pytestmark = [pytest.mark.kube, pytest.mark.timeout(200)]

#: Longest time until a malformed spec is a condition, and until its deletion ends, s.
WITHIN_S = 10

LABELS = {"app": "theirs"}
POD = {
    "metadata": {"labels": LABELS},
    "spec": {"containers": [{"name": "sleep", "image": "none/none", "command": ["sleep", "1"]}]},
}


def foreign(name: str) -> list[Any]:
    """One object of each kind that an LLMService `name` makes, with the names of its children."""
    engine = {"name": f"{name}-engine", "labels": LABELS}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    port = {"name": "other", "port": 80}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": engine,
            "spec": {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": POD},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": engine,
            "spec": {"selector": LABELS, "ports": [port]},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": engine,
            "spec": {"podSelector": {"matchLabels": LABELS}, "policyTypes": ["Ingress"]},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{name}-model-cache", "labels": LABELS},
            "spec": claim,
        },
    ]


@pytest.fixture
def theirs(rig: Rig) -> Iterator[list[Any]]:
    objects = foreign("vic")
    for one in objects:
        rig.kube.apply(one)
    yield objects
    for one in objects:
        rig.kube("delete", one["kind"], one["metadata"]["name"], "--wait=false", check=False)


def identity(rig: Rig, one: Any) -> Any:
    """What must stay the same: everything but the status and the bookkeeping of controllers."""
    found = rig.kube.get(one["kind"], one["metadata"]["name"])
    if found is None:
        return None
    meta = found["metadata"]
    kept = [meta["uid"], meta.get("labels"), meta.get("ownerReferences")]
    return [*kept, meta.get("deletionTimestamp"), found["spec"]]


def test_foreign_objects_are_neither_changed_nor_deleted(rig: Rig, theirs: list[Any]) -> None:
    before = [identity(rig, one) for one in theirs]
    rig.kube.apply(rig.simulated("vic", modelCache={}))
    for type_ in ("EngineReady", "CacheReady"):
        rig.wait_reason("vic", "NameConflict", type_=type_, within_s=30)
    assert "vic-engine" in rig.condition("vic")["message"]
    assert [identity(rig, one) for one in theirs] == before
    rig.remove("vic")
    assert [identity(rig, one) for one in theirs] == before


def test_an_object_that_its_owner_hands_over_becomes_a_child(rig: Rig) -> None:
    policy = foreign("adopted")[2]
    policy["metadata"]["annotations"] = {"lengthwise.dev/adopt-by": "adopted"}
    rig.kube.apply(policy)
    rig.kube.apply(rig.simulated("adopted", replicas=0))
    rig.wait_ready("adopted")
    owners = rig.kube.get("NetworkPolicy", "adopted-engine")["metadata"]["ownerReferences"]
    assert [owner["name"] for owner in owners] == ["adopted"]
    rig.remove("adopted")

    def gone() -> bool:
        return rig.kube.get("NetworkPolicy", "adopted-engine") is None

    eventually(gone, "the adopted policy deleted", within_s=30)


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-field": ({"podTemplate": {"spec": {"hostNetwrok": True}}}, "hostNetwrok"),
    "unknown-in-container": (
        {"podTemplate": {"spec": {"containers": [{"name": "main", "imagePolicy": "x"}]}}},
        "imagePolicy",
    ),
    "containers-string": ({"podTemplate": {"spec": {"containers": "x"}}}, "containers"),
    "container-without-name": (
        {"podTemplate": {"spec": {"containers": [{"image": "x"}]}}},
        "containers",
    ),
    "volume-missing": (
        {
            "podTemplate": {
                "spec": {
                    "containers": [
                        {"name": "main", "volumeMounts": [{"name": "nope", "mountPath": "/x"}]}
                    ]
                }
            }
        },
        "volumeMounts",
    ),
    "env-from": ({"engine": {"envFrom": [{"foo": 1}]}}, "envFrom"),
    "value-from": ({"engine": {"env": [{"name": "A", "valueFrom": {"foo": 1}}]}}, "valueFrom"),
    "affinity": ({"affinity": {"nodeAffinity": {"required": []}}}, "nodeAffinity"),
    "memory": ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
    "template-quantity": (
        {
            "podTemplate": {
                "spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "many"}}}]}
            }
        },
        "limits.cpu",
    ),
    "labels-list": ({"podTemplate": {"metadata": {"labels": ["a"]}}}, "labels"),
    "spec-list": ({"podTemplate": {"spec": [1]}}, "spec"),
    "node-selector": ({"nodeSelector": {"a b": "c"}}, "nodeSelector"),
    "argument": ({"engine": {"args": ["--port=1\n\n2"]}}, "engine.args"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_spec_is_refused_and_can_be_deleted(rig: Rig, name: str) -> None:
    spec, field = MALFORMED[name]
    manifest = {
        "apiVersion": "lengthwise.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": f"bad-{name}"},
        "spec": {
            "model": {"uri": "hf://org/model"},
            "predictor": {"replicas": 0},
            "replicas": 0,
            "drain": {"deleteTimeoutSeconds": 0},
            **spec,
        },
    }
    refusal = ""
    try:
        rig.kube.apply(manifest)
    except AssertionError as exc:
        refusal = str(exc)
    if refusal:  # by the CRD's schema; a server since 1.25 enforces the rules, too
        assert field in refusal
        return

    def refused() -> Any:
        ready = rig.condition(f"bad-{name}")
        return ready if ready.get("status") == "False" and field in ready["message"] else None

    eventually(refused, f"a condition about {field}", within_s=WITHIN_S, every_s=0.5)
    started_s = time.monotonic()
    rig.remove(f"bad-{name}")
    assert time.monotonic() - started_s < WITHIN_S
