"""`python -m lengthwise_worker`: one worker, configured by the environment (see settings.py).

Exit codes: 0 after SIGTERM or SIGINT, 1 after an error, 2 for settings that cannot work.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvloop
from pydantic import ValidationError

from lengthwise_contract.logs import set_up
from lengthwise_store.errors import StoreUnavailable, StoreUnfit
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore
from lengthwise_worker.engines import open_engine
from lengthwise_worker.errors import BadSettings
from lengthwise_worker.metrics import Metrics, MetricsServer
from lengthwise_worker.settings import Settings
from lengthwise_worker.worker import Worker

log = logging.getLogger("lengthwise_worker")


async def _refuse_unfit(store: JobStore) -> None:
    """Check Redis before a job is claimed; a Redis that is down may still come up.

    Raises:
        BadSettings: The settings of Redis contradict the worker's.
    """
    try:
        await store.check()
    except StoreUnfit as exc:
        raise BadSettings(exc.message) from exc
    except StoreUnavailable as exc:
        log.warning("redis is unavailable at the start", extra={"problem": exc.message})
    finally:
        await store.aclose()


async def _serve(settings: Settings) -> None:
    times = StoreSettings(
        lease_ms=settings.lease_ms,
        beat_ms=settings.beat_ms,
        tick_ms=settings.tick_ms,
        durability=settings.durability,
        durability_replicas=settings.durability_replicas,
        durability_timeout_ms=settings.durability_timeout_ms,
    )

    metrics = Metrics()

    def open_store() -> JobStore:
        return JobStore(settings.redis_address(), times, on_unconfirmed=metrics.unconfirmed.inc)

    await _refuse_unfit(open_store())
    worker = Worker(settings, open_engine(settings), open_store, metrics)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    server = None
    if settings.ended_file is not None:  # an earlier worker in the same pod may have left it
        settings.ended_file.unlink(missing_ok=True)
    try:
        if settings.metrics_port:
            try:
                server = MetricsServer(metrics, settings.metrics_host, settings.metrics_port)
            except OSError as exc:
                raise BadSettings(
                    f"LENGTHWISE_WORKER_METRICS_PORT {settings.metrics_port} cannot be used: {exc}"
                ) from exc
        log.info(
            "worker starts",
            extra={
                "worker_id": settings.worker_id,
                "queue": settings.queue,
                "engine": settings.engine,
                "slots": settings.slots,
                "batching": settings.batching.value,
            },
        )
        await worker.run()
    finally:
        if settings.ended_file is not None:
            settings.ended_file.touch()
        if server is not None:
            server.close()


def _bad_settings(wrong: ValidationError) -> str:
    """Write one line for each variable that is missing or wrong, without its value."""
    lines = []
    for error in wrong.errors(include_url=False, include_input=False, include_context=False):
        name = "_".join(str(part) for part in error["loc"]).upper() or "*"
        message = error["msg"].removeprefix("Value error, ")
        lines.append(f"lengthwise_worker: LENGTHWISE_WORKER_{name}: {message}\n")
    return "".join(lines)


def main() -> int:
    """Run the worker, and return the exit code."""
    try:
        settings = Settings.model_validate({})
    except ValidationError as exc:
        sys.stderr.write(_bad_settings(exc))
        return 2
    set_up(settings.log_level)
    try:
        uvloop.run(_serve(settings))
    except BadSettings as exc:
        log.error("bad settings", extra={"problem": str(exc)})
        return 2
    except Exception:
        log.exception("worker failed", extra={"worker_id": settings.worker_id})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
