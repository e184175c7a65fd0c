"""The CRD on an API server that enforces its CEL rules (Kubernetes 1.25 and later).

LENGTHWISE_TEST_CRD_KUBECONFIG names the server; it needs no nodes. Without the variable these tests
are skipped, and test_crd.py checks the rules with a CEL library instead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.waiting import eventually

from lengthwise_operator.llmservice.rules import RULES, TRANSITION_RULES
from lengthwise_operator.llmservice.spec import LLMServiceSpec

ROOT = Path(__file__).resolve().parents[3]
KUBECONFIG = os.environ.get("LENGTHWISE_TEST_CRD_KUBECONFIG", "")
CASES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("crd_cases.yaml").read_text())

pytestmark = pytest.mark.skipif(
    not KUBECONFIG, reason="needs an API server: set LENGTHWISE_TEST_CRD_KUBECONFIG"
)


class Server:
    """kubectl in a namespace of its own, on a server that has the CRD."""

    def __init__(self) -> None:
        beside = Path(KUBECONFIG).parent / "bin" / "kubectl"
        found = str(beside) if beside.exists() else shutil.which("kubectl")
        assert found is not None, "put a kubectl on the PATH"
        self.namespace = f"lw-test-{uuid.uuid4().hex[:6]}"
        self._command = [found, "--kubeconfig", KUBECONFIG, "--namespace", self.namespace]

    def run(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *args],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def apply(
        self, name: str, spec: dict[str, Any], *, dry_run: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Apply an LLMService on the server; the output is the object as JSON."""
        manifest = {
            "apiVersion": "lengthwise.dev/v1alpha1",
            "kind": "LLMService",
            "metadata": {"name": name},
            "spec": spec,
        }
        flags = ["--server-side", "--validate=strict", "-o", "json", "-f", "-"]
        if dry_run:
            flags.append("--dry-run=server")
        return self.run("apply", *flags, stdin=json.dumps(manifest))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    assert Path(KUBECONFIG).exists(), f"there is no {KUBECONFIG}: the API server did not start"
    made = Server()
    done = made.run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    assert done.returncode == 0, done.stderr
    waited = made.run(
        "wait", "--for=condition=Established", "--timeout=30s", "crd/llmservices.lengthwise.dev"
    )
    assert waited.returncode == 0, waited.stderr
    # A new version of a schema is enforced a moment after it was stored.
    probe = CASES["minimal"] | {"replicas": 1, "autoscaling": {}}
    eventually(
        lambda: made.apply("probe", probe).returncode != 0,
        "the server enforces the CRD's rules",
        every_s=0.5,
    )
    yield made
    made.run("delete", "llmservices.lengthwise.dev", "--all", "--wait=false")


def messages(stderr: str) -> set[str]:
    """The messages of the rules in an error of the API server."""
    known = {rule.message for rule in RULES} | {message for _, _, message in TRANSITION_RULES}
    return {message for message in known if message in stderr}


def test_the_server_fills_in_the_defaults_of_the_models(server: Server) -> None:
    done = server.apply("m", CASES["minimal"])
    assert done.returncode == 0, done.stderr
    stored = LLMServiceSpec.model_validate(json.loads(done.stdout)["spec"])
    assert stored == LLMServiceSpec.model_validate(CASES["minimal"])


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: str(case["id"]))
def test_a_bad_manifest_is_refused_with_the_message_of_its_rule(
    server: Server, case: dict[str, Any]
) -> None:
    done = server.apply(case.get("name", "m"), CASES["minimal"] | case["spec"])
    assert done.returncode != 0
    assert messages(done.stderr) == {r.message for r in RULES if r.reason == case["rule"]}


@pytest.mark.parametrize("case", CASES["changes"], ids=lambda case: str(case["id"]))
def test_a_change_is_refused_or_allowed(server: Server, case: dict[str, Any]) -> None:
    name = f"changed-{uuid.uuid4().hex[:6]}"
    made = server.apply(name, CASES["minimal"] | case["old"], dry_run=False)
    assert made.returncode == 0, made.stderr
    done = server.apply(name, CASES["minimal"] | case["new"])
    if case["refused"] is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        (message,) = messages(done.stderr)
        assert message.startswith(case["refused"])


def test_an_unknown_field_is_refused(server: Server) -> None:
    done = server.apply("m", CASES["minimal"] | {"modelCahce": {}})
    assert done.returncode != 0
    assert "modelCahce" in done.stderr


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: str(path.stem)
)
def test_an_example_is_accepted(server: Server, path: Path) -> None:
    done = server.run(
        *("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", str(path))
    )
    assert done.returncode == 0, done.stderr
