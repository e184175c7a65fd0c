"""Fixtures with an operator beside a real cluster; see rig.py."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.cluster.operator.rig import ROOT, Kube, Rig


@pytest.fixture(scope="session")
def rig(kubectl: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One namespace for all tests. Without a cluster, `kubectl` skips or fails them."""
    kube = Kube(f"lw-operator-{uuid.uuid4().hex[:6]}")
    # kubectl before 1.25 does not know the field x-kubernetes-validations.
    kube("apply", "--validate=false", "-f", str(ROOT / "crds"))
    kube("create", "namespace", kube.namespace)
    made = Rig(kube, tmp_path_factory.mktemp("rig"))
    try:
        made.start()
        yield made
        for left in kube.list("llmservices.lengthwise.dev"):
            name = left["metadata"]["name"]
            change = {"spec": {"drain": {"deleteTimeoutSeconds": 0}}}
            kube.patch("llmservices.lengthwise.dev", name, change)
            made.remove(name)
    finally:
        made.stop()
        for left in kube.list("llmservices.lengthwise.dev"):
            none = {"metadata": {"finalizers": None}}
            kube.patch("llmservices.lengthwise.dev", left["metadata"]["name"], none)
        kube("delete", "namespace", kube.namespace, "--wait=false")


@pytest.fixture
def made(rig: Rig) -> Iterator[Callable[..., Any]]:
    """made(manifest) applies it; the LLMService is deleted at the end of the test."""
    names: list[str] = []

    def make(manifest: Any) -> Any:
        rig.kube.apply(manifest)
        names.append(manifest["metadata"]["name"])
        return manifest

    yield make
    for name in names:
        if rig.service(name) is not None:
            change = {"spec": {"drain": {"deleteTimeoutSeconds": 0}}}
            rig.kube.patch("llmservices.lengthwise.dev", name, change)
        rig.remove(name)
