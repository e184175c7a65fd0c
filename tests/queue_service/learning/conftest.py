"""A real predictor with the bundled model."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import uvicorn
from tests.waiting import eventually

from lengthwise_predictor.app import create_app
from lengthwise_predictor.settings import PredictorSettings


@pytest.fixture(scope="session")
def bundled_predictor() -> Iterator[str]:
    """The URL of a predictor that serves the bundled model."""
    config = uvicorn.Config(create_app(PredictorSettings()), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started, "the predictor starts")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
