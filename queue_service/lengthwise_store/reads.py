"""What the store tells of jobs and lines, changing nothing. `JobStore` adds the rest."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lengthwise_contract.states import JobState
from lengthwise_store import fair_order
from lengthwise_store.codec import read_clock_ms, read_job, read_predicted_tokens, read_queue
from lengthwise_store.jobs import Job, JobPage, Line, OutputEntry, Position, Queue
from lengthwise_store.keys import QUEUES, QueueKeys
from lengthwise_store.output_entries import END_FIELDS, parse_entries, silent_end
from lengthwise_store.redis.connections import Connections
from lengthwise_store.redis.errors import reaching_redis, read

#: Jobs ahead that `position` adds up exactly; behind them it scales by their mean.
_EXACT_AHEAD = 1000

#: Ids that one page of a listing looks at, at most; what belongs to others is passed over.
_LOOKED_AT = 1000


@dataclass(frozen=True)
class _Shelf:
    """One sorted set that a listing walks along, in the order of its scores."""

    key: str
    newest_first: bool


class RedisReads:
    """The reads of `JobStore`."""

    _connections: Connections

    def _at(self, queue: str) -> Any:
        """The client for a queue's keys."""
        return self._connections.of(QueueKeys(queue).prefix)

    @property
    def _settings(self) -> Any:
        """The client for the queues' settings."""
        return self._connections.of(QUEUES)

    async def get(self, queue: str, job_id: str) -> Job | None:
        """One job's record."""
        raw = await read(self._at(queue).hgetall(QueueKeys(queue).job(job_id)))
        return read_job(queue, job_id, raw) if raw else None

    async def states(self, queue: str, job_ids: Sequence[str]) -> list[JobState | None]:
        """The states of many jobs, in their order; None: there is no such job."""
        k = QueueKeys(queue)
        pipe = self._at(queue).pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hget(k.job(job_id), "state")
        found = await read(pipe.execute()) if job_ids else []
        return [None if state is None else JobState(state.decode()) for state in found]

    async def find(self, job_id: str, *, tenant: str | None = None) -> Job | None:
        """One job's record, whichever queue it is in; if it is this tenant's, or anybody's.

        Another's job costs the same reads as none at all, so that their time tells nothing.
        """
        names = await read(self._settings.hkeys(QUEUES))
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
        """Where a waiting job stands; None: it is not waiting."""
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
        pipe = self._at(queue).pipeline(transaction=False)
        for one in ids:
            pipe.hget(k.job(one.decode()), "price")
        tokens = [read_predicted_tokens(p) for p in await read(pipe.execute()) if p]
        total = sum(tokens) * (ahead / len(tokens)) if tokens else 0.0
        others = [one.decode() for one in waiting if one.decode() != job.tenant]
        if others:
            # While ours are served, the others get their shares, of what they have.
            weights = await self._weights(k, others)
            share = job.weight / (job.weight + sum(weights))
            total = max(total, min(total / share, float(backlog or 0)))
        return Position(ahead=ahead, tokens_ahead=total)

    async def _weights(self, k: QueueKeys, tenants: Sequence[str]) -> list[float]:
        """The weights of tenants that have waiting jobs, from each one's first job."""
        pipe = self._connections.of(k.prefix).pipeline(transaction=False)
        for tenant in tenants:
            pipe.zrange(k.ready(tenant), 0, 0)
        firsts = await read(pipe.execute())
        pipe = self._connections.of(k.prefix).pipeline(transaction=False)
        for first in firsts:
            pipe.hget(k.job(first[0].decode() if first else ""), "price")
        return [float(p.split(b" ")[1]) for p in await read(pipe.execute()) if p]

    async def waiting_lengths(self, queue: str, sample: int = 1000) -> list[float]:
        """Predicted tokens of up to `sample` waiting jobs, chosen at random."""
        k = QueueKeys(queue)
        found = await read(self._at(queue).zrandmember(k.accepted, sample))
        pipe = self._at(queue).pipeline(transaction=False)
        for one in found:
            pipe.hget(k.job(one.decode()), "price")
        return [read_predicted_tokens(p) for p in await read(pipe.execute()) if p]

    async def line(self, queue: str, limit: int, *, tenant: str | None = None) -> Line:
        """The line as it stands, at most `limit` jobs of each kind; of one tenant, or of all."""
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
        lines = {
            name: [(job, job.predicted_tokens / job.weight) for job in jobs]
            for name, jobs in zip(names, ready, strict=True)
        }
        return Line(
            now_ms=read_clock_ms(time),
            waiting=fair_order.merge(lines, times, limit),
            running=sorted(
                (job for job in running if tenant in (None, job.tenant)),
                key=lambda job: job.started_ms or 0.0,
            )[:limit],
            finished=sorted(ended, key=lambda job: -(job.finished_ms or 0.0))[:limit],
        )

    async def _records(self, queue: str, ids: Sequence[bytes]) -> list[Job]:
        """The records of these jobs; one that is gone or cannot be read is left out."""
        if not ids:
            return []
        k = QueueKeys(queue)
        pipe = self._at(queue).pipeline(transaction=False)
        for one in ids:
            pipe.hgetall(k.job(one.decode()))
        raws = await read(pipe.execute())
        jobs = (read_job(queue, i.decode(), raw) for i, raw in zip(ids, raws, strict=True) if raw)
        return [job for job in jobs if job is not None]

    # ------------------------------------------------------------------ listings

    async def jobs(
        self,
        queue: str,
        tenant: str,
        *,
        state: JobState | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> JobPage:
        """A tenant's jobs: running, queued by due time, scheduled, then ended, the newest first.

        Args:
            queue: Its name.
            tenant: Whose.
            state: Of this state only.
            after: `JobPage.after` of the page before; None: from the start.
            limit: How many, at most. A page may have fewer, even none, and yet not be the last.

        Raises:
            ValueError: `after` is not a cursor of this listing.
            StoreUnavailable: Redis does not answer.
        """
        k = QueueKeys(queue)
        ended = {JobState.SUCCEEDED, JobState.CANCELLED, JobState.EXPIRED}
        shelves = [
            (_Shelf(k.leases, False), {JobState.RUNNING}),
            (_Shelf(k.ready(tenant), False), {JobState.QUEUED}),
            (_Shelf(k.delayed, False), {JobState.SCHEDULED}),
            (_Shelf(k.finished(tenant), True), ended),
            (_Shelf(k.dead(tenant), True), {JobState.FAILED}),
        ]
        wanted = [shelf for shelf, states in shelves if state is None or state in states]
        return await self._page(
            queue, wanted, after, limit, lambda j: j.tenant == tenant and state in (None, j.state)
        )

    async def dead(
        self, queue: str, tenants: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> JobPage:
        """The dead letters of these tenants, one after the other, the newest of each first.

        Raises:
            ValueError: `after` is not a cursor of this listing.
            StoreUnavailable: Redis does not answer.
        """
        k = QueueKeys(queue)
        shelves = [_Shelf(k.dead(tenant), True) for tenant in tenants]
        return await self._page(queue, shelves, after, limit, lambda j: j.state is JobState.FAILED)

    async def _page(
        self, queue: str, shelves: list[_Shelf], after: str | None, limit: int, wanted: Any
    ) -> JobPage:
        at, passed = _read_cursor(after, [shelf.key for shelf in shelves])
        jobs: list[Job] = []
        looked = 0
        for number in range(at, len(shelves)):
            shelf = shelves[number]
            async for ids in self._along(shelf, passed, limit):
                records = {job.id: job for job in await self._records(queue, [i for i, _ in ids])}
                for one, score in ids:
                    job = records.get(one.decode())
                    looked += 1
                    if job is not None and wanted(job):
                        jobs.append(job)
                    if len(jobs) == limit or looked >= _LOOKED_AT:
                        cursor = _write_cursor(shelf.key, score, one.decode())
                        return JobPage(jobs=jobs, after=cursor)
            passed = None
        return JobPage(jobs=jobs, after=None)

    async def _along(
        self, shelf: _Shelf, passed: tuple[float, str] | None, limit: int
    ) -> AsyncIterator[list[tuple[bytes, float]]]:
        """What lies behind `passed` (score, id), in steps."""
        start = "-inf" if passed is None else repr(passed[0])
        end = "+inf"
        if shelf.newest_first:
            start, end = ("+inf" if passed is None else repr(passed[0])), "-inf"
        offset = 0
        while True:
            reply = await read(
                self._connections.of(shelf.key).zrange(
                    shelf.key,
                    cast("int", start),
                    cast("int", end),
                    desc=shelf.newest_first,
                    byscore=True,
                    withscores=True,
                    offset=offset,
                    num=limit,
                )
            )
            found = cast("list[tuple[bytes, float]]", reply)
            if not found:
                return
            offset += len(found)
            yield [
                (one, score)
                for one, score in found
                if passed is None or not _is_passed(shelf, (score, one.decode()), passed)
            ]

    # ------------------------------------------------------------------ output and queues

    async def read_output(
        self, queue: str, job_id: str, *, after: str = "0-0", limit: int = 1000
    ) -> list[OutputEntry]:
        """What stands in a job's stream behind entry `after`; never blocks.

        The end of a job that ended without a word stands in its record alone; it is made of that.
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
        if has_stream or isinstance(record, Exception):  # a damaged record: `claim` sees to it
            return parse_entries(entries)
        return silent_end(record, after)

    async def queues(self) -> list[Queue]:
        """All queues with their settings, by name."""
        raw = await read(self._settings.hgetall(QUEUES))
        found = (read_queue(name.decode(), value) for name, value in sorted(raw.items()))
        return [queue for queue in found if queue is not None]

    async def queue(self, name: str) -> Queue | None:
        """One queue with its settings; None: there is none of that name."""
        raw = await read(self._settings.hget(QUEUES, name))
        return read_queue(name, raw) if raw is not None else None


def _is_passed(shelf: _Shelf, one: tuple[float, str], passed: tuple[float, str]) -> bool:
    return one >= passed if shelf.newest_first else one <= passed


def _write_cursor(key: str, score: float, job_id: str) -> str:
    text = json.dumps([key.rsplit("}:", 1)[1], score, job_id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(after: str | None, keys: list[str]) -> tuple[int, tuple[float, str] | None]:
    if after is None:
        return 0, None
    try:
        raw = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4))
        name, score, job_id = json.loads(raw)
        names = [key.rsplit("}:", 1)[1] for key in keys]
        return names.index(name), (float(score), str(job_id))
    except (ValueError, TypeError) as exc:
        raise ValueError(f"{after!r} is not a cursor of this listing") from exc
