"""Connection pools that follow a primary: of a Sentinel service, or of one slot of a Cluster.

Every connection asks for the primary when it connects, and the pool asks again every 2 s, so that a
primary that was replaced but still answers is left within seconds. Built on redis-py's own pool for
Sentinel; for a Cluster, `SlotOwners` takes the Sentinels' place. All keys of a queue share a slot,
so on such a pool pipelines, transactions, blocking reads, pub/sub and WAIT work as they do on one
server (docs/decisions/0032-redis-cluster.md). Called by connections.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - the client's own, not the built-in
    RedisError,
    TimeoutError,  # noqa: A004 - likewise
)

from lengthwise_store.redis.uvloop_close import UvloopCloseMixin

log = logging.getLogger(__name__)

#: How often a pool in use asks for its primary again, s.
CHECK_EVERY_S = 2.0


class _FailoverConnection(UvloopCloseMixin, SentinelManagedConnection):
    """A connection that disconnects from a node which reports that the slot is elsewhere."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)
        except (AskError, ClusterDownError) as exc:  # MOVED is an AskError, too
            await self.disconnect()
            raise ConnectionError(f"not served here now: {exc}") from exc


class _FailoverTlsConnection(_FailoverConnection, SentinelManagedSSLConnection):
    """The same, over TLS."""


class FailoverPool(SentinelConnectionPool):
    """A pool of connections to `service`'s primary, which `manager.discover_master` names."""

    def __init__(self, service: str, manager: Any, *, tls: bool, **options: Any) -> None:
        kind = _FailoverTlsConnection if tls else _FailoverConnection
        super().__init__(  # type: ignore[no-untyped-call]
            service, manager, connection_class=kind, **options
        )
        self._checked_s = time.monotonic()
        self._check: asyncio.Task[None] | None = None

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Return a connected connection; the check of the primary runs beside it."""
        now_s = time.monotonic()
        if now_s - self._checked_s > CHECK_EVERY_S and (self._check is None or self._check.done()):
            self._checked_s = now_s
            self._check = asyncio.create_task(self._check_primary())
        return await super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]

    async def release(self, connection: Any) -> None:
        """Take a connection back; one to a former primary is closed."""
        if (connection.host, connection.port) != self.master_address:
            await connection.disconnect()
        await super().release(connection)

    async def _check_primary(self) -> None:
        before = self.master_address
        try:
            # Closes the idle connections if the primary has changed.
            await self.get_master_address()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as exc:
            log.debug("no answer names the primary", extra={"error": str(exc)})
            return
        if before is not None and before != self.master_address:
            log.warning(
                "primary changed", extra={"of": self.service_name, "now": str(self.master_address)}
            )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._check is not None:
            self._check.cancel()
            await asyncio.wait({self._check})
        await super().aclose()


class RememberingSentinel(Sentinel):
    """Sentinels; while none of them answers, the last primary that they named.

    A healthy Redis must stay reachable when its Sentinels are not. If it is not healthy, the
    attempt fails like any other; if it was replaced, it replies READONLY or is left at the next
    check.
    """

    def __init__(self, hosts: tuple[tuple[str, int], ...], options: dict[str, Any]) -> None:
        super().__init__(hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._last: tuple[str, int] | None = None
        self._named_by: Any = None  #: The Sentinel that named it; it is asked first.

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the primary's address.

        This replaces redis-py's method, which moves the Sentinel that answered to the front of its
        list while other tasks iterate over it: two tasks that asked at once in a failover lost a
        Sentinel, and never closed its connection (redis-py 8.1).

        Raises:
            MasterNotFoundError: No Sentinel has named one so far.
        """
        problems: list[str] = []
        for sentinel in sorted(self.sentinels, key=lambda one: one is not self._named_by):
            try:
                masters: Any = await sentinel.sentinel_masters()
            except (ConnectionError, TimeoutError) as exc:
                problems.append(repr(exc))
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self._named_by, self._last = sentinel, (state["ip"], state["port"])
                return self._last
        if self._last is None:
            raise MasterNotFoundError(
                f"no Sentinel has a primary {service_name!r}: {', '.join(problems)}"
            )
        return self._last


class SlotOwners:
    """Finds the node that serves a slot of a Cluster, by asking any of its nodes."""

    def __init__(
        self, nodes: tuple[tuple[str, int], ...], open_node: Callable[[str, int], Any]
    ) -> None:
        self._first_nodes = nodes
        self._open = open_node
        self._nodes: dict[tuple[str, int], Any] = {}
        self._last: tuple[str, int] | None = (
            None  #: The node that answered last; it is asked first.
        )

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the address of the primary that serves slot `service_name`.

        Raises:
            MasterNotFoundError: No node answers, or none serves that slot.
        """
        slot = int(service_name)
        problems: list[str] = []
        known = [self._last] if self._last is not None else []
        for node in dict.fromkeys((*known, *self._first_nodes, *self._nodes)):
            try:
                client = self._client(node)
                table = await client.execute_command("CLUSTER SLOTS")
            except (RedisError, OSError) as exc:
                problems.append(f"{node[0]}:{node[1]} {exc!r}")
                continue
            self._last = node
            owner = None
            for first, last, primary, *replicas in table:
                for host, port, *_ in (primary, *replicas):
                    self._client((_host(host, node), int(port)))
                if first <= slot <= last:
                    owner = (_host(primary[0], node), int(primary[1]))
            if owner is not None:
                return owner
            problems.append(f"{node[0]}:{node[1]} names no owner")
        self._last = None
        raise MasterNotFoundError(f"no node serves slot {slot}: {', '.join(problems)}")

    def _client(self, node: tuple[str, int]) -> Any:
        client = self._nodes.get(node)
        if client is None:
            client = self._nodes[node] = self._open(*node)
        return client

    async def aclose(self) -> None:
        """Close every connection."""
        for client in self._nodes.values():
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()


def _host(announced: Any, queried: tuple[str, int]) -> str:
    """Return a node's host; empty or "?" means the host that was asked (CLUSTER SLOTS)."""
    name = announced.decode() if isinstance(announced, bytes) else announced
    return queried[0] if name in (None, "", "?") else str(name)
