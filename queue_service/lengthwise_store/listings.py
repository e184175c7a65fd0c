"""Pages of jobs: a tenant's jobs, and the dead letters. A cursor marks the last job shown."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Job
from lengthwise_store.keys import QueueKeys
from lengthwise_store.queues import JobPage
from lengthwise_store.reads import JobReads
from lengthwise_store.redis.errors import read

#: Ids that one page looks at, at most; the jobs of other tenants are skipped.
_LOOKED_AT = 1000


@dataclass(frozen=True)
class _SortedSet:
    """One sorted set that a listing reads in the order of its scores."""

    key: str
    newest_first: bool


class JobListings(JobReads):
    """The methods of `JobStore` that return pages of jobs."""

    async def jobs(
        self,
        queue: str,
        tenant: str,
        *,
        state: JobState | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> JobPage:
        """List a tenant's jobs: running, queued by due time, scheduled, then ended, newest first.

        Args:
            queue: Its name.
            tenant: Whose jobs.
            state: Only jobs in this state.
            after: `JobPage.after` of the previous page; None: from the start.
            limit: How many, at most. A page may have fewer, even none, and not be the last.

        Raises:
            ValueError: `after` is not a cursor of this listing.
            StoreUnavailable: Redis does not answer.
        """
        k = QueueKeys(queue)
        ended = {JobState.SUCCEEDED, JobState.CANCELLED, JobState.EXPIRED}
        sources = [
            (_SortedSet(k.leases, False), {JobState.RUNNING}),
            (_SortedSet(k.ready(tenant), False), {JobState.QUEUED}),
            (_SortedSet(k.delayed, False), {JobState.SCHEDULED}),
            (_SortedSet(k.finished(tenant), True), ended),
            (_SortedSet(k.dead(tenant), True), {JobState.FAILED}),
        ]
        wanted = [source for source, states in sources if state is None or state in states]
        return await self._page(
            queue, wanted, after, limit, lambda j: j.tenant == tenant and state in (None, j.state)
        )

    async def dead(
        self, queue: str, tenants: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> JobPage:
        """List the dead letters of these tenants, one after the other, each newest first.

        Raises:
            ValueError: `after` is not a cursor of this listing.
            StoreUnavailable: Redis does not answer.
        """
        k = QueueKeys(queue)
        sources = [_SortedSet(k.dead(tenant), True) for tenant in tenants]
        return await self._page(queue, sources, after, limit, lambda j: j.state is JobState.FAILED)

    async def _page(
        self,
        queue: str,
        sources: list[_SortedSet],
        after: str | None,
        limit: int,
        wanted: Callable[[Job], bool],
    ) -> JobPage:
        at, passed = _read_cursor(after, [source.key for source in sources])
        jobs: list[Job] = []
        looked = 0
        for source in sources[at:]:
            async for ids in self._ids_behind(source, passed, limit):
                records = {job.id: job for job in await self._records(queue, [i for i, _ in ids])}
                for one, score in ids:
                    job = records.get(one.decode())
                    looked += 1
                    if job is not None and wanted(job):
                        jobs.append(job)
                    if len(jobs) == limit or looked >= _LOOKED_AT:
                        cursor = _write_cursor(source.key, score, one.decode())
                        return JobPage(jobs=jobs, after=cursor)
            passed = None
        return JobPage(jobs=jobs, after=None)

    async def _ids_behind(
        self, source: _SortedSet, passed: tuple[float, str] | None, limit: int
    ) -> AsyncIterator[list[tuple[bytes, float]]]:
        """Yield the ids behind `passed` (score, id), `limit` at a time."""
        start = "-inf" if passed is None else repr(passed[0])
        end = "+inf"
        if source.newest_first:
            start, end = ("+inf" if passed is None else repr(passed[0])), "-inf"
        offset = 0
        while True:
            reply = await read(
                self._connections.of(source.key).zrange(
                    source.key,
                    cast("int", start),
                    cast("int", end),
                    desc=source.newest_first,
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
                if passed is None or not _is_passed(source, (score, one.decode()), passed)
            ]


def _is_passed(source: _SortedSet, one: tuple[float, str], passed: tuple[float, str]) -> bool:
    return one >= passed if source.newest_first else one <= passed


def _write_cursor(key: str, score: float, job_id: str) -> str:
    text = json.dumps([key.rsplit("}:", 1)[1], score, job_id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(after: str | None, keys: list[str]) -> tuple[int, tuple[float, str] | None]:
    """Read a cursor: the index of its sorted set, and the (score, id) that it marks."""
    if after is None:
        return 0, None
    try:
        raw = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4))
        name, score, job_id = json.loads(raw)
        names = [key.rsplit("}:", 1)[1] for key in keys]
        return names.index(name), (float(score), str(job_id))
    except (ValueError, TypeError) as exc:
        raise ValueError(f"{after!r} is not a cursor of this listing") from exc
