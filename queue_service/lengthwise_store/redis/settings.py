"""The settings of how to reach Redis: the same for the queue service and the worker.

Both `Settings` classes inherit these fields, under their own prefix: `LENGTHWISE_QUEUE_REDIS_URL`,
`LENGTHWISE_WORKER_REDIS_URL` and so on. docs/operate/redis.md explains each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from lengthwise_store.redis.access import Access, Secret, Tls, TlsVerify
from lengthwise_store.redis.durability import Durability


class RedisSettings(BaseSettings):
    """See the module."""

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        repr=False,  # it may hold a password
        description="The Redis or Valkey that holds everything",
    )
    redis_username: str | None = Field(default=None, description="ACL user; null: the URL's")
    redis_password: SecretStr | None = Field(default=None, description="Its password")
    redis_password_file: Path | None = Field(
        default=None, description="A file with its password, read again for each new connection"
    )
    redis_sentinel_username: str | None = Field(
        default=None, description="ACL user at the Sentinels; null: default"
    )
    redis_sentinel_password: SecretStr | None = Field(
        default=None, description="The password at the Sentinels; null: they ask for none"
    )
    redis_sentinel_password_file: Path | None = Field(
        default=None, description="A file with that password"
    )
    redis_tls_ca_file: Path | None = Field(
        default=None, description="Whose certificates to trust, PEM; null: the system's"
    )
    redis_tls_cert_file: Path | None = Field(default=None, description="Our certificate, PEM")
    redis_tls_key_file: Path | None = Field(default=None, description="Its key, PEM")
    redis_tls_verify: TlsVerify = Field(
        default=TlsVerify.FULL, description="full, ca (do not compare the host's name) or none"
    )
    durability: Durability = Field(
        default=Durability.ASYNC, description="async, replica or always; docs/operate/guarantees.md"
    )
    durability_replicas: int = Field(
        default=1, ge=1, le=16, description="replica: so many replicas must confirm"
    )
    durability_timeout_ms: int = Field(
        default=1000, ge=1, le=4000, description="Longest wait for that, ms"
    )

    @model_validator(mode="after")
    def _redis_can_be_reached(self) -> Self:
        if self.redis_password is not None and self.redis_password_file is not None:
            raise ValueError("give `redis_password` or `redis_password_file`, not both")
        if (self.redis_tls_cert_file is None) != (self.redis_tls_key_file is None):
            raise ValueError("give `redis_tls_cert_file` and `redis_tls_key_file`, or neither")
        self.redis_access()
        return self

    def redis_access(self) -> Access:
        """Where Redis is, and who we are there.

        Raises:
            ValueError: The URL cannot be read.
        """
        tls = Tls(
            ca_file=self.redis_tls_ca_file,
            cert_file=self.redis_tls_cert_file,
            key_file=self.redis_tls_key_file,
            verify=self.redis_tls_verify,
        )
        return Access.parse(
            self.redis_url,
            username=self.redis_username,
            password=_secret(self.redis_password, self.redis_password_file),
            sentinel_username=self.redis_sentinel_username,
            sentinel_password=_secret(
                self.redis_sentinel_password, self.redis_sentinel_password_file
            ),
            tls=None if tls == Tls() else tls,
        )


def _secret(value: SecretStr | None, file: Path | None) -> Secret:
    return Secret(value=value.get_secret_value() if value is not None else None, file=file)
