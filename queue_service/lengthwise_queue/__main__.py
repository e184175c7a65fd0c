"""`python -m lengthwise_queue`: the queue service's process."""

from __future__ import annotations

import asyncio
import logging
import os
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

#: Options of TCP: the first probe of an idle connection after so many s, the next ones, how many.
_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 5}


class Server(uvicorn.Server):
    """A server that ends streams when it shuts down, so that their readers resume elsewhere."""

    metrics_port = 0  #: The second port to listen on; 0: none.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with keep-alive probes on every connection.

        A client that waits minutes for a plain answer sends and gets nothing. Load balancers and
        NATs forget such a connection, AWS's after 350 s, unless TCP probes it.
        """
        if sockets is None and self.metrics_port:
            sockets = [_listen(self.config.host, p) for p in (self.config.port, self.metrics_port)]
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                # uvloop's objects cannot set options. Accepted connections inherit them.
                with socket.socket(fileno=os.dup(listener.fileno())) as own:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    for name, value in _PROBES.items():
                        if hasattr(socket, name):
                            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

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


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        log.error("port cannot be used", extra={"port": port, "reason": exc.strerror})
        sys.exit(1)


def make_server(settings: Settings) -> Server:
    """Make the server of one app; it does not run yet."""
    server = Server(
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
    server.metrics_port = settings.metrics_port
    return server


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
