"""`JobStore` on Redis 7+ or Valkey 8+. Each event is one atomic script; Redis `TIME` is the clock.

Keys: a queue's keys share the hash tag `{queue}`, so they live in one Cluster slot. Fixed keys are
named in keys.py; a job's own keys are built from the declared prefix inside the scripts, because a
script that pops a job learns its id only then (docs/decisions/0003-keys-of-popped-jobs.md).
"""

from __future__ import annotations

import asyncio
import statistics
import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - the client's own, not the built-in
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,  # noqa: A004
)

from lengthwise_contract.api import QueueSettings, WorkerView
from lengthwise_contract.states import Event, JobState
from lengthwise_queue.errors import StoreUnavailable
from lengthwise_queue.jobs import (
    Accepted,
    Claim,
    Finished,
    Job,
    KeyReused,
    Lease,
    LeaseState,
    Line,
    NewJob,
    Outcome,
    OutputEntry,
    Position,
    Queue,
    QueueFull,
    QueueStats,
    TickReport,
)
from lengthwise_queue.keys import QUEUES, QueueKeys
from lengthwise_queue.output_hub import OutputHub, parse_entries
from lengthwise_queue.records import (
    read_claims,
    read_clock_ms,
    read_job,
    read_queue,
    read_worker,
)
from lengthwise_queue.scripts import load_all

T = TypeVar("T")

#: One script to run: its event, its keys, its arguments.
_Call = tuple[Event, Sequence[str], Sequence[Any]]

#: What the client raises while Redis is away, starting, not the primary, or full.
AWAY = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    OutOfMemoryError,
    OSError,
)

#: Jobs ahead that `position` adds up exactly; behind them it scales by their mean.
_EXACT_AHEAD = 1000


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """The times of a store, ms. Every process of one Redis should have the same."""

    lease_ms: int = 15_000  #: A silent worker's jobs go back to the line after this.
    beat_ms: int = 5_000  #: A third of the lease, so that two beats may be lost.
    tick_ms: int = 1_000
    retention_ms: int = 3_600_000  #: How long a finished job can be read.
    dead_retention_ms: int = 7 * 86_400_000  #: How long a failed one can.
    worker_ttl_ms: int = 30_000  #: A worker not heard of for this long is forgotten.
    max_output_entries: int = 100_000  #: Of one job's stream; about one a token.
    keep_finished: int = 10_000  #: Ids kept in the lists of finished and of dead jobs.
    connect_timeout_s: float = 1.0
    command_timeout_s: float = 5.0


