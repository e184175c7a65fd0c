"""The simulated engine inside the worker's process, on a thread of its own, called over HTTP.

Called by engine.py and by tests. It needs FastAPI.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn
from fastapi import FastAPI

from lengthwise_worker.engines.simulated.batch import SimulatedBatch
from lengthwise_worker.engines.simulated.server import create_app
from lengthwise_worker.engines.vllm import VllmEngine
from lengthwise_worker.errors import BadSettings

#: Context of the simulated model, tokens.
_MAX_MODEL_LEN = 8192


class AppServer:
    """Serves an application on a thread, from `start` to `stop`."""

    def __init__(self, app: FastAPI, *, port: int = 0) -> None:
        """Bind the port (0: any free one). Requests are served after `start`.

        Raises:
            OSError: The port is taken.
        """
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def start(self) -> None:
        """Serve, on a thread. The socket is open, so requests may be sent at once."""
        self._thread.start()

    def stop(self) -> None:
        """Cut the open connections and stop."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


class SimulatedServer(AppServer):
    """A simulated engine that listens from `start` to `stop`."""

    def __init__(self, batch: SimulatedBatch, *, model: str, port: int = 0) -> None:
        """Bind the port, as `AppServer` does.

        Raises:
            OSError: The port is taken.
        """
        self.batch = batch
        app = create_app(model=model, max_model_len=_MAX_MODEL_LEN, batch=batch)
        super().__init__(app, port=port)


class EmbeddedSimulation(VllmEngine):
    """A vLLM engine that starts and stops its own simulated server. See `Engine`."""

    kind = "simulated"

    def __init__(
        self, *, model: str, slots: int, tokens_per_s: float, port: int, timeout_s: float
    ) -> None:
        """Store the settings. Nothing listens yet."""
        super().__init__(None, timeout_s=timeout_s, connections=slots, model=model)
        self._batch = SimulatedBatch(slots=slots, tokens_per_s=tokens_per_s, by_priority=True)
        self._model, self._port = model, port
        self._server: SimulatedServer | None = None

    async def start(self) -> None:
        """Start the server."""
        try:
            self._server = SimulatedServer(self._batch, model=self._model, port=self._port)
        except OSError as exc:
            raise BadSettings(
                f"LENGTHWISE_WORKER_ENGINE_PORT {self._port} cannot be used: {exc}"
            ) from exc
        self._server.start()
        self.set_url(self._server.url)

    async def aclose(self) -> None:
        """Close the connections, then stop the server."""
        await super().aclose()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
