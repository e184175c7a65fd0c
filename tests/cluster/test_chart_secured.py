"""A Redis with TLS and an ACL, and API keys from a Secret, from the client to the worker.

Valkey runs with the user of docs/operate/redis.md, requires a client certificate, and syncs its
file before each answer. The engine is the simulated one, in the image of the operator's tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme
import yaml

ROOT = Path(__file__).parents[2]
VALKEY = os.environ.get("LENGTHWISE_TEST_VALKEY_IMAGE", "lengthwise-test/valkey:dev")
ENGINE = os.environ.get("LENGTHWISE_TEST_ENGINE_IMAGE", "lengthwise-test/engine:dev")
ADMIN_KEY, USER_KEY = "sk-lw-admin-for-tests", "sk-lw-user-for-tests"
PASSWORD = "correct-horse"

#: Container that reads the password -> part of the name of its pod.
PODS_OF = {"queue": "queue", "worker": "engine"}

#: Two containers: the server on the loopback address, and a proxy that adds TLS.
REDIS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: own-redis}
spec:
  selector: {matchLabels: {app: own-redis}}
  template:
    metadata: {labels: {app: own-redis}}
    spec:
      containers:
        - name: valkey
          image: IMAGE
          workingDir: /tmp
          command: [valkey-server, --bind, 127.0.0.1, --maxmemory-policy, noeviction]
          args: [--appendonly, "yes", --appendfsync, always, --aclfile, /acl/users.acl]
          volumeMounts: [{name: acl, mountPath: /acl}]
        - name: tls
          image: IMAGE
          command: [socat]
          args:
            - OPENSSL-LISTEN:6380,reuseaddr,fork,cert=/tls/server.pem,cafile=/tls/ca.crt,verify=1
            - TCP:127.0.0.1:6379
          volumeMounts: [{name: tls, mountPath: /tls}]
          readinessProbe: {tcpSocket: {port: 6380}, periodSeconds: 2}
      volumes:
        - {name: acl, secret: {secretName: own-redis-acl}}
        - {name: tls, secret: {secretName: own-redis-server}}
---
apiVersion: v1
kind: Service
metadata: {name: own-redis}
spec:
  selector: {app: own-redis}
  ports: [{port: 6380, protocol: TCP}]
"""


def secret(name: str, **data: str) -> dict[str, Any]:
    keys = {key.replace("__", "."): value for key, value in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": keys,
    }


def users() -> str:
    """An ACL file with the user of docs/operate/redis.md, and with one that may change it."""
    page = (ROOT / "docs/operate/redis.md").read_text()
    line = re.search(r"^ACL SETUSER (.*)$", page, re.MULTILINE)
    assert line is not None
    user = line[1].replace(">PASSWORD", f">{PASSWORD}") + " +config|get"
    root = "user root on >rotate allcommands allkeys allchannels"
    return f"user default off\n{root}\nuser {user}\n"


def tenants() -> str:
    def hashed(key: str) -> str:
        return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"

    return yaml.safe_dump(
        {
            "tenants": [
                {"name": "platform", "keys": [hashed(ADMIN_KEY)], "admin": True},
                {"name": "research", "keys": [hashed(USER_KEY)], "services": ["chat"]},
            ]
        }
    )


def service() -> dict[str, Any]:
    main = {
        "name": "main",
        "image": ENGINE,
        "args": [
            *("--host", "0.0.0.0", "--port", "8000", "--model", "chat", "--slots", "4"),  # noqa: S104
            *("--tokens-per-s", "50", "--scheduling-policy", "priority"),
        ],
    }
    return {
        "apiVersion": "lengthwise.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": "chat"},
        "spec": {
            "model": {"uri": "hf://simulated/model"},
            "engine": {"maxNumSeqs": 4, "startupTimeoutSeconds": 120},
            "sharedMemorySize": "0",
            "drain": {"preStopSeconds": 5, "shutdownTimeoutSeconds": 5, "deleteTimeoutSeconds": 30},
            "podTemplate": {"spec": {"containers": [main]}},
        },
    }


