"""Settings of the queue service's process, read from the environment (`LENGTHWISE_QUEUE_*`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from lengthwise_contract.defaults import (
    BATCH_COMPLETION_S,
    BATCH_LEASE_MS,
    BATCH_WINDOW,
    FILE_TTL_S,
    MAX_BODY_BYTES,
    PREDICTOR_TIMEOUT_MS,
)
from lengthwise_store.redis.settings import RedisSettings

#: An origin as browsers send it: without a path.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._\[\]:-]+")


class Settings(RedisSettings):
    """Each field is one environment variable: `redis_url` is `LENGTHWISE_QUEUE_REDIS_URL`."""

    model_config = SettingsConfigDict(
        env_prefix="LENGTHWISE_QUEUE_",
        frozen=True,
        hide_input_in_errors=True,  # some are secrets
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; 0: any free port"
    )
    predictor_url: str | None = Field(
        default=None,
        description="Base URL of the predictor; null: every job gets the fallback length",
    )
    predictor_timeout_ms: float = Field(
        default=PREDICTOR_TIMEOUT_MS,
        gt=0,
        le=10_000,
        description="The longest wait for a prediction, the whole call, ms",
    )
    max_body_bytes: int = Field(
        default=MAX_BODY_BYTES,
        ge=1024,
        description="The largest request body, bytes; a larger one gets a 413",
    )
    max_file_bytes: int = Field(
        default=200 * 2**20,
        ge=1024,
        description="The largest uploaded file, bytes; a larger one gets a 413",
    )
    tenant_file_bytes: int = Field(
        default=2 * 2**30, ge=1024, description="Limit on all files of one tenant together, bytes"
    )
    total_file_bytes: int = Field(
        default=8 * 2**30,
        ge=1024,
        description="Limit on all files together, bytes; they are stored in Redis",
    )
    file_ttl_s: int = Field(
        default=FILE_TTL_S, ge=1, description="A file expires this long after it was made, s"
    )
    tenants_file: Path | None = Field(
        default=None,
        description="Tenants and the hashes of their API keys, docs/guides/tenants.md; null: no "
        "file",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="The only API key, or its hash, without a tenants file; null: open to all",
    )
    batch_window: int = Field(
        default=BATCH_WINDOW,
        ge=1,
        le=10_000,
        description="Most lines of one batch that are jobs at the same time",
    )
    batch_lease_ms: int = Field(
        default=BATCH_LEASE_MS,
        ge=1000,
        description="Another replica takes over a batch whose replica was silent for this long, ms",
    )
    batch_completion_s: int = Field(
        default=BATCH_COMPLETION_S,
        ge=1,
        le=30 * 86_400,
        description='Length of the completion window that a batch calls "24h", s',
    )
    learning_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="The secret by which the words of finished requests are hashed, the same in "
        "all replicas; null: one that is made and kept in Redis, apart from them",
    )
    keep_alive_s: int = Field(
        default=620,
        ge=1,
        description="An idle connection is closed after this time, s. It must be longer than that "
        "of the proxy or load balancer in front (Google's: 600), which would send a request on a "
        "closing one",
    )
    metrics_age_s: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="A scrape of /metrics is computed at most once in this time, whoever asks, s",
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="A second port to listen on, which serves /metrics alone; then the first one "
        "does not serve it; 0: /metrics is on the first one",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins whose web pages may call the service, such as "
        "https://chat.example.com, separated by commas; `*`: all; empty: none",
    )
    shutdown_grace_s: int = Field(
        default=30, ge=0, description="On SIGTERM, how long open answers may continue, s"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Records below this level are not logged"
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(origin.strip().rstrip("/") for origin in value.split(",") if origin.strip())

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: give a scheme, a host and perhaps a port, such as "
                    "https://chat.example.com, without a path"
                )
        return value

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Settings:
        if self.tenants_file is not None and self.api_key is not None:
            raise ValueError("give `tenants_file` or `api_key`, not both")
        return self
