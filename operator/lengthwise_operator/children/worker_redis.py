"""Variables and mounted Secrets with which the worker's container reaches Redis. Pure.

The operator reads no Secret. It names the Secrets, and the kubelet gives them to the worker's
container, never to the engine's. Passwords are files, because the worker reads such a file again
for each connection: a rotated password needs no restart.
"""

from __future__ import annotations

from typing import Any

from lengthwise_operator.installation import WorkerRedis

#: Where the Secrets are mounted in the worker's container.
_PASSWORDS, _CERTIFICATES = "/etc/lengthwise/redis", "/etc/lengthwise/redis-tls"


def redis_env(redis: WorkerRedis) -> list[dict[str, Any]]:
    """Variables of the worker; a setting that equals the worker's default is left out."""
    url = {"secretKeyRef": {"name": redis.secret_name, "key": redis.url_key}}
    values = {
        "REDIS_USERNAME": redis.username,
        "REDIS_PASSWORD_FILE": _path(_PASSWORDS, redis.password_key),
        "REDIS_SENTINEL_USERNAME": redis.sentinel_username,
        "REDIS_SENTINEL_PASSWORD_FILE": _path(_PASSWORDS, redis.sentinel_password_key),
    }
    if redis.tls_secret_name:
        values |= {
            "REDIS_TLS_CA_FILE": _path(_CERTIFICATES, redis.tls_ca_key),
            "REDIS_TLS_CERT_FILE": _path(_CERTIFICATES, redis.tls_cert_key),
            "REDIS_TLS_KEY_FILE": _path(_CERTIFICATES, redis.tls_key_key),
        }
    if redis.tls_verify != "full":
        values["REDIS_TLS_VERIFY"] = redis.tls_verify
    if redis.durability != "async":
        values |= {
            "DURABILITY": redis.durability,
            "DURABILITY_REPLICAS": str(redis.durability_replicas),
            "DURABILITY_TIMEOUT_MS": str(redis.durability_timeout_ms),
        }
    return [
        {"name": "LENGTHWISE_WORKER_REDIS_URL", "valueFrom": url},
        *({"name": f"LENGTHWISE_WORKER_{k}", "value": v} for k, v in values.items() if v),
    ]


def redis_mounts(redis: WorkerRedis) -> list[dict[str, Any]]:
    """Volume mounts of the worker's container."""
    paths = {"redis": _PASSWORDS, "redis-tls": _CERTIFICATES}
    return [
        {"name": volume["name"], "mountPath": paths[volume["name"]], "readOnly": True}
        for volume in redis_volumes(redis)
    ]


def redis_volumes(redis: WorkerRedis) -> list[dict[str, Any]]:
    """Volumes of the pod for those mounts; each holds only the named keys of its Secret."""
    passwords = [redis.password_key, redis.sentinel_password_key]
    certificates = [redis.tls_ca_key, redis.tls_cert_key, redis.tls_key_key]
    found = [
        ("redis", redis.secret_name, passwords),
        ("redis-tls", redis.tls_secret_name, certificates),
    ]
    return [
        {
            "name": name,
            "secret": {
                "secretName": secret,
                "items": [{"key": key, "path": key} for key in sorted({*keys} - {""})],
            },
        }
        for name, secret, keys in found
        if secret and any(keys)
    ]


def _path(folder: str, key: str) -> str:
    return f"{folder}/{key}" if key else ""
