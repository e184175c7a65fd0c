"""How the worker beside an engine reaches Redis: its variables, and Secrets mounted for it. Pure.

The operator reads no Secret: it names them, and the kubelet puts them into the worker's container
(never into the engine's). Passwords are files, because the worker reads such a file anew for each
connection: one that is rotated needs no restart. Part of `Installation`; used by
children_engine.py. What the settings mean: docs/operate/redis.md, docs/operate/guarantees.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Durability = Literal["async", "replica", "always"]
TlsVerify = Literal["full", "ca", "none"]

#: Where the Secrets are mounted in the worker's container.
_PASSWORDS, _CERTIFICATES = "/etc/lengthwise/redis", "/etc/lengthwise/redis-tls"


@dataclass(frozen=True, kw_only=True)
class WorkerRedis:
    """Names of Secrets in the LLMService's namespace, and of keys within them; "": not used.

    Attributes:
        secret_name: The Secret with the URL and the passwords.
        url_key: Key of the URL.
        username: ACL user; "": the URL's.
        password_key: Key of its password; "": the URL's.
        sentinel_username: ACL user at the Sentinels.
        sentinel_password_key: Key of that password.
        tls_secret_name: The Secret with certificates, PEM; "": the system's CAs are trusted.
        tls_ca_key: Key of the CAs to trust.
        tls_cert_key: Key of our own certificate.
        tls_key_key: Key of its private key.
        tls_verify: What is checked of the server's certificate.
        durability: What an acknowledged write survives; that of the queue service.
        durability_replicas: Of `replica`: so many must confirm.
        durability_timeout_ms: Longest wait for a confirmation, ms.
    """

    secret_name: str
    url_key: str
    username: str = ""
    password_key: str = ""
    sentinel_username: str = ""
    sentinel_password_key: str = ""
    tls_secret_name: str = ""
    tls_ca_key: str = ""
    tls_cert_key: str = ""
    tls_key_key: str = ""
    tls_verify: TlsVerify = "full"
    durability: Durability = "async"
    durability_replicas: int = 1
    durability_timeout_ms: int = 1000

    def env(self) -> list[dict[str, Any]]:
        """The worker's variables; of what is as the worker has it by itself, none."""
        url = {"secretKeyRef": {"name": self.secret_name, "key": self.url_key}}
        values = {
            "REDIS_USERNAME": self.username,
            "REDIS_PASSWORD_FILE": _path(_PASSWORDS, self.password_key),
            "REDIS_SENTINEL_USERNAME": self.sentinel_username,
            "REDIS_SENTINEL_PASSWORD_FILE": _path(_PASSWORDS, self.sentinel_password_key),
        }
        if self.tls_secret_name:
            values |= {
                "REDIS_TLS_CA_FILE": _path(_CERTIFICATES, self.tls_ca_key),
                "REDIS_TLS_CERT_FILE": _path(_CERTIFICATES, self.tls_cert_key),
                "REDIS_TLS_KEY_FILE": _path(_CERTIFICATES, self.tls_key_key),
            }
        if self.tls_verify != "full":
            values["REDIS_TLS_VERIFY"] = self.tls_verify
        if self.durability != "async":
            values |= {
                "DURABILITY": self.durability,
                "DURABILITY_REPLICAS": str(self.durability_replicas),
                "DURABILITY_TIMEOUT_MS": str(self.durability_timeout_ms),
            }
        return [
            {"name": "LENGTHWISE_WORKER_REDIS_URL", "valueFrom": url},
            *({"name": f"LENGTHWISE_WORKER_{k}", "value": v} for k, v in values.items() if v),
        ]

    def mounts(self) -> list[dict[str, Any]]:
        """The worker's volume mounts."""
        paths = {"redis": _PASSWORDS, "redis-tls": _CERTIFICATES}
        return [
            {"name": volume["name"], "mountPath": paths[volume["name"]], "readOnly": True}
            for volume in self.volumes()
        ]

    def volumes(self) -> list[dict[str, Any]]:
        """The pod's volumes for them, each with the named keys alone."""
        passwords = [self.password_key, self.sentinel_password_key]
        certificates = [self.tls_ca_key, self.tls_cert_key, self.tls_key_key]
        found = [
            ("redis", self.secret_name, passwords),
            ("redis-tls", self.tls_secret_name, certificates),
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
