"""The engines a worker can drive, and the choice among them by the settings."""

from __future__ import annotations

from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.engines.base import Engine
from lengthwise_worker.engines.llama_cpp import LlamaCppEngine
from lengthwise_worker.engines.openai_http import OpenAIEngine
from lengthwise_worker.engines.transformers.engine import TransformersEngine
from lengthwise_worker.engines.transformers.plan import Plan
from lengthwise_worker.engines.vllm import VllmEngine
from lengthwise_worker.errors import BadSettings
from lengthwise_worker.settings import Settings


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings name; nothing is started or sent yet.

    Raises:
        BadSettings: It cannot be had with these settings.
    """
    _refuse_unfit(settings)
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
    if settings.engine == "transformers":
        return TransformersEngine(
            model_path=settings.model_path,
            alias=settings.queue,
            plan=Plan(
                mode=settings.batching,
                largest=1 if settings.batching is BatchingMode.NONE else settings.slots,
                memory_tokens=settings.batch_tokens,
                quantile=settings.sequence_quantile,
                wait_s=settings.static_wait_ms / 1000,
            ),
            threads=settings.threads,
        )
    if settings.engine == "simulated" and settings.engine_url is None:
        # Imported here: it needs FastAPI, which a worker beside a real engine does not.
        try:
            from lengthwise_worker.engines.simulated.embedded import EmbeddedSimulation
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


def _refuse_unfit(settings: Settings) -> None:
    """An engine batches continuously, or this worker makes its batches.

    Raises:
        BadSettings: The batching mode is not one of the engine's.
    """
    static = settings.engine == "transformers"
    if static and settings.batching is BatchingMode.CONTINUOUS:
        raise BadSettings(
            "The transformers engine makes static batches: set LENGTHWISE_WORKER_BATCHING to "
            "sequence, static or none."
        )
    if not static and settings.batching is BatchingMode.SEQUENCE:
        raise BadSettings(
            f"LENGTHWISE_WORKER_BATCHING=sequence is for LENGTHWISE_WORKER_ENGINE=transformers; "
            f"{settings.engine} makes its batches itself: use continuous."
        )
