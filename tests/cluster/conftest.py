"""Fixtures on a real cluster, the one that KUBECONFIG names: kubectl, namespaces, releases.

The images must exist already (`make cluster-images` builds them with $DOCKER).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import helm_python
import httpx
import pytest
import yaml
from tests import waiting

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "lengthwise"

#: Values for a small cluster; LENGTHWISE_TEST_VALUES names a file for a larger one.
VALUES = Path(os.environ.get("LENGTHWISE_TEST_VALUES", Path(__file__).with_name("values.yaml")))

#: Why CI could not start its cluster: the tests fail. Empty: without KUBECONFIG they are skipped.
CLUSTER_FAILURE = os.environ.get("LENGTHWISE_TEST_CLUSTER_FAILURE", "")

#: The image that is searched on the nodes; the model is in it, at /models/smollm2.
VLLM_IMAGE = "vllm/vllm-openai:cpu"

#: Longest time for pods to start or end, s.
WITHIN_S = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this folder: it needs a cluster, and more time than a unit test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kube)
            item.add_marker(pytest.mark.timeout(600))


class Kubectl:
    """Runs `kubectl`."""

    def __init__(self) -> None:
        beside = Path(os.environ["KUBECONFIG"]).parent / "bin" / "kubectl"
        found = shutil.which("kubectl") or (str(beside) if beside.exists() else None)
        assert found is not None, "put a kubectl on the PATH"
        self._command = found

    def __call__(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """Run it; return its standard output.

        Raises:
            AssertionError: It failed; the message has its standard error.
        """
        done = subprocess.run(
            [self._command, *args], input=stdin, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout

    def get(self, *args: str) -> list[dict[str, Any]]:
        """Return the objects that `kubectl get` finds."""
        found = json.loads(self("get", *args, "-o", "json"))
        return list(found["items"]) if found["kind"] == "List" else [found]

    @contextmanager
    def forward(
        self,
        namespace: str,
        target: str,
        port: int,
        *,
        reached: Callable[[str], bool] | None = None,
    ) -> Iterator[str]:
        """Yield a URL that reaches a port of a Service, Deployment or pod.

        kubectl chooses one pod of the target, perhaps one that is ending, and keeps it. A forward
        that reaches nothing is therefore replaced. For a port without HTTP, `reached` checks the
        address, `host:port`.

        Raises:
            AssertionError: No forward reached it; the message has kubectl's last errors.
        """
        deadline = time.monotonic() + WITHIN_S
        while True:
            with self._forwarding(namespace, target, port) as (url, errors_of):
                address = url.removeprefix("http://")
                if _reached_soon(url) if reached is None else reached(address):
                    yield url
                    return
            assert time.monotonic() < deadline, f"no forward reaches {target}: {errors_of()}"

    @contextmanager
    def _forwarding(
        self, namespace: str, target: str, port: int
    ) -> Iterator[tuple[str, Callable[[], str]]]:
        """Run one `kubectl port-forward`; yield its URL, and a function that returns its errors."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            local = int(probe.getsockname()[1])
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [self._command, "port-forward", "-n", namespace, target, f"{local}:{port}"],
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

            def last_errors() -> str:
                errors.seek(0)
                return errors.read().decode(errors="replace")[-1000:]

            try:
                yield f"http://127.0.0.1:{local}", last_errors
            finally:
                process.terminate()
                process.wait()


def _reached_soon(url: str) -> bool:
    """Whether the URL answers within 15 s."""
    try:
        return waiting.eventually(
            lambda: httpx.get(f"{url}/healthz", timeout=5) is not None,
            "an answer",
            within_s=15,
            every_s=0.5,
            ignoring=(httpx.TransportError,),
        )
    except AssertionError:
        return False


eventually = partial(waiting.eventually, within_s=WITHIN_S, every_s=0.5)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """`eventually`, for tests."""
    return eventually


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    if CLUSTER_FAILURE:
        pytest.fail(CLUSTER_FAILURE)
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a cluster: set KUBECONFIG (make cluster-test)")
    return Kubectl()


@pytest.fixture(scope="session")
def vllm_image(kubectl: Kubectl) -> str:
    """An image of vLLM for the CPU: LENGTHWISE_TEST_VLLM_IMAGE, or one that a node has."""
    wanted = os.environ.get("LENGTHWISE_TEST_VLLM_IMAGE")
    if wanted:
        return wanted
    # A node reports its 50 largest images; this one has gigabytes.
    there = {
        name
        for node in kubectl.get("nodes")
        for image in node["status"].get("images", [])
        for name in image["names"]
    }
    if VLLM_IMAGE not in there:
        pytest.skip(f"no node has {VLLM_IMAGE}; LENGTHWISE_TEST_VLLM_IMAGE may name another")
    return VLLM_IMAGE


@pytest.fixture(scope="session")
def leaving(kubectl: Kubectl) -> Iterator[list[str]]:
    """Namespaces that are being deleted; the end of the session waits for them.

    The kubelet of 1.20 needs more than a minute to remove pods that have ended.
    """
    names: list[str] = []
    yield names
    for name in names:
        kubectl("wait", f"namespace/{name}", "--for=delete", f"--timeout={WITHIN_S}s", check=False)
        assert kubectl("get", "namespace", name, "--ignore-not-found") == "", f"{name} exists"


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl, leaving: list[str]) -> Iterator[str]:
    """A namespace for one module."""
    name = f"lw-test-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
    leaving.append(name)


class Helm:
    """Runs Helm 4's own code in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.values: dict[str, Any] = yaml.safe_load(VALUES.read_text())

    @contextmanager
    def _config(self) -> Iterator[helm_python.Config]:
        with helm_python.Config(
            namespace=self.namespace, kubeconfig_path=os.environ["KUBECONFIG"]
        ) as config:
            yield config

    def install(self, name: str, chart: Path = CHART, **values: Any) -> None:
        """Install, and wait until everything is ready."""
        with self._config() as config:
            config.install(
                str(chart), name, {**self.values, **values}, wait="watcher", timeout=WITHIN_S
            )

    def upgrade(self, name: str, chart: Path = CHART, **values: Any) -> None:
        """Upgrade, and wait until everything is ready."""
        with self._config() as config:
            config.upgrade(
                str(chart), name, {**self.values, **values}, wait="watcher", timeout=WITHIN_S
            )

    def uninstall(self, name: str, *, wait: bool = False) -> None:
        """Uninstall; with `wait`, until every object is deleted."""
        waiting = {"wait": "watcher", "timeout": WITHIN_S} if wait else {}
        with self._config() as config:
            config.uninstall(name, **waiting)

    def test(self, name: str) -> None:
        """Run `helm test`."""
        with self._config() as config:
            config.test(name, timeout=WITHIN_S)


@pytest.fixture(scope="module")
def helm(namespace: str) -> Helm:
    return Helm(namespace)
