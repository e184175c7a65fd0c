"""From an `Access` to clients of redis-py. The only module that makes any.

One `Connections` per store: `of(key)` is the shared client for what lies beside that key,
`own(key, ...)` one for a blocking command. On one server and behind Sentinels all keys share
a client; in a Cluster each slot has its own, which follows the slot's primary (following.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.crc import key_slot
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError  # noqa: A004 - the client's own, not the built-in

from lengthwise_store.redis import uvloop_close
from lengthwise_store.redis.access import Access, Kind, Secret, TlsVerify
from lengthwise_store.redis.failover_pool import FollowingPool, RememberingSentinel, SlotOwners

#: A pub/sub connection that is silent so long is asked whether it lives, s. On a host that lost
#: its power nothing else would tell: it sends nothing and is sent nothing.
_HEALTH_CHECK_S = 10


class _FromSecret(CredentialProvider):
    """Gives every new connection the password as it is now."""

    def __init__(self, username: str | None, secret: Secret) -> None:
        self._username, self._secret = username, secret

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._secret.read() or ""
        return (password,) if self._username is None else (self._username, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        # A file of a few bytes on a memory file system: not worth a thread.
        return self.get_credentials()


class Connections:
    """The clients of one store. They connect on first use."""

    def __init__(
        self, access: Access, *, connect_timeout_s: float, command_timeout_s: float
    ) -> None:
        """See the module.

        Args:
            access: Where, and as whom.
            connect_timeout_s: Longest wait for a connection, s.
            command_timeout_s: Longest wait for the reply to a command that does not block, s.
        """
        self.access = access
        self._connect_timeout_s, self._command_timeout_s = connect_timeout_s, command_timeout_s
        self._shared: dict[str, redis.Redis] = {}
        self._sentinel: RememberingSentinel | None = None
        self._owners: SlotOwners | None = None
        if access.kind is Kind.SENTINEL:
            to_sentinel = self._options(
                command_timeout_s, access.sentinel_username, access.sentinel_password
            )
            to_sentinel |= {"ssl": access.tls is not None}
            self._sentinel = RememberingSentinel(access.hosts, to_sentinel)
        elif access.kind is Kind.CLUSTER:
            self._owners = SlotOwners(access.hosts, self._node)
        self.general = self._general()
        """For keys in any slot, in a Cluster; else the same as `of`."""

    def of(self, key: str) -> redis.Redis:
        """The shared client for commands, pipelines and transactions on keys in `key`'s slot."""
        slot = self.slot(key)
        client = self._shared.get(slot)
        if client is None:
            client = self._shared[slot] = self._client(slot, self._command_timeout_s)
        return client

    def own(self, key: str, timeout_s: float | None) -> redis.Redis:
        """A client that nobody else uses, for commands that block; the caller closes it.

        Args:
            key: Which it will read.
            timeout_s: Longest wait for a reply, s: more than it blocks. None: the caller's affair.
        """
        return self._client(self.slot(key), timeout_s)

    @asynccontextmanager
    async def briefly(self, key: str) -> AsyncIterator[redis.Redis]:
        """A client for one errand beside `key`, which may lie in any slot of a Cluster.

        There it is closed again: each file has a slot of its own, and there are 16,384 of them.
        """
        if self._owners is None:
            yield self.of(key)
            return
        client = self.own(key, self._command_timeout_s)
        try:
            yield client
        finally:
            await client.aclose()

    async def primaries(self) -> list[redis.Redis]:
        """A client of every primary, to be asked how it is set up; the caller closes them.

        Raises:
            RedisError: Nobody says which they are.
        """
        if self._owners is None:
            return [self._client(self.slot(""), self._command_timeout_s)]
        cluster = self.general
        assert isinstance(cluster, redis.RedisCluster)  # noqa: S101 - for the type checker
        await cluster.initialize()
        return [self._node(node.host, int(node.port)) for node in cluster.get_primaries()]

    async def aclose(self) -> None:
        """Close every shared connection."""
        await asyncio.gather(*(client.aclose() for client in self._shared.values()))
        if isinstance(self.general, redis.RedisCluster):
            await self.general.aclose()
            # That does nothing when its last command failed: it then counts as not yet connected.
            for nodes in ("nodes_cache", "startup_nodes"):
                await self.general.nodes_manager.aclose(nodes)
        if self._sentinel is not None:
            await self._sentinel.aclose()
        if self._owners is not None:
            await self._owners.aclose()

    # ------------------------------------------------------------------ making them

    def slot(self, key: str) -> str:
        """What `key`'s client is kept under: its slot in a Cluster, else the same for all."""
        return str(key_slot(key.encode())) if self._owners is not None else self.access.service

    def _client(self, slot: str, timeout_s: float | None) -> redis.Redis:
        access = self.access
        options = self._options(timeout_s, access.username, access.password) | {"db": access.db}
        manager = self._owners or self._sentinel
        pool: redis.ConnectionPool
        if manager is not None:
            pool = FollowingPool(slot, manager, tls=access.tls is not None, **options)
        elif access.socket is not None:
            pool = redis.ConnectionPool(
                connection_class=uvloop_close.Unix,
                path=access.socket,
                **{k: v for k, v in options.items() if k != "socket_keepalive"},
            )
        else:
            [(host, port)] = access.hosts
            kind = uvloop_close.Plain if access.tls is None else uvloop_close.Tls
            pool = redis.ConnectionPool(connection_class=kind, host=host, port=port, **options)
        return redis.Redis.from_pool(pool)

    def _node(self, host: str, port: int) -> redis.Redis:
        access = self.access
        options = self._options(self._command_timeout_s, access.username, access.password)
        return redis.Redis(host=host, port=port, ssl=access.tls is not None, **options)

    def _general(self) -> Any:
        if self._owners is None:
            return self.of("")
        access = self.access
        options = self._options(self._command_timeout_s, access.username, access.password)
        nodes = [ClusterNode(host, port) for host, port in access.hosts]
        return redis.RedisCluster(startup_nodes=nodes, ssl=access.tls is not None, **options)

    def _options(
        self, timeout_s: float | None, username: str | None, secret: Secret
    ) -> dict[str, Any]:
        # A broken pooled connection is replaced at once, a refused one is not insisted on: a
        # caller should hear "503" within a blink. Every script may be repeated (claim: a lease
        # whose reply was lost runs out and the job goes back to the line). But one that timed out
        # is not: a server that hangs is asked once, not three times and again for each handshake
        # (with those, a request took 45 s to be told so).
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_connect_timeout": self._connect_timeout_s,
            "socket_timeout": timeout_s,
            "socket_keepalive": True,
            "retry": Retry(ExponentialBackoff(cap=0.05, base=0.01), 2, (ConnectionError,)),
            "health_check_interval": _HEALTH_CHECK_S,
        }
        if username is not None or secret != Secret():
            options["credential_provider"] = _FromSecret(username, secret)
        tls = self.access.tls
        if tls is not None:
            options |= {
                "ssl_ca_certs": str(tls.ca_file) if tls.ca_file else None,
                "ssl_certfile": str(tls.cert_file) if tls.cert_file else None,
                "ssl_keyfile": str(tls.key_file) if tls.key_file else None,
                "ssl_cert_reqs": "none" if tls.verify is TlsVerify.NONE else "required",
                "ssl_check_hostname": tls.verify is TlsVerify.FULL,
            }
        return options
