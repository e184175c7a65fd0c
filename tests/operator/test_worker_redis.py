"""The variables for Redis that the operator sets are settings that the worker reads."""

from __future__ import annotations

from typing import get_args

import pytest

from lengthwise_operator.children.worker_redis import redis_env, redis_mounts, redis_volumes
from lengthwise_operator.installation import DurabilityMode, TlsVerifyMode, WorkerRedis
from lengthwise_store.redis import durability
from lengthwise_store.redis import settings as redis_settings
from lengthwise_worker.settings import Settings as WorkerSettings

SECURED = WorkerRedis(
    secret_name="redis",
    url_key="url",
    username="lengthwise",
    password_key="password",
    sentinel_username="watch",
    sentinel_password_key="password",
    tls_secret_name="certificates",
    tls_ca_key="ca.crt",
    tls_cert_key="tls.crt",
    tls_key_key="tls.key",
    tls_verify="ca",
    durability="replica",
    durability_replicas=2,
    durability_timeout_ms=700,
)


def values(redis: WorkerRedis) -> dict[str, str]:
    return {e["name"]: e["value"] for e in redis_env(redis) if "value" in e}


def test_the_choices_are_those_of_the_worker() -> None:
    assert set(get_args(DurabilityMode)) == {str(mode) for mode in durability.Durability}
    assert set(get_args(TlsVerifyMode)) == {str(mode) for mode in redis_settings.TlsVerify}


def test_a_plain_redis_needs_its_url_and_nothing_else() -> None:
    plain = WorkerRedis(secret_name="redis", url_key="url")
    assert redis_env(plain) == [
        {
            "name": "LENGTHWISE_WORKER_REDIS_URL",
            "valueFrom": {"secretKeyRef": {"name": "redis", "key": "url"}},
        }
    ]
    assert redis_volumes(plain) == redis_mounts(plain) == []


def test_the_worker_reads_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in values(SECURED).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LENGTHWISE_WORKER_REDIS_URL", "rediss+sentinel://host/primary")
    got = WorkerSettings(queue="q")
    assert got.durability is durability.Durability.REPLICA
    assert (got.durability_replicas, got.durability_timeout_ms) == (2, 700)
    address = got.redis_address()
    assert (address.username, address.sentinel_username) == ("lengthwise", "watch")
    assert address.tls is not None
    assert address.tls.verify is redis_settings.TlsVerify.CA
    assert str(address.tls.cert_file) == "/etc/lengthwise/redis-tls/tls.crt"
    assert str(address.password.file) == "/etc/lengthwise/redis/password"


def test_every_file_in_a_variable_is_mounted() -> None:
    folders = {m["name"]: m["mountPath"] for m in redis_mounts(SECURED)}
    mounted = {
        f"{folders[v['name']]}/{item['path']}"
        for v in redis_volumes(SECURED)
        for item in v["secret"]["items"]
    }
    named = {value for name, value in values(SECURED).items() if name.endswith("_FILE")}
    assert named == mounted
    assert all(m["readOnly"] for m in redis_mounts(SECURED))


def test_the_private_key_is_never_a_variable() -> None:
    by_reference = [e["valueFrom"] for e in redis_env(SECURED) if "valueFrom" in e]
    assert by_reference == [{"secretKeyRef": {"name": "redis", "key": "url"}}]
