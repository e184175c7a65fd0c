"""Reads of jobs and queues; none of them changes anything."""

from __future__ import annotations

from collections.abc import Sequence

from lengthwise_contract.states import JobState
from lengthwise_store import fair_order
from lengthwise_store.base import StoreBase
from lengthwise_store.codec.jobs import read_job, read_predicted_tokens
from lengthwise_store.codec.output import END_FIELDS, read_entries, read_silent_end
from lengthwise_store.codec.queues import read_clock_ms, read_stats
from lengthwise_store.codec.settings import read_queue
from lengthwise_store.jobs import Job, OutputEntry
from lengthwise_store.keys import PUBLISHED, QUEUES, QueueKeys
from lengthwise_store.queues import JobSnapshot, Position, Queue, QueueStats
from lengthwise_store.redis.errors import reaching_redis, read

#: Jobs ahead whose tokens `position` adds up exactly; beyond them it scales by their mean.
_EXACT_AHEAD = 1000

#: Tenants that `stats` returns, at most.
_STATS_TENANTS = 1000


class JobReads(StoreBase):
    """The methods of `JobStore` that read."""

    # ------------------------------------------------------------------ one job

    async def get(self, queue: str, job_id: str) -> Job | None:
        """Return one job's record."""
        jobs = await self._records(queue, [job_id.encode()])
        return jobs[0] if jobs else None

    async def states(self, queue: str, job_ids: Sequence[str]) -> list[JobState | None]:
        """Return the states of many jobs, in their order; None: no such job, or a damaged one."""
        k = QueueKeys(queue)
        pipe = self._at(queue).pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hget(k.job(job_id), "state")
        found = await read(pipe.execute()) if job_ids else []
        known = {state.value.encode(): state for state in JobState}
        return [known.get(state) for state in found]

    async def find(self, job_id: str, *, tenant: str | None = None) -> Job | None:
        """Return one job's record from the queue that has it.

        Args:
            job_id: Its id.
            tenant: Its tenant; None: any. A job of another tenant costs the same reads as a job
                that does not exist, so that the response time reveals nothing.
        """
        names = await read(self._queue_settings.hkeys(QUEUES))
        if not names:
            return None
        queues = [name.decode() for name in names]
        pipe = self._connections.general.pipeline(transaction=False)
        for queue in queues:
            pipe.hget(QueueKeys(queue).job(job_id), "tenant")
        owners = await read(pipe.execute())
        for queue, owner in zip(queues, owners, strict=True):
            if owner is not None and tenant in (None, owner.decode()):
                return await self.get(queue, job_id)
        return None

    async def position(self, queue: str, job_id: str) -> Position | None:
        """Return the place of a waiting job; None: it is not waiting."""
        k = QueueKeys(queue)
        job = await self.get(queue, job_id)
        if job is None:
            return None
        ready = k.ready(job.tenant)
        pipe = self._at(queue).pipeline(transaction=True)
        pipe.zrank(ready, job_id)
        pipe.zrange(k.tenants, 0, -1)
        pipe.hget(k.meta, "backlog_tokens")
        ahead, waiting, backlog = await read(pipe.execute())
        if ahead is None:
            return None
        if ahead == 0:
            return Position(ahead=0, tokens_ahead=0.0)
        exact = min(ahead, _EXACT_AHEAD)
        ids = await read(self._at(queue).zrange(ready, 0, exact - 1))
        tokens = await self._predicted_tokens(k, ids)
        total = sum(tokens) * (ahead / len(tokens)) if tokens else 0.0
        others = [one.decode() for one in waiting if one.decode() != job.tenant]
        if others:
            # While this tenant's jobs are served, the others get their shares of what they have.
            weights = await self._weights(k, others)
            share = job.weight / (job.weight + sum(weights))
            total = max(total, min(total / share, float(backlog or 0)))
        return Position(ahead=ahead, tokens_ahead=total)

    async def _weights(self, k: QueueKeys, tenants: Sequence[str]) -> list[float]:
        """Return the weights of tenants that have waiting jobs, from each one's first job."""
        pipe = self._connections.of(k.prefix).pipeline(transaction=False)
        for tenant in tenants:
            pipe.zrange(k.ready(tenant), 0, 0)
        firsts = await read(pipe.execute())
        pipe = self._connections.of(k.prefix).pipeline(transaction=False)
        for first in firsts:
            pipe.hget(k.job(first[0].decode() if first else ""), "price")
        return [float(p.split(b" ")[1]) for p in await read(pipe.execute()) if p]

    async def _predicted_tokens(self, k: QueueKeys, ids: Sequence[bytes]) -> list[float]:
        pipe = self._connections.of(k.prefix).pipeline(transaction=False)
        for one in ids:
            pipe.hget(k.job(one.decode()), "price")
        return [read_predicted_tokens(p) for p in await read(pipe.execute()) if p]

    async def read_output(
        self, queue: str, job_id: str, *, after: str = "0-0", limit: int = 1000
    ) -> list[OutputEntry]:
        """Return the entries of a job's stream behind entry `after`; never blocks.

        A job that ended without output has no stream: its END is made from its record.
        """
        k = QueueKeys(queue)
        pipe = self._at(queue).pipeline(transaction=True)
        pipe.xrange(k.out(job_id), min=f"({after}", count=limit)
        pipe.exists(k.out(job_id))
        pipe.hmget(k.job(job_id), END_FIELDS)
        with reaching_redis():
            entries, has_stream, record = await pipe.execute(raise_on_error=False)
            for reply in (entries, has_stream):
                if isinstance(reply, Exception):
                    raise reply
        if has_stream or isinstance(record, Exception):  # `claim` quarantines a damaged record
            return read_entries(entries)
        return read_silent_end(record, after)

    # ------------------------------------------------------------------ queues

    async def queues(self) -> list[Queue]:
        """Return all queues with their settings, by name."""
        pipe = self._queue_settings.pipeline(transaction=False)
        pipe.hgetall(QUEUES)
        pipe.hgetall(PUBLISHED)
        raw, published = await read(pipe.execute())
        found = (
            read_queue(name.decode(), value, published.get(name))
            for name, value in sorted(raw.items())
        )
        return [queue for queue in found if queue is not None]

    async def queue(self, name: str) -> Queue | None:
        """Return one queue with its settings; None: there is none of that name."""
        pipe = self._queue_settings.pipeline(transaction=False)
        pipe.hget(QUEUES, name)
        pipe.hget(PUBLISHED, name)
        raw, published = await read(pipe.execute())
        return read_queue(name, raw, published) if raw is not None else None

    async def stats(self, queue: str) -> QueueStats:
        """Return the counters of a queue at one instant."""
        k = QueueKeys(queue)
        keys = [k.lengths, k.workers, k.worker_info]
        [reply] = await self._run(self._call(k, "stats", keys, [_STATS_TENANTS]))
        return read_stats(reply)

    async def waiting_lengths(self, queue: str, sample: int = 1000) -> list[float]:
        """Return the predicted tokens of up to `sample` waiting jobs, chosen at random."""
        k = QueueKeys(queue)
        found = await read(self._at(queue).zrandmember(k.accepted, sample))
        return await self._predicted_tokens(k, found)

    async def snapshot(self, queue: str, limit: int, *, tenant: str | None = None) -> JobSnapshot:
        """Return the jobs of a queue at this instant, at most `limit` of each kind.

        Args:
            queue: Its name.
            limit: How many waiting, running and finished jobs, each.
            tenant: Only this tenant's; None: all.
        """
        k = QueueKeys(queue)
        pipe = self._at(queue).pipeline(transaction=True)
        pipe.time()
        pipe.zrange(k.tenants, 0, -1, withscores=True)
        pipe.hkeys(k.vt)
        pipe.zrange(k.leases, 0, -1)
        time, waiting, known, leases = await read(pipe.execute())
        times = {name.decode(): score for name, score in waiting}
        names = sorted({*times, *(name.decode() for name in known)})
        if tenant is not None:
            names = [tenant]
        pipe = self._at(queue).pipeline(transaction=False)
        for name in names:
            pipe.zrange(k.ready(name), 0, limit - 1)
            pipe.zrange(k.finished(name), 0, limit - 1, desc=True)
            pipe.zrange(k.dead(name), 0, limit - 1, desc=True)
        found = await read(pipe.execute()) if names else []
        ready = [await self._records(queue, ids) for ids in found[::3]]
        ended = [
            job for ids in (*found[1::3], *found[2::3]) for job in await self._records(queue, ids)
        ]
        running = await self._records(queue, leases)
        backlogs = {
            name: [(job, job.predicted_tokens / job.weight) for job in jobs]
            for name, jobs in zip(names, ready, strict=True)
        }
        return JobSnapshot(
            now_ms=read_clock_ms(time),
            waiting=fair_order.merge(backlogs, times, limit),
            running=sorted(
                (job for job in running if tenant in (None, job.tenant)),
                key=lambda job: job.started_ms or 0.0,
            )[:limit],
            finished=sorted(ended, key=lambda job: -(job.finished_ms or 0.0))[:limit],
        )

    async def _records(self, queue: str, ids: Sequence[bytes]) -> list[Job]:
        """Return the records of these jobs, without those that are gone or cannot be read."""
        if not ids:
            return []
        k = QueueKeys(queue)
        pipe = self._at(queue).pipeline(transaction=False)
        for one in ids:
            pipe.hgetall(k.job(one.decode()))
        with reaching_redis():
            raws = await pipe.execute(raise_on_error=False)
            for raw in raws:
                # Another program put a key of another type there; the scripts quarantine the job.
                if isinstance(raw, Exception) and not str(raw).startswith("WRONGTYPE"):
                    raise raw
        jobs = (
            read_job(queue, i.decode(), raw)
            for i, raw in zip(ids, raws, strict=True)
            if isinstance(raw, dict) and raw
        )
        return [job for job in jobs if job is not None]
