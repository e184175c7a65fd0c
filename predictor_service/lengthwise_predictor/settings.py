"""Settings of the predictor, from `LENGTHWISE_PREDICTOR_...` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lengthwise_contract.defaults import RELOAD_EVERY_S

#: The model that ships with the package.
BUNDLED = Path(__file__).parent / "bundled"


class PredictorSettings(BaseSettings):
    """Settings of one predictor process; the unit of every number is in its name."""

    model_config = SettingsConfigDict(env_prefix="LENGTHWISE_PREDICTOR_", extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=8081, ge=0, le=65_535, description="TCP port; 0 picks a free one")
    model_dir: Path = Field(
        default=BUNDLED, description="Folder with model.onnx, tokenizer.json and model.json"
    )
    models: dict[str, Path] = Field(
        default_factory=dict,
        max_length=8,
        description="More models, name -> folder, JSON. Each serves the LLM of that name, in any "
        "spelling, and requests whose `predictor` is that name; each takes its own memory",
    )
    reload_every_s: float = Field(
        default=RELOAD_EVERY_S,
        ge=0,
        le=86_400,
        description="How often model folders are checked for changes, s. A changed model (or a "
        "switched link) is loaded and takes over without dropping a request. 0: only on SIGHUP",
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA if ONNX Runtime has it, else the CPU"
    )
    intra_op_threads: int = Field(
        default=1, ge=1, le=256, description="Threads of one forward pass; scale by replicas first"
    )
    max_batch: int = Field(default=32, ge=1, le=1024, description="Most texts in one forward pass")
    latency_target_ms: float = Field(
        default=15.0,
        gt=0,
        le=10_000,
        description="Batches are sized to take at most this, ms; the queue service stops waiting "
        "after 20",
    )
    max_waiting: int = Field(
        default=4096, ge=1, le=1_000_000, description="Waiting texts above which requests get 503"
    )
    max_body_bytes: int = Field(
        default=8_388_608, ge=1024, le=1_073_741_824, description="413 above this, bytes"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
