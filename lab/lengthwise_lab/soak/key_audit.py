"""Find the keys of a queue that nothing bounds. Called by run.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lengthwise_contract.states import JobState
from lengthwise_lab.soak.report import MemorySample
from lengthwise_store.keys import LEARNING_KEY, PUBLISHED, QUEUES, QueueKeys

#: Keys without a time to live, and what bounds each; docs/operate/faults.md repeats them.
BOUNDED = {
    "tenants": "tenants with waiting jobs",
    "vt": "tenants known to the queue",
    "accepted": "max_depth",
    "delayed": "max_depth",
    "deadlines": "unfinished jobs",
    "leases": "slots of all workers",
    "wake": "one marker",
    "meta": "counters",
    "fcfs": "max_depth",
    "scheduled": "tenants with delayed jobs",
    "lengths": "256 numbers",
    "views": "unfinished jobs",
    "evidence": "10,200 answers",
    "learned": "one fit",
    "ends": "some 100 entries, of the last ends",
    "workers": "workers heard of lately",
    "worker_info": "workers heard of lately",
    "ready": "max_depth",
    "finished": "10,000 ids a tenant, and the retention",
    "dead": "10,000 ids a tenant, and the retention",
}

#: Keys of all queues together.
_OF_ALL = (QUEUES, PUBLISHED, LEARNING_KEY)

#: Keys of a job. They have no time to live until the job ends.
_OF_A_JOB = ("job", "in", "out")

#: Keys whose time to live is longer than a soak.
_LONG_LIVED = ("idem", "rate", "nudge")

#: Keys that are examined with one pipeline.
_BATCH = 500


class KeyAudit:
    """Examines the keys of one queue on one server."""

    def __init__(self, client: Any, queue: str) -> None:
        """Store the arguments. `client`: of redis-py, asyncio, with decoded responses."""
        self._client, self._keys = client, QueueKeys(queue)

    async def sample(self, at_s: float) -> MemorySample:
        """Read the number of keys and the used memory."""
        info: Any = await self._client.info()
        used, known = int(info["used_memory"]), info.get("db0", {"keys": 0, "expires": 0})
        return MemorySample(
            at_s=at_s,
            keys=int(known["keys"]),
            used_bytes=used,
            immortal=int(known["keys"]) - int(known["expires"]),
        )

    async def strays(self) -> dict[str, str]:
        """Return the keys without a bound, and the reason of each."""
        found: dict[str, str] = {}
        batch: list[str] = []
        async for key in self._client.scan_iter(count=1000):
            batch.append(key)
            if len(batch) == _BATCH:
                found |= await self._strays_of(batch)
                batch = []
        return found | await self._strays_of(batch)

    async def _strays_of(self, keys: Iterable[str]) -> dict[str, str]:
        found, prefix = {}, self._keys.prefix
        names = list(keys)
        pipe = self._client.pipeline(transaction=False)
        for key in names:
            pipe.pttl(key)
        for key, ttl in zip(names, await pipe.execute(), strict=True):
            kind, _, job_id = key.removeprefix(prefix).partition(":")
            if ttl != -1 or key in _OF_ALL or (key.startswith(prefix) and kind in BOUNDED):
                continue  # it expires (-2: it has expired), or it is bounded
            if kind in _OF_A_JOB and await self._is_unfinished(job_id, key):
                continue
            found[key] = "it has no time to live, and belongs to no unfinished job"
        return found

    async def _is_unfinished(self, job_id: str, key: str) -> bool:
        state: Any = await self._client.hget(self._keys.job(job_id), "state")
        if state in (JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING):
            return True
        return bool(await self._client.pttl(key) != -1)  # it ended during the check

    async def unbounded(self) -> set[str]:
        """Return all keys that are not in `BOUNDED`, with or without a time to live."""
        return {
            key
            async for key in self._client.scan_iter(count=1000)
            if key not in (*_OF_ALL, self._keys.guard)
            and key.removeprefix(self._keys.prefix).partition(":")[0] not in BOUNDED
        }

    async def expire_long_lived(self) -> None:
        """Let the keys with a long time to live expire now.

        An idempotency key outlives its job by design, and a rate bucket lasts an hour. It is enough
        that they have a time to live.
        """
        async for key in self._client.scan_iter(count=1000):
            kind = key.removeprefix(self._keys.prefix).partition(":")[0]
            if kind in _LONG_LIVED and await self._client.pttl(key) > 0:
                await self._client.pexpire(key, 1)
