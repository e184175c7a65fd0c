"""`python -m lengthwise_queue`: the queue service's process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from lengthwise_contract import logs
from lengthwise_queue.app import create_app, store_settings
from lengthwise_queue.settings import Settings
from lengthwise_store.errors import StoreUnavailable, StoreUnfit
from lengthwise_store.store import JobStore

log = logging.getLogger("lengthwise_queue")


class Server(uvicorn.Server):
    """A server that says so when it is about to stop: readers of job streams go elsewhere."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, and give open answers their time."""
        app = self.config.app
        if isinstance(app, FastAPI):
            app.state.service.draining.set()
        await super().shutdown(sockets)


def make_server(settings: Settings) -> Server:
    """A server for one app, not yet running."""
    return Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            log_config=None,  # ours is set up already
            access_log=False,  # each route logs its outcome, with the job's id
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )
    )


async def _refuse_unfit(settings: Settings) -> None:
    """Look at Redis before anything is promised; one that is away may yet come.

    Raises:
        StoreUnfit: Its settings contradict ours.
    """
    store = JobStore(settings.redis_address(), store_settings(settings))
    try:
        await store.check()
    except StoreUnfit:
        raise
    except StoreUnavailable as exc:
        log.warning("redis is away at the start", extra={"problem": exc.message})
    finally:
        await store.aclose()


def _bad_settings(wrong: ValidationError) -> str:
    """One line for each variable that is missing or wrong; what it holds is not repeated."""
    lines = []
    for error in wrong.errors(include_url=False, include_input=False, include_context=False):
        name = "_".join(str(part) for part in error["loc"]).upper() or "*"
        said = error["msg"].removeprefix("Value error, ")
        lines.append(f"lengthwise_queue: LENGTHWISE_QUEUE_{name}: {said}\n")
    return "".join(lines)


def main() -> None:
    """Serve until SIGTERM or SIGINT, and exit with 0; 2: Redis or a setting must be otherwise."""
    # uvicorn raises the signal again when it is done; by default that would look like a crash.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    try:
        settings = Settings()
    except ValidationError as exc:
        sys.stderr.write(_bad_settings(exc))
        sys.exit(2)
    logs.set_up(settings.log_level)
    log.info("queue service starts", extra={"host": settings.host, "port": settings.port})
    try:
        asyncio.run(_refuse_unfit(settings))
    except StoreUnfit as exc:
        log.error("redis is not fit", extra={"problem": exc.message})
        sys.exit(2)
    try:
        server = make_server(settings)
    except ValueError as exc:  # the tenants file, or the API key
        log.error("queue service cannot start", extra={"reason": str(exc)})
        sys.exit(1)
    server.run()


if __name__ == "__main__":
    main()