class RedisJobStore:
    """See `JobStore`. One object per process; safe to share between tasks."""

    def __init__(
        self, url: str, settings: StoreSettings | None = None, *, now_ms: float | None = None
    ) -> None:
        """Connects on first use.

        Args:
            url: `redis://`, `rediss://` or `unix://`; may hold a password, which is never logged.
            settings: Times; the defaults suit production.
            now_ms: Tests only ever set the attribute of this name: the scripts then take it for
                the clock, ms since the epoch. None: the server's clock.
        """
        self.settings = settings or StoreSettings()
        self.now_ms = now_ms
        self._url = url
        self._scripts = load_all()
        self._redis = self._client(self.settings.command_timeout_s)
        self._waiting: dict[str, redis.Redis] = {}
        self._pubsub: dict[str, Any] = {}
        self._hubs: dict[str, OutputHub] = {}
        self._emitted: dict[str, int] = {}

    def _client(self, timeout_s: float) -> redis.Redis:
        # A broken pooled connection is replaced at once, a refused one is not insisted on: a
        # caller should hear "503" within a blink. Every script may be repeated (claim: a lease
        # whose reply was lost runs out and the job goes back to the line).
        return redis.Redis.from_url(
            self._url,
            protocol=2,
            socket_connect_timeout=self.settings.connect_timeout_s,
            socket_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.05, base=0.01), 2),
        )

    # ------------------------------------------------------------------ scripts

    async def _run(self, *calls: _Call) -> list[Any]:
        """Run scripts, in order, in one round trip; loads them where the server forgot them."""
        try:
            answers = await self._send(calls)
            missing = [i for i, a in enumerate(answers) if isinstance(a, NoScriptError)]
            if missing:
                for event in {calls[i][0] for i in missing}:
                    await self._redis.script_load(self._scripts[event].text)
                again = await self._send([calls[i] for i in missing])
                for i, answer in zip(missing, again, strict=True):
                    answers[i] = answer
        except AWAY as exc:
            raise _away() from exc
        for answer in answers:
            if isinstance(answer, AWAY):
                raise _away() from answer
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _send(
        self,
        calls: Sequence[_Call],
    ) -> list[Any]:
        if len(calls) == 1:
            event, keys, args = calls[0]
            try:
                return [await self._eval(self._redis, event, keys, args)]
            except NoScriptError as exc:
                return [exc]
        pipe = self._redis.pipeline(transaction=False)
        for event, keys, args in calls:
            pipe.evalsha(self._scripts[event].sha, len(keys), *keys, *args)
        return await pipe.execute(raise_on_error=False)

    def _eval(self, client: Any, event: Event, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return client.evalsha(self._scripts[event].sha, len(keys), *keys, *args)

    @property
    def _now(self) -> str:
        return "" if self.now_ms is None else repr(self.now_ms)

    # ------------------------------------------------------------------ events

    async def submit(self, queue: str, job: NewJob) -> Accepted | QueueFull | KeyReused:
        """Hand a job in. Repeating it with the same id or idempotency key is one job."""
        k = QueueKeys(queue)
        keys = [
            k.job(job.id),
            k.body(job.id),
            k.idem(job.idempotency_key or ""),
            k.ready,
            k.accepted,
            k.delayed,
            k.deadlines,
            k.wake,
            k.meta,
        ]
        prediction = job.prediction.model_dump_json() if job.prediction else ""
        args = [
            k.prefix,
            self._now,
            job.id,
            job.body,
            job.endpoint,
            job.job_class,
            job.policy,
            repr(job.slack_ms),
            repr(job.predicted_tokens),
            repr(job.predicted_ms),
            prediction,
            job.max_attempts,
            job.delay_ms,
            job.ttl_ms,
            job.max_depth,
            "1" if job.idempotency_key is not None else "",
            job.fingerprint,
            self.settings.retention_ms,
        ]
        [answer] = await self._run((Event.SUBMIT, keys, args))
        tag = answer[0].decode()
        if tag == "full":
            return QueueFull(depth=int(answer[1]))
        if tag == "reused":
            return KeyReused(id=answer[1].decode())
        return Accepted(
            id=answer[1].decode(),
            state=JobState(answer[2].decode()),
            accepted_ms=float(answer[3]),
            due_ms=float(answer[4]),
            duplicate=tag == "duplicate",
        )

    def _claim_call(self, k: QueueKeys, worker_id: str, count: int) -> _Call:
        s = self.settings
        keys = [k.ready, k.accepted, k.leases, k.deadlines, k.finished, k.dead, k.wake, k.meta]
        nonce = uuid.uuid4().hex
        args: list[Any] = [k.prefix, self._now, count, s.lease_ms, nonce, worker_id]
        return Event.CLAIM, keys, [*args, s.retention_ms, s.dead_retention_ms]

    async def claim(self, queue: str, *, worker_id: str, count: int) -> list[Claim]:
        """Take up to `count` of the next jobs, each on a lease of `lease_ms`; never blocks."""
        [answer] = await self._run(self._claim_call(QueueKeys(queue), worker_id, count))
        return read_claims(answer)

    async def beat(
        self, queue: str, *, worker: WorkerView, leases: Sequence[Lease]
    ) -> dict[str, LeaseState]:
        """Extend all leases of a worker in one call; job id -> how it stands now."""
        k = QueueKeys(queue)
        args: list[Any] = [
            k.prefix,
            self._now,
            self.settings.lease_ms,
            worker.id,
            worker.model_dump_json(),
        ]
        for lease in leases:
            args += [lease.job_id, lease.nonce]
        [answer] = await self._run((Event.BEAT, [k.leases, k.workers, k.worker_info], args))
        states = (LeaseState(a.decode()) for a in answer)
        return dict(zip((lease.job_id for lease in leases), states, strict=True))

    async def emit(self, queue: str, lease: Lease, chunks: Sequence[bytes]) -> LeaseState:
        """Append pieces of the answer to the job's stream, in order; extends the lease."""
        k = QueueKeys(queue)
        first = self._emitted.get(lease.nonce, 0)
        s = self.settings
        args = [self._now, lease.job_id, lease.nonce, s.lease_ms, s.max_output_entries, first]
        keys = [k.job(lease.job_id), k.out(lease.job_id), k.leases]
        [answer] = await self._run((Event.EMIT, keys, [*args, *chunks]))
        state = LeaseState(answer.decode())
        if state is LeaseState.LOST:
            self._emitted.pop(lease.nonce, None)
        else:
            self._emitted[lease.nonce] = first + len(chunks)
        return state

    async def finish(
        self,
        queue: str,
        lease: Lease,
        outcome: Outcome,
        *,
        chunks: Sequence[bytes] = (),
        worker_id: str,
        claim_next: int = 0,
    ) -> Finished:
        """End a claim, appending the last `chunks` first, and take up to `claim_next` more jobs."""
        k, s = QueueKeys(queue), self.settings
        keys = [
            k.job(lease.job_id),
            k.out(lease.job_id),
            k.ready,
            k.accepted,
            k.leases,
            k.delayed,
            k.deadlines,
            k.finished,
            k.dead,
            k.wake,
            k.meta,
            k.lengths,
        ]
        args = [
            k.prefix,
            self._now,
            lease.job_id,
            lease.nonce,
            outcome.kind,
            _text(outcome.prompt_tokens),
            _text(outcome.output_tokens),
            _text(outcome.service_ms),
            outcome.error.model_dump_json() if outcome.error else "",
            outcome.delay_ms,
            s.retention_ms,
            s.dead_retention_ms,
            self._emitted.get(lease.nonce, 0),
            *chunks,
        ]
        calls: list[_Call] = [(Event.FINISH, keys, args)]
        if claim_next > 0:
            calls.append(self._claim_call(k, worker_id, claim_next))
        answers = await self._run(*calls)
        self._emitted.pop(lease.nonce, None)
        ended = answers[0]
        state = JobState(ended[1].decode()) if ended[0] == b"ok" else None
        return Finished(state=state, next_claims=read_claims(answers[1]) if claim_next > 0 else [])

    async def cancel(self, queue: str, job_id: str) -> JobState | None:
        """Withdraw a job; its state afterwards (what runs hears it soon), None: unknown."""
        k, s = QueueKeys(queue), self.settings
        keys = [
            k.job(job_id),
            k.ready,
            k.accepted,
            k.delayed,
            k.deadlines,
            k.finished,
            k.dead,
            k.meta,
            k.control,
        ]
        args = [k.prefix, self._now, job_id, s.retention_ms, s.dead_retention_ms]
        [answer] = await self._run((Event.CANCEL, keys, args))
        return None if answer == b"unknown" else JobState(answer.decode())

    async def tick(self, queue: str) -> TickReport | None:
        """Let time pass; None when another process did so within the last tick interval."""
        k, s = QueueKeys(queue), self.settings
        keys = [
            k.guard,
            k.ready,
            k.accepted,
            k.leases,
            k.delayed,
            k.deadlines,
            k.finished,
            k.dead,
            k.wake,
            k.meta,
            k.workers,
            k.worker_info,
            k.control,
        ]
        args = [
            k.prefix,
            self._now,
            s.tick_ms if self.now_ms is None else 0,
            100,  # jobs of each kind for each call: at most about 5 ms of the server's time
            s.worker_ttl_ms,
            s.retention_ms,
            s.dead_retention_ms,
            s.keep_finished,
        ]
        [answer] = await self._run((Event.TICK, keys, args))
        if not answer:
            return None
        promoted, returned, failed, expired, cancelled = answer
        return TickReport(
            promoted=promoted,
            returned=returned,
            failed=failed,
            expired=expired,
            cancelled=cancelled,
        )

    async def stats(self, queue: str) -> QueueStats:
        """The counters at one instant."""
        k = QueueKeys(queue)
        pipe = self._redis.pipeline(transaction=True)
        pipe.time()
        pipe.zcard(k.ready)
        pipe.zcard(k.delayed)
        pipe.zcard(k.leases)
        pipe.zcard(k.dead)
        pipe.hgetall(k.meta)
        pipe.zrange(k.accepted, 0, 0, withscores=True)
        pipe.lrange(k.lengths, 0, -1)
        pipe.hvals(k.worker_info)
        pipe.zrange(k.workers, 0, -1, withscores=True)
        time, depth, scheduled, leases, dead, raw, oldest, lengths, infos, seen = await self._read(
            pipe.execute()
        )
        meta = {name.decode(): value.decode() for name, value in raw.items()}
        heard = {name.decode(): at for name, at in seen}
        workers = [
            w.model_copy(update={"seen_ms": heard[w.id]})
            for w in (read_worker(info) for info in infos)
            if w is not None and w.id in heard
        ]
        sum_ms, sum_tokens = float(meta.pop("sum_ms", 0)), float(meta.pop("sum_tokens", 0))
        return QueueStats(
            now_ms=read_clock_ms(time) if self.now_ms is None else self.now_ms,
            depth=depth,
            scheduled=scheduled,
            in_flight=leases,
            dead=dead,
            backlog_tokens=max(0.0, float(meta.pop("backlog_tokens", 0))),
            oldest_accepted_ms=oldest[0][1] if oldest else None,
            ms_per_token=sum_ms / sum_tokens if sum_tokens > 0 else None,
            median_tokens=statistics.median(map(int, lengths)) if lengths else None,
            counters={name: int(value) for name, value in meta.items()},
            workers=sorted(workers, key=lambda w: w.id),
        )

    # ------------------------------------------------------------------ waiting

    async def wait_for_work(self, queue: str, timeout_s: float) -> bool:
        """Block until a job may be waiting, or the time is over."""
        client = self._waiting.get(queue)
        if client is None:
            # A connection of its own: a blocking command that is cancelled leaves its reply
            # behind, and must never leave it to somebody else (redis-py #2624).
            client = self._waiting[queue] = self._client(timeout_s + 5)
        # In a task of its own, because redis-py can swallow a cancellation that comes together
        # with the reply; whoever cancels the wait is let go at once. A marker popped in that very
        # moment is put back by the next tick.
        popped = asyncio.ensure_future(client.bzpopmin(QueueKeys(queue).wake, timeout_s))
        try:
            return await asyncio.shield(popped) is not None
        except BaseException as exc:
            self._waiting.pop(queue, None)
            popped.add_done_callback(lambda task: task.cancelled() or task.exception())
            # Its end first: closed under its feet, it would connect once more and never close that.
            while not popped.done():
                popped.cancel()
                await asyncio.wait({popped}, timeout=0.5)
            await client.aclose()
            if isinstance(exc, AWAY):
                raise _away() from exc
            raise

    async def cancellations(self, queue: str, timeout_s: float) -> list[str]:
        """Job ids whose cancellation was requested since the last call: a hint only."""
        pubsub = self._pubsub.get(queue)
        try:
            if pubsub is None:
                pubsub = self._pubsub[queue] = self._redis.pubsub(ignore_subscribe_messages=True)
                await pubsub.subscribe(QueueKeys(queue).control)
            first = await pubsub.get_message(timeout=timeout_s)
            ids: list[str] = []
            while first is not None:
                ids.append(first["data"].decode())
                first = await pubsub.get_message(timeout=0)
        except BaseException as exc:
            if self._pubsub.pop(queue, None) is not None and pubsub is not None:
                await pubsub.aclose()
            if isinstance(exc, AWAY):
                raise _away() from exc
            raise
        return ids

    # ------------------------------------------------------------------ reads

    async def _read(self, reply: Awaitable[T]) -> T:
        try:
            return await reply
        except AWAY as exc:
            raise _away() from exc

    async def get(self, queue: str, job_id: str) -> Job | None:
        """One job's record."""
        raw = await self._read(
            cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(QueueKeys(queue).job(job_id)))
        )
        return read_job(queue, job_id, raw) if raw else None

    async def find(self, job_id: str) -> Job | None:
        """One job's record, whichever queue it is in."""
        names = [q.name for q in await self.queues()]
        if not names:
            return None
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(QueueKeys(name).job(job_id))
        for name, raw in zip(names, await self._read(pipe.execute()), strict=True):
            if raw:
                return read_job(name, job_id, raw)
        return None

    async def position(self, queue: str, job_id: str) -> Position | None:
        """Where a waiting job stands; None: it is not waiting."""
        k = QueueKeys(queue)
        ahead = await self._read(cast("Awaitable[int | None]", self._redis.zrank(k.ready, job_id)))
        if ahead is None:
            return None
        if ahead == 0:
            return Position(ahead=0, tokens_ahead=0.0)
        exact = min(ahead, _EXACT_AHEAD)
        ids = await self._read(
            cast("Awaitable[list[bytes]]", self._redis.zrange(k.ready, 0, exact - 1))
        )
        pipe = self._redis.pipeline(transaction=False)
        for one in ids:
            pipe.hget(k.job(one.decode()), "predicted_tokens")
        tokens = [float(t) for t in await self._read(pipe.execute()) if t is not None]
        total = sum(tokens) * (ahead / len(tokens)) if tokens else 0.0
        return Position(ahead=ahead, tokens_ahead=total)

    async def line(self, queue: str, limit: int) -> Line:
        """The line as it stands, at most `limit` jobs of each kind."""
        k = QueueKeys(queue)
        pipe = self._redis.pipeline(transaction=True)
        pipe.time()
        pipe.zrange(k.ready, 0, limit - 1)
        pipe.zrange(k.leases, 0, limit - 1)
        pipe.zrange(k.finished, 0, limit - 1, desc=True)
        time, *groups = await self._read(pipe.execute())
        pipe = self._redis.pipeline(transaction=False)
        for one in (one for group in groups for one in group):
            pipe.hgetall(k.job(one.decode()))
        records = iter(await self._read(pipe.execute()))
        lists: list[list[Job]] = []
        for group in groups:
            jobs = [(one.decode(), next(records)) for one in group]
            read = [read_job(queue, job_id, raw) for job_id, raw in jobs if raw]
            lists.append([job for job in read if job is not None])
        waiting, running, finished = lists
        running.sort(key=lambda job: job.started_ms or 0.0)
        return Line(now_ms=read_clock_ms(time), waiting=waiting, running=running, finished=finished)

    async def read_output(
        self, queue: str, job_id: str, *, after: str = "0-0", limit: int = 1000
    ) -> list[OutputEntry]:
        """What stands in a job's stream behind entry `after`; never blocks."""
        reply = await self._read(
            self._redis.xrange(QueueKeys(queue).out(job_id), min=f"({after}", count=limit)
        )
        return parse_entries(cast("Any", reply))

    async def wait_output(
        self, queue: str, job_id: str, *, after: str = "0-0", timeout_s: float
    ) -> list[OutputEntry]:
        """Like `read_output`, but waits up to `timeout_s` for the first entry."""
        hub = self._hubs.get(queue)
        if hub is None:
            k = QueueKeys(queue)
            hub = self._hubs[queue] = OutputHub(
                self._client(OutputHub.BLOCK_S + 5), self._redis, f"{k.prefix}nudge:"
            )
        out = QueueKeys(queue).out(job_id)
        if hub.is_behind(out, after):
            found = await self.read_output(queue, job_id, after=after)
            if found:
                return found
        return await hub.wait(out, after, timeout_s)

    # ------------------------------------------------------------------ queues

    async def queues(self) -> list[Queue]:
        """All queues with their settings, by name."""
        raw = await self._read(cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(QUEUES)))
        read = (read_queue(name.decode(), value) for name, value in sorted(raw.items()))
        return [queue for queue in read if queue is not None]

    async def queue(self, name: str) -> Queue | None:
        """One queue with its settings; None: there is none of that name."""
        raw = await self._read(cast("Awaitable[bytes | None]", self._redis.hget(QUEUES, name)))
        return read_queue(name, raw) if raw is not None else None

    async def put_queue(self, name: str, settings: QueueSettings) -> None:
        """Create a queue or change its settings; jobs already waiting keep their due times."""
        await self._read(self._redis.hset(QUEUES, name, settings.model_dump_json()))

    async def check(self) -> None:
        """Raise `StoreUnavailable` unless Redis answers and is fit: version, no eviction policy."""
        info = cast("dict[str, Any]", await self._read(self._redis.info()))
        version = str(info.get("redis_version", "0"))
        if int(version.split(".")[0]) < 7:
            raise StoreUnavailable(
                f"Redis {version} is too old: Lengthwise needs Redis 7 or Valkey 8 and later."
            )
        eviction = info.get("maxmemory_policy", "noeviction")
        if eviction != "noeviction":
            raise StoreUnavailable(
                f"Redis may evict accepted jobs: its maxmemory-policy is {eviction}. "
                "Set `maxmemory-policy noeviction`."
            )

    async def aclose(self) -> None:
        """Close every connection."""
        for hub in self._hubs.values():
            await hub.aclose()
        for pubsub in self._pubsub.values():
            await pubsub.aclose()
        for client in self._waiting.values():
            await client.aclose()
        await self._redis.aclose()


def _away() -> StoreUnavailable:
    return StoreUnavailable(
        "The queue's Redis does not answer. Nothing was accepted; try again.", retry_after_s=1
    )


def _text(number: float | None) -> str:
    return "" if number is None else repr(number)
