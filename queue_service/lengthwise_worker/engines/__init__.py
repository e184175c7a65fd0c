"""The engines a worker can drive, and the choice among them by the settings."""

from __future__ import annotations

from lengthwise_worker.engines.base import Engine
from lengthwise_worker.engines.llama_cpp import LlamaCppEngine
from lengthwise_worker.engines.openai_http import OpenAIEngine
from lengthwise_worker.engines.vllm import VllmEngine
from lengthwise_worker.errors import BadSettings
from lengthwise_worker.settings import Settings


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings name; nothing is started or sent yet.

    Raises:
        BadSettings: It cannot be had with these settings.
    """
    key = settings.engine_api_key.get_secret_value() if settings.engine_api_key else None
    if settings.engine == "llama.cpp":
        return LlamaCppEngine(
            model_path=settings.model_path,
            alias=settings.queue,
            slots=settings.slots,
            context_tokens=settings.context_tokens,
            threads=settings.threads,
            port=settings.engine_port,
            timeout_s=settings.engine_timeout_s,
            api_key=key,
        )
    if settings.engine == "simulated" and settings.engine_url is None:
        # Imported here: it needs FastAPI, which a worker beside a real engine does not.
        try:
            from lengthwise_worker.engines.simulated_embedded import EmbeddedSimulation
        except ImportError as exc:
            raise BadSettings(
                "The embedded simulation needs FastAPI: pip install 'lengthwise[local]', or point "
                "LENGTHWISE_WORKER_ENGINE_URL at one."
            ) from exc

        return EmbeddedSimulation(
            model=settings.queue,
            slots=settings.slots,
            tokens_per_s=settings.simulated_tokens_per_s,
            port=settings.engine_port,
            timeout_s=settings.engine_timeout_s,
        )
    kinds = {"openai": OpenAIEngine, "vllm": VllmEngine, "simulated": VllmEngine}
    return kinds[settings.engine](
        settings.engine_url,
        api_key=key,
        timeout_s=settings.engine_timeout_s,
        connections=settings.slots,
    )