@pytest.fixture(scope="module")
def secured(kubectl: Any, helm: Any) -> Iterator[str]:
    """URL of the queue service of a release without its own Valkey."""
    authority = trustme.CA()
    server = authority.issue_cert("own-redis")
    client = authority.issue_cert("lengthwise.example")
    ca = authority.cert_pem.bytes().decode()
    made = [
        secret("own-redis-acl", users__acl=users()),
        secret(
            "own-redis-server",
            ca__crt=ca,
            server__pem=server.private_key_and_cert_chain_pem.bytes().decode(),
        ),
        secret("redis-access", url="rediss://own-redis:6380/0", password=PASSWORD),
        secret(
            "redis-certificates",
            ca__crt=ca,
            tls__crt=client.cert_chain_pems[0].bytes().decode(),
            tls__key=client.private_key_pem.bytes().decode(),
        ),
        secret("tenants", tenants__yaml=tenants()),
        secret("admin-key", key=ADMIN_KEY),
    ]
    apply = ("apply", "-n", helm.namespace, "-f", "-")
    kubectl(*apply, stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": made}))
    kubectl(*apply, stdin=REDIS.replace("IMAGE", VALKEY))
    kubectl("rollout", "status", "-n", helm.namespace, "deployment/own-redis", "--timeout=120s")
    helm.install(
        "lw",
        operator={**helm.values["operator"], "watchNamespaces": [helm.namespace]},
        valkey={"enabled": False},
        redis={
            "existingSecret": "redis-access",
            "username": "lengthwise",
            "passwordKey": "password",
            "tls": {
                **{"existingSecret": "redis-certificates", "caKey": "ca.crt"},
                **{"certKey": "tls.crt", "keyKey": "tls.key"},
            },
            "durability": {"mode": "always"},
        },
        tenants={"existingSecret": "tenants", "adminKeySecret": "admin-key"},
    )
    name = "llmservices.lengthwise.dev/chat"
    try:
        kubectl(*apply, "--validate=false", stdin=json.dumps(service()))
        ready = ("--for=condition=Ready", "--timeout=150s")
        kubectl("wait", "-n", helm.namespace, name, *ready)
        with kubectl.forward(helm.namespace, "svc/lw-lengthwise-queue", 80) as url:
            yield url
        kubectl("delete", "-n", helm.namespace, name, "--timeout=120s")
    finally:
        forget = '{"metadata": {"finalizers": null}}'
        kubectl(*("patch", "-n", helm.namespace, name, "--type=merge", "-p", forget), check=False)
        helm.uninstall("lw")


def client_of(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=60, max_retries=0)


def test_a_request_is_answered_through_a_redis_with_tls(secured: str) -> None:
    with client_of(secured, USER_KEY) as client:
        answer = client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "hi"}], max_tokens=5
        )
    assert answer.choices[0].message.content


def test_keys_are_those_of_the_tenants_file(secured: str) -> None:
    unknown = client_of(secured, "sk-lw-unknown")
    with unknown, pytest.raises(openai.AuthenticationError):
        unknown.models.list()
    with client_of(secured, USER_KEY) as client:
        assert [m.id for m in client.models.list()] == ["chat"]
    refused = httpx.put(
        f"{secured}/v1/queues/chat",
        json={"max_depth": 1},
        headers={"Authorization": f"Bearer {USER_KEY}"},
        timeout=30,
    )
    assert refused.status_code == 403


def test_the_workers_use_the_durability_of_the_release(
    kubectl: Any, helm: Any, secured: str
) -> None:
    [pod] = kubectl.get("pods", "-n", helm.namespace, "-l", "lengthwise.dev/service=chat")
    worker = next(c for c in pod["spec"]["containers"] if c["name"] == "worker")
    env = {e["name"]: e.get("value") for e in worker["env"]}
    assert env["LENGTHWISE_WORKER_DURABILITY"] == "always"
    log = kubectl("logs", "-n", helm.namespace, pod["metadata"]["name"], "worker")
    assert "not confirmed" not in log
    assert PASSWORD not in log + json.dumps(pod)


def test_a_rotated_password_is_used_without_a_restart(
    kubectl: Any, helm: Any, secured: str, until: Any
) -> None:
    """The kubelet updates a Secret's file within about a minute; the next connection reads it."""
    new = f"{PASSWORD}-new"
    changed = secret("redis-access", url="rediss://own-redis:6380/0", password=new)
    kubectl("apply", "-n", helm.namespace, "-f", "-", stdin=json.dumps(changed))
    inside = ("exec", "-n", helm.namespace, "deployment/own-redis", "-c", "valkey", "--")
    cli = (*inside, "valkey-cli", "--user", "root", "--pass", "rotate", "--no-auth-warning")
    pods = ("pods", "-n", helm.namespace, "-l", "app.kubernetes.io/part-of=lengthwise")
    before = {p["metadata"]["uid"] for p in kubectl.get(*pods)}

    def updated() -> bool:
        names = kubectl("get", *pods, "-o", "name").split()
        return all(
            kubectl(
                *("exec", "-n", helm.namespace, name, "-c", container, "--"),
                *("cat", "/etc/lengthwise/redis/password"),
                check=False,
            )
            == new
            for name in names
            for container in ("queue", "worker")
            if f"-{PODS_OF[container]}-" in name
        )

    until(updated, "the new password in every pod")
    kubectl(*cli, "ACL", "SETUSER", "lengthwise", "resetpass", f">{new}")
    kubectl(*cli, "CLIENT", "KILL", "USER", "lengthwise")

    def answered() -> bool:
        with client_of(secured, USER_KEY) as client:
            try:
                client.chat.completions.create(
                    model="chat", messages=[{"role": "user", "content": "hi"}], max_tokens=5
                )
            except openai.APIError:
                return False
        return True

    until(answered, "an answer with the new password", within_s=60)
    assert {p["metadata"]["uid"] for p in kubectl.get(*pods)} == before
