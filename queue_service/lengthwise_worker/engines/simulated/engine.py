"""Build the worker's engine for LENGTHWISE_WORKER_ENGINE=simulated.

With an ENGINE_URL it is a client of a simulated engine elsewhere. Without one it is embedded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lengthwise_worker.engines.openai_http import call_options
from lengthwise_worker.engines.vllm import VllmEngine
from lengthwise_worker.errors import BadSettings

if TYPE_CHECKING:
    from lengthwise_worker.settings import Settings


def from_settings(settings: Settings) -> VllmEngine:
    """Build the engine from a worker's settings.

    Raises:
        BadSettings: It is to be embedded, and FastAPI is not installed.
    """
    if settings.engine_url is not None:
        return VllmEngine(settings.engine_url, **call_options(settings))
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
