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

#: Open answers are ended this long before the end of the grace, s, so that their jobs can be
#: withdrawn.
GOODBYE_S = 2.0


class Server(uvicorn.Server):
    """A server that ends streams when it shuts down, so that their readers resume elsewhere."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, and let open answers finish within the grace."""
        app = self.config.app
        grace_s = float(self.config.timeout_graceful_shutdown or 0)
        if isinstance(app, FastAPI):
            service = app.state.service
            service.draining.set()
            # uvicorn cancels what is still open at the end of the grace. Before that, clients are
            # told what becomes of their jobs.
            left_s = grace_s - min(GOODBYE_S, grace_s / 2)
            asyncio.get_running_loop().call_later(left_s, service.grace_over.set)
        await super().shutdown(sockets)


def make_server(settings: Settings) -> Server:
    """Make the server of one app; it does not run yet."""
    return Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            log_config=None,  # logging is set up already
            access_log=False,  # each route logs its outcome, with the job's id
            server_header=False,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )
    )


async def _refuse_unfit(settings: Settings) -> None:
    """Check the settings of Redis before the service starts. Redis may also come up later.

    Raises:
        StoreUnfit: Its settings do not fit those of the service.
    """
    store = JobStore(settings.redis_address(), store_settings(settings))
    try:
        await store.check()
    except StoreUnfit:
        raise
    except StoreUnavailable as exc:
        log.warning("redis does not answer at startup", extra={"problem": exc.message})
    finally:
        await store.aclose()


def _describe(exc: ValidationError) -> str:
    """Write one line for each variable that is missing or wrong, without its value."""
    lines = []
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        name = "_".join(str(part) for part in error["loc"]).upper() or "*"
        message = error["msg"].removeprefix("Value error, ")
        lines.append(f"lengthwise_queue: LENGTHWISE_QUEUE_{name}: {message}\n")
    return "".join(lines)


def main() -> None:
    """Serve until SIGTERM or SIGINT, then exit with 0. Exit with 2 on a wrong setting or Redis."""
    # uvicorn raises the signal again when it has stopped. By default that looks like a crash.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    try:
        settings = Settings()
    except ValidationError as exc:
        sys.stderr.write(_describe(exc))
        sys.exit(2)
    logs.set_up(settings.log_level)
    log.info("queue service starts", extra={"host": settings.host, "port": settings.port})
    try:
        asyncio.run(_refuse_unfit(settings))
    except StoreUnfit as exc:
        log.error("redis is configured wrongly", extra={"problem": exc.message})
        sys.exit(2)
    try:
        server = make_server(settings)
    except ValueError as exc:  # the tenants file or the API key is not valid
        log.error("queue service cannot start", extra={"reason": str(exc)})
        sys.exit(1)
    server.run()


if __name__ == "__main__":
    main()
