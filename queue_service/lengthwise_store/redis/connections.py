"""Makes clients of redis-py from a `RedisAddress`. No other module makes any.

One `Connections` per store: `of(key)` is the shared client for the keys beside that key,
`own(key, ...)` is a client for blocking commands. On one server and behind Sentinels all keys share
a client; in a Cluster each slot has its own, which follows the slot's primary (failover_pool.py).
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
from lengthwise_store.redis.failover_pool import FailoverPool, RememberingSentinel, SlotOwners
from lengthwise_store.redis.settings import Deployment, RedisAddress, Secret, TlsVerify

#: A pub/sub connection that is silent for this long is pinged, s. Nothing else would reveal that
#: its host lost power: neither side sends anything.
_HEALTH_CHECK_S = 10


class _FromSecret(CredentialProvider):
    """Gives every new connection the current password."""

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
        self, address: RedisAddress, *, connect_timeout_s: float, command_timeout_s: float
    ) -> None:
        """Connect on first use.

        Args:
            address: Where Redis is, with the user to log in as.
            connect_timeout_s: Longest wait for a connection, s.
            command_timeout_s: Longest wait for the reply to a command that does not block, s.
        """
        self.address = address
        self._connect_timeout_s, self._command_timeout_s = connect_timeout_s, command_timeout_s
        self._shared: dict[str, redis.Redis] = {}
        self._sentinel: RememberingSentinel | None = None
        self._owners: SlotOwners | None = None
        if address.deployment is Deployment.SENTINEL:
            to_sentinel = self._options(
                command_timeout_s, address.sentinel_username, address.sentinel_password
            )
            to_sentinel |= {"ssl": address.tls is not None}
            self._sentinel = RememberingSentinel(address.hosts, to_sentinel)
        elif address.deployment is Deployment.CLUSTER:
            self._owners = SlotOwners(address.hosts, self._node)
        self.general = self._general()
        """In a Cluster, a client for keys of any slot; otherwise the same client as `of`."""

    def of(self, key: str) -> redis.Redis:
        """Return the shared client for commands and transactions on keys in `key`'s slot."""
        slot = self.slot(key)
        client = self._shared.get(slot)
        if client is None:
            client = self._shared[slot] = self._client(slot, self._command_timeout_s)
        return client

    def own(self, key: str, timeout_s: float | None) -> redis.Redis:
        """Make a client for the caller alone, for commands that block; the caller closes it.

        Args:
            key: The key that it will read.
            timeout_s: Longest wait for a reply, s: more than it blocks. None: the caller has its
                own timeout.
        """
        return self._client(self.slot(key), timeout_s)

    @asynccontextmanager
    async def briefly(self, key: str) -> AsyncIterator[redis.Redis]:
        """Lend a client for a few commands beside `key`, which may be in any slot of a Cluster.

        In a Cluster it is closed afterwards: each file has a slot of its own, of 16,384.
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
        """Make a client of every primary, to check its settings; the caller closes them.

        Raises:
            RedisError: No node or Sentinel names the primaries.
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
            # aclose() does nothing after a failed command: the client then counts as not connected.
            for nodes in ("nodes_cache", "startup_nodes"):
                await self.general.nodes_manager.aclose(nodes)
        if self._sentinel is not None:
            await self._sentinel.aclose()
        if self._owners is not None:
            await self._owners.aclose()

    # ------------------------------------------------------------------ making clients

    def slot(self, key: str) -> str:
        """Return the name of `key`'s client: its slot in a Cluster, otherwise one name for all."""
        return str(key_slot(key.encode())) if self._owners is not None else self.address.service

    def _client(self, slot: str, timeout_s: float | None) -> redis.Redis:
        address = self.address
        options = self._options(timeout_s, address.username, address.password) | {"db": address.db}
        manager = self._owners or self._sentinel
        pool: redis.ConnectionPool
        if manager is not None:
            pool = FailoverPool(slot, manager, tls=address.tls is not None, **options)
        elif address.socket is not None:
            pool = redis.ConnectionPool(
                connection_class=uvloop_close.UnixConnection,
                path=address.socket,
                **{k: v for k, v in options.items() if k != "socket_keepalive"},
            )
        else:
            [(host, port)] = address.hosts
            plain = address.tls is None
            kind = uvloop_close.PlainConnection if plain else uvloop_close.TlsConnection
            pool = redis.ConnectionPool(connection_class=kind, host=host, port=port, **options)
        return redis.Redis.from_pool(pool)

    def _node(self, host: str, port: int) -> redis.Redis:
        address = self.address
        options = self._options(self._command_timeout_s, address.username, address.password)
        return redis.Redis(host=host, port=port, ssl=address.tls is not None, **options)

    def _general(self) -> Any:
        if self._owners is None:
            return self.of("")
        address = self.address
        options = self._options(self._command_timeout_s, address.username, address.password)
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return redis.RedisCluster(startup_nodes=nodes, ssl=address.tls is not None, **options)

    def _options(
        self, timeout_s: float | None, username: str | None, secret: Secret
    ) -> dict[str, Any]:
        # A broken pooled connection is replaced at once; a refused one is not retried for long, so
        # that a caller gets its 503 within moments. Every script may be repeated (claim: if its
        # reply was lost, the lease runs out and the job returns to the queue). A command that timed
        # out is not repeated: a server that hangs is asked once, not three times and again for each
        # handshake, with which a request took 45 s to fail.
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
        tls = self.address.tls
        if tls is not None:
            options |= {
                "ssl_ca_certs": str(tls.ca_file) if tls.ca_file else None,
                "ssl_certfile": str(tls.cert_file) if tls.cert_file else None,
                "ssl_keyfile": str(tls.key_file) if tls.key_file else None,
                "ssl_cert_reqs": "none" if tls.verify is TlsVerify.NONE else "required",
                "ssl_check_hostname": tls.verify is TlsVerify.FULL,
            }
        return options
