"""Connection pools that follow a primary: of a Sentinel service, or of one slot of a Cluster.

Every connection asks where the primary is when it connects, and again now and then, so that a
primary that was voted out but still answers us is left within seconds. Built on the client's own
pool for Sentinel; for a Cluster, `SlotOwners` answers in the Sentinels' place. All keys of a queue
share a slot, so on such a pool pipelines, transactions, blocking reads, pub/sub and WAIT work as
they do on one server (docs/decisions/0032-redis-cluster.md). Called by connection.py.
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

#: How often a pool in use asks again where its primary is, s.
LOOK_EVERY_S = 2.0


class _Following(UvloopCloseMixin, SentinelManagedConnection):
    """A connection that lets go of a node which says that the slot is elsewhere."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)
        except (AskError, ClusterDownError) as exc:  # MOVED is an AskError, too
            await self.disconnect()
            raise ConnectionError(f"not served here now: {exc}") from exc


class _FollowingTls(_Following, SentinelManagedSSLConnection):
    """The same, over TLS."""


class FollowingPool(SentinelConnectionPool):
    """A pool of connections to `service`'s primary, which `manager.discover_master` names."""

    def __init__(self, service: str, manager: Any, *, tls: bool, **options: Any) -> None:
        kind = _FollowingTls if tls else _Following
        super().__init__(  # type: ignore[no-untyped-call]
            service, manager, connection_class=kind, **options
        )
        self._looked_s = time.monotonic()
        self._look: asyncio.Task[None] | None = None

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """A connected connection; its caller never waits for a look at where the primary is."""
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_EVERY_S and (self._look is None or self._look.done()):
            self._looked_s = now_s
            self._look = asyncio.create_task(self._look_again())
        return await super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]

    async def release(self, connection: Any) -> None:
        """Take a connection back; one to a former primary is closed."""
        if (connection.host, connection.port) != self.master_address:
            await connection.disconnect()
        await super().release(connection)

    async def _look_again(self) -> None:
        before = self.master_address
        try:
            # Closes what is idle if it has changed.
            await self.get_master_address()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as exc:
            log.debug("nobody says where the primary is", extra={"error": str(exc)})
            return
        if before is not None and before != self.master_address:
            log.warning(
                "primary changed", extra={"of": self.service_name, "now": str(self.master_address)}
            )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait({self._look})
        await super().aclose()


class RememberingSentinel(Sentinel):
    """Sentinels; while none of them knows, the last primary that they named.

    A Redis that is well must not be unreachable because its Sentinels are. If it is not well, the
    attempt fails like any other; if it was voted out, it says READONLY or is left at the next look.
    """

    def __init__(self, hosts: tuple[tuple[str, int], ...], options: dict[str, Any]) -> None:
        super().__init__(hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._last: tuple[str, int] | None = None
        self._knew: Any = None  #: Who named it; it is asked first.

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The primary's address.

        Not the library's own: that one moves who knows to the front of its list while others go
        through it, so that two who asked at once in a failover lost a Sentinel, and never closed
        its connection (redis-py 8.1).

        Raises:
            MasterNotFoundError: No Sentinel ever named one.
        """
        problems: list[str] = []
        for sentinel in sorted(self.sentinels, key=lambda one: one is not self._knew):
            try:
                masters: Any = await sentinel.sentinel_masters()
            except (ConnectionError, TimeoutError) as exc:
                problems.append(repr(exc))
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self._knew, self._last = sentinel, (state["ip"], state["port"])
                return self._last
        if self._last is None:
            raise MasterNotFoundError(
                f"no Sentinel knows a primary {service_name!r}: {', '.join(problems)}"
            )
        return self._last


class SlotOwners:
    """Who serves which slot of a Cluster, asked of any of its nodes."""

    def __init__(
        self, nodes: tuple[tuple[str, int], ...], open_node: Callable[[str, int], Any]
    ) -> None:
        self._seeds = nodes
        self._open = open_node
        self._nodes: dict[tuple[str, int], Any] = {}
        self._last: tuple[str, int] | None = None  #: Who answered last; it is asked first.

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The address of the primary that serves slot `service_name`.

        Raises:
            MasterNotFoundError: No node answers, or none serves that slot.
        """
        slot = int(service_name)
        problems: list[str] = []
        known = [self._last] if self._last is not None else []
        for node in dict.fromkeys((*known, *self._seeds, *self._nodes)):
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
            problems.append(f"{node[0]}:{node[1]} knows of none")
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


def _host(announced: Any, asked: tuple[str, int]) -> str:
    """A node's host; an empty or unknown one means "where you asked me" (CLUSTER SLOTS)."""
    name = announced.decode() if isinstance(announced, bytes) else announced
    return asked[0] if name in (None, "", "?") else str(name)
