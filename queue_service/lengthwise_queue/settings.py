"""Settings of the queue service's process, from the environment (`LENGTHWISE_QUEUE_*`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from lengthwise_store.redis.settings import RedisSettings


class Settings(RedisSettings):
    """One field, one environment variable: `redis_url` is `LENGTHWISE_QUEUE_REDIS_URL`."""

    model_config = SettingsConfigDict(
        env_prefix="LENGTHWISE_QUEUE_",
        frozen=True,
        hide_input_in_errors=True,  # some are secrets
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0: any free")
    predictor_url: str | None = Field(
        default=None, description="Base URL of the predictor; null: every job gets the fallback"
    )
    predictor_timeout_ms: float = Field(
        default=20, gt=0, le=10_000, description="Longest wait for a prediction, the whole call, ms"
    )
    max_body_bytes: int = Field(
        default=4 * 2**20, ge=1024, description="Largest request body, bytes; 413 above"
    )
    max_file_bytes: int = Field(
        default=200 * 2**20, ge=1024, description="Largest uploaded file, bytes; 413 above"
    )
    tenant_file_bytes: int = Field(
        default=2 * 2**30, ge=1024, description="All files of one tenant together, bytes"
    )
    total_file_bytes: int = Field(
        default=8 * 2**30, ge=1024, description="All files together, bytes; they are in Redis"
    )
    file_ttl_s: int = Field(
        default=30 * 86_400, ge=1, description="A file disappears so long after it was made, s"
    )
    tenants_file: Path | None = Field(
        default=None, description="Tenants and the hashes of their API keys; docs/guides/tenants.md"
    )
    api_key: SecretStr | None = Field(
        default=None, description="The one key, or its hash, where there is no file; null: open"
    )
    batch_window: int = Field(
        default=256, ge=1, le=10_000, description="Lines of one batch that are jobs at once"
    )
    batch_lease_ms: int = Field(
        default=15_000,
        ge=1000,
        description="A batch whose replica is silent for so long is taken over by another, ms",
    )
    batch_completion_s: int = Field(
        default=86_400, ge=1, le=30 * 86_400, description='What a batch\'s "24h" are here, s'
    )
    shutdown_grace_s: int = Field(
        default=30, ge=0, description="On SIGTERM, how long open answers may go on, s"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Settings:
        if self.tenants_file is not None and self.api_key is not None:
            raise ValueError("give `tenants_file` or `api_key`, not both")
        return self
