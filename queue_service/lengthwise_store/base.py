"""The base of all parts of `JobStore`: connections, scripts, the check of the servers.

Redis 7+ or Valkey 8+. A queue's keys share the hash tag `{queue}`, so they are in one Cluster slot.
keys.py names the fixed keys. The scripts build a job's own keys from the declared prefix, because a
script that pops a job learns its id only then (docs/decisions/0003-keys-of-popped-jobs.md). Each
script is atomic, and Redis `TIME` is the clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis

from lengthwise_store.errors import NotConfirmed
from lengthwise_store.keys import QUEUES, QueueKeys
from lengthwise_store.lua_loader import load_all
from lengthwise_store.pipeline import ScriptCall, ScriptPipeline
from lengthwise_store.redis.connections import Connections
from lengthwise_store.redis.durability import confirmation
from lengthwise_store.redis.errors import is_outage, reaching_redis, read, unavailable
from lengthwise_store.redis.server_check import check_server
from lengthwise_store.redis.settings import RedisAddress
from lengthwise_store.settings import StoreSettings

log = logging.getLogger(__name__)


class StoreBase:
    """The connections and scripts of one store object."""

    def __init__(
        self, address: RedisAddress, settings: StoreSettings, now_ms: float | None
    ) -> None:
        """Open nothing yet; see `JobStore` for the arguments."""
        self.settings = s = settings
        self.now_ms = now_ms
        self._connections = Connections(
            address,
            connect_timeout_s=s.connect_timeout_s,
            command_timeout_s=s.command_timeout_s,
        )
        self._scripts = load_all()
        self._confirmation = confirmation(
            s.durability, replicas=s.durability_replicas, timeout_ms=s.durability_timeout_ms
        )
        self._pipelines: dict[tuple[str, bool], tuple[ScriptPipeline, redis.Redis]] = {}
        self._warned: set[str] = set()
        #: Of each primary at the last `check`: used memory and its limit (0: none), bytes.
        self.memory: Sequence[tuple[int, int]] = []

    @property
    def client(self) -> Any:
        """The pooled client, for what is stored beside jobs: files, batches, responses.

        In a Cluster a pipeline may hold keys of many slots, a transaction only those of one.
        """
        return self._connections.general

    async def confirm(self, *keys: str) -> None:
        """Wait until what `client` wrote beside these keys is as safe as `durability` promises.

        The events of jobs do this themselves.

        Raises:
            NotConfirmed: The confirmation did not arrive in time.
        """
        if self._confirmation is None:
            return
        for key in keys:
            async with self._connections.briefly(key) as client:
                pipe = client.pipeline(transaction=False)
                for command in self._confirmation.commands(key):
                    pipe.execute_command(*command)
                missing = self._confirmation.missing(await read(pipe.execute(raise_on_error=False)))
            if missing is not None:
                raise NotConfirmed(f"It was written, but {missing}. Try again.", retry_after_s=1)

    async def check(self) -> None:
        """Ask every primary how it is set up, and log each new warning.

        Raises:
            StoreUnfit: Its settings contradict a promise of ours; the message says what to set.
            StoreUnavailable: It does not answer.
        """
        s = self.settings
        with reaching_redis():
            primaries = await self._connections.primaries()
        try:
            checks = [check_server(one, s.durability, s.durability_replicas) for one in primaries]
            reports = await asyncio.gather(*checks)
        finally:
            await asyncio.gather(*(one.aclose() for one in primaries))
        self.memory = [(report.used_bytes, report.limit_bytes) for report in reports]
        warnings = {warning for report in reports for warning in report.warnings}
        for warning in sorted(warnings - self._warned):
            log.warning(
                "redis is not set up as it should be",
                extra={"problem": warning, "redis": str(self._connections.address)},
            )
        self._warned = warnings

    async def aclose(self) -> None:
        """Close every connection."""
        for pipeline, client in self._pipelines.values():
            await pipeline.aclose()
            await client.aclose()
        await self._connections.aclose()

    # ------------------------------------------------------------------ clients

    def _at(self, queue: str) -> Any:
        """Return the client for a queue's keys."""
        return self._connections.of(QueueKeys(queue).prefix)

    @property
    def _queue_settings(self) -> Any:
        """The client for the queues' settings."""
        return self._connections.of(QUEUES)

    # ------------------------------------------------------------------ scripts

    def _call(
        self, k: QueueKeys, script: str, keys: Sequence[str] = (), args: Sequence[Any] = ()
    ) -> ScriptCall:
        """Make a call of a script that begins with the keys and arguments of the queue."""
        s = self.settings
        shared = [k.prefix, self._now, s.retention_ms, s.dead_retention_ms]
        return script, [*k.script_keys, *keys], [*shared, *args]

    async def _run(self, *calls: ScriptCall) -> list[Any]:
        """Run scripts of one queue, in order, in one round trip, and return their replies."""
        return await self._send(self._pipeline(calls[0][1][0], confirmed=False), calls)

    async def _run_confirmed(self, *calls: ScriptCall) -> tuple[list[Any], str | None]:
        """Run scripts whose writes must be confirmed.

        Returns:
            The replies; and what is missing from the confirmation, in words, None: nothing.
        """
        if self._confirmation is None:
            return await self._run(*calls), None
        replies = await self._send(self._pipeline(calls[0][1][0], confirmed=True), calls)
        return replies[:-1], replies[-1]

    async def _send(self, pipeline: ScriptPipeline, calls: Sequence[ScriptCall]) -> list[Any]:
        with reaching_redis():
            replies = await pipeline.run(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise unavailable(reply) if is_outage(reply) else reply
        return replies

    def _pipeline(self, key: str, *, confirmed: bool) -> ScriptPipeline:
        """Return the pipeline of a key's slot.

        Confirmed writes have one of their own, so that nothing else waits for replicas.
        """
        name = self._connections.slot(key), confirmed
        if name not in self._pipelines:
            # No timeout here: the pipeline has one for a whole round trip, not one for each reply.
            client = self._connections.own(key, None)
            pipeline = ScriptPipeline(
                client,
                self._scripts,
                timeout_s=self.settings.command_timeout_s,
                confirmation=self._confirmation if confirmed else None,
            )
            self._pipelines[name] = pipeline, client
        return self._pipelines[name][0]

    @property
    def _now(self) -> str:
        return "" if self.now_ms is None else repr(self.now_ms)
