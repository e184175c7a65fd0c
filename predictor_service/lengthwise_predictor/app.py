"""The predictor's HTTP service, made from its settings.

The queue service calls it before it queues a request. It waits at most 20 ms for a prediction and
continues without one after that.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from lengthwise_predictor.error_responses import http_error
from lengthwise_predictor.errors import ModelUnusable
from lengthwise_predictor.metrics import Metrics
from lengthwise_predictor.model_registry import ModelRegistry
from lengthwise_predictor.routes import add_routes
from lengthwise_predictor.settings import PredictorSettings

log = logging.getLogger(__name__)


def create_app(settings: PredictorSettings | None = None) -> FastAPI:
    """Build the service; it loads its models at start-up, and `/readyz` reports when it is ready.

    Args:
        settings: None reads the environment.
    """
    settings = settings or PredictorSettings()
    metrics = Metrics()

    models = ModelRegistry(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            with _on_hangup(models.reload_soon):
                try:
                    await models.start()
                except ModelUnusable as exc:
                    app.state.unusable = exc.message
                    raise
                yield
        finally:
            await models.stop()

    app = FastAPI(title="Lengthwise predictor", lifespan=lifespan)
    app.state.settings, app.state.metrics, app.state.models = settings, metrics, models
    app.state.unusable = ""  # why the start failed
    app.add_exception_handler(HTTPException, http_error)
    add_routes(app)
    return app


@contextmanager
def _on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGHUP while the block runs.

    Does nothing where the event loop cannot handle signals, such as in a test's thread.
    """
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, act)
    except (ValueError, RuntimeError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
