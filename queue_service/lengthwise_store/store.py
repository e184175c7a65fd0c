"""`JobStore` on Redis 7+ or Valkey 8+. Each event is one atomic script; Redis `TIME` is the clock.

Keys: a queue's keys share the hash tag `{queue}`, so they live in one Cluster slot. Fixed keys are
named in keys.py; a job's own keys are built from the declared prefix inside the scripts, because a
script that pops a job learns its id only then (docs/decisions/0003-keys-of-popped-jobs.md).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import Event, JobState
from lengthwise_store.codec import (
    read_claims,
    read_stats,
    read_submitted,
    write_cost,
    write_number,
    write_price,
    write_quantiles,
    write_usage,
)
from lengthwise_store.errors import NotConfirmed
from lengthwise_store.jobs import (
    UNKNOWN_BASIS,
    Accepted,
    Basis,
    Claim,
    Ending,
    Finished,
    Lease,
    LeaseState,
    Mode,
    NewJob,
    Outcome,
    OutputEntry,
    QueueStats,
    Submitted,
    TickReport,
)
from lengthwise_store.keys import QUEUES, QueueKeys
from lengthwise_store.lua_loader import load_all
from lengthwise_store.output_hub import OutputHub
from lengthwise_store.pipeline import Call, ScriptPipeline
from lengthwise_store.reads import RedisReads
from lengthwise_store.redis.access import Access
from lengthwise_store.redis.connections import Connections
from lengthwise_store.redis.durability import Durability, confirmation
from lengthwise_store.redis.errors import away, is_away, reaching_redis, read
from lengthwise_store.redis.server_check import check_server
from lengthwise_store.training_log import RedisRecord

log = logging.getLogger(__name__)

#: Jobs that one step of a change of order looks at: about 2 ms of the server's time.
_REORDER_STEP = 500

#: In place of a count of pieces: more than any server knows of, so every script answers LOST. And
#: how many such claims are remembered; a worker aborts the call of a lost one within moments.
_LOST, _LOST_KEPT = 1 << 52, 1000

#: The answers of finish.lua; to call the enum for each costs a worker more than all else here.
_ENDED: Mapping[bytes, JobState | None] = {s.value.encode(): s for s in JobState} | {b"lost": None}

#: Tenants that `stats` tells of, at most.
_TENANTS_TOLD = 1000


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
    durability: Durability = Durability.ASYNC  #: What an acknowledged submit or finish survives.
    durability_replicas: int = 1  #: Of mode `replica`: so many must confirm.
    durability_timeout_ms: int = 1000  #: Longest wait for a confirmation.


class JobStore(RedisReads, RedisRecord):
    """See `JobStore`. One object per process; safe to share between tasks."""

    def __init__(
        self,
        redis_at: str | Access,
        settings: StoreSettings | None = None,
        *,
        now_ms: float | None = None,
        on_unconfirmed: Callable[[int], object] | None = None,
    ) -> None:
        """Connects on first use.

        Args:
            redis_at: Where Redis is: an `Access`, or a URL that holds all that one needs.
            settings: Times; the defaults suit production.
            now_ms: Tests only ever set the attribute of this name: the scripts then take it for
                the clock, ms since the epoch. None: the server's clock.
            on_unconfirmed: Is told how many endings were accepted without the confirmation that
                the durability asks for.
        """
        self._on_unconfirmed = on_unconfirmed or (lambda _: None)
        self.settings = s = settings or StoreSettings()
        self.now_ms = now_ms
        self._connections = Connections(
            redis_at if isinstance(redis_at, Access) else Access.parse(redis_at),
            connect_timeout_s=s.connect_timeout_s,
            command_timeout_s=s.command_timeout_s,
        )
        self._scripts = load_all()
        self._confirmation = confirmation(
            s.durability, replicas=s.durability_replicas, timeout_ms=s.durability_timeout_ms
        )
        self._runners: dict[tuple[str, bool], tuple[ScriptPipeline, redis.Redis]] = {}
        self._waiting: dict[str, redis.Redis] = {}
        self._pubsub: dict[str, Any] = {}
        self._hubs: dict[str, OutputHub] = {}
        self._emitted: dict[str, int] = {}  #: By nonce: pieces so far, or `_LOST`.
        self._lost: deque[str] = deque()
        self._warned: set[str] = set()
        #: Of each primary at the last `check`: used memory and its limit (0: none), bytes.
        self.memory: Sequence[tuple[int, int]] = []

    @property
    def client(self) -> Any:
        """The pooled client, for what is kept beside jobs: files, batches, responses.

        In a Cluster a pipeline may hold keys of many slots, a transaction only those of one.
        """
        return self._connections.general

    async def confirm(self, *keys: str) -> None:
        """Wait until what was written beside these keys is as safe as `durability` promises.

        For what `client` wrote; the events of jobs see to it themselves.

        Raises:
            NotConfirmed: It is not, within the time there is.
        """
        if self._confirmation is None:
            return
        for key in keys:
            async with self._connections.briefly(key) as client:
                pipe = client.pipeline(transaction=False)
                for command in self._confirmation.commands(key):
                    pipe.execute_command(*command)
                lacks = self._confirmation.missing(await read(pipe.execute(raise_on_error=False)))
            if lacks is not None:
                raise NotConfirmed(f"It was written, but {lacks}. Try again.", retry_after_s=1)

    # ------------------------------------------------------------------ scripts

    async def _run(self, *calls: Call) -> list[Any]:
        """Run scripts about one queue, in order, in one round trip."""
        return await self._ask(self._runner(calls[0][1][0], confirmed=False), calls)

    async def _run_confirmed(self, *calls: Call) -> tuple[list[Any], str | None]:
        """The same for writes whose loss matters; with what their durability lacks, in words."""
        if self._confirmation is None:
            return await self._run(*calls), None
        answers = await self._ask(self._runner(calls[0][1][0], confirmed=True), calls)
        return answers[:-1], answers[-1]

    async def _ask(self, runner: ScriptPipeline, calls: Sequence[Call]) -> list[Any]:
        with reaching_redis():
            answers = await runner.run(calls)
        for answer in answers:
            if isinstance(answer, Exception):
                raise away(answer) if is_away(answer) else answer
        return answers

    def _runner(self, key: str, *, confirmed: bool) -> ScriptPipeline:
        """That of a key's slot. Confirmed writes go apart: nothing else waits for replicas."""
        name = self._connections.slot(key), confirmed
        if name not in self._runners:
            # Its timeout is the runner's: one for a pipeline, not one for each reply.
            client = self._connections.own(key, None)
            runner = ScriptPipeline(
                client,
                self._scripts,
                timeout_s=self.settings.command_timeout_s,
                confirmation=self._confirmation if confirmed else None,
            )
            self._runners[name] = runner, client
        return self._runners[name][0]

    @property
    def _now(self) -> str:
        return "" if self.now_ms is None else repr(self.now_ms)

    # ------------------------------------------------------------------ events

    async def submit(self, queue: str, job: NewJob) -> Submitted:
        """Hand a job in. Repeating it with the same id or idempotency key is one job."""
        k = QueueKeys(queue)
        keys = [
            k.job(job.id),
            k.body(job.id),
            k.idem(job.tenant, job.idempotency_key or ""),
            k.rate(job.tenant),
        ]
        quantiles, predictor = write_quantiles(job.prediction, job.basis)
        args = [
            job.id,
            job.body,
            job.tenant,
            write_cost(job.predicted_tokens),
            write_price(job),
            f"{job.max_attempts} {job.job_class} {job.endpoint}",
            quantiles,
            predictor,
            job.delay_ms,
            job.ttl_ms,
            job.max_depth,
            _text(job.tenant_max_depth),
            _text(job.requests_per_minute),
            _text(job.tokens_per_minute),
            "1" if job.idempotency_key is not None else "",
            job.fingerprint,
        ]
        [answer], lacks = await self._run_confirmed(self._call(k, Event.SUBMIT, keys, args))
        submitted = read_submitted(answer)
        if lacks is not None and isinstance(submitted, Accepted):
            raise NotConfirmed(
                f"The job was written, but {lacks}. Send it again: with an Idempotency-Key it is "
                "found again, without one it is withdrawn.",
                retry_after_s=1,
            )
        return submitted

    def _call(
        self, k: QueueKeys, script: str, keys: Sequence[str] = (), args: Sequence[Any] = ()
    ) -> Call:
        s = self.settings
        common = [k.prefix, self._now, s.retention_ms, s.dead_retention_ms]
        return script, [*k.line, *keys], [*common, *args]

    def _claim_call(self, k: QueueKeys, worker_id: str, count: int) -> Call:
        args = [count, self.settings.lease_ms, uuid.uuid4().hex, worker_id]
        return self._call(k, Event.CLAIM, (), args)

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
            # For good: a server that lost pieces in a failover may know the claim, and would take
            # the next piece for its first. Nobody ends a lost claim, so these are forgotten by age.
            self._emitted[lease.nonce] = _LOST
            self._lost.append(lease.nonce)
            if len(self._lost) > _LOST_KEPT:
                self._emitted.pop(self._lost.popleft(), None)
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
        ending = Ending(lease=lease, outcome=outcome, chunks=chunks)
        [state], claims = await self.finish_all(
            queue, [ending], worker_id=worker_id, claim_next=claim_next
        )
        return Finished(state=state, next_claims=claims)

    async def finish_all(
        self, queue: str, endings: Sequence[Ending], *, worker_id: str, claim_next: int = 0
    ) -> tuple[list[JobState | None], list[Claim]]:
        """`finish` for several claims in one round trip, and one claim of `claim_next` more jobs.

        Their states in the same order. The ends are one atomic step, the claim behind them another.
        """
        k = QueueKeys(queue)
        args = [part for ending in endings for part in self._finish_args(ending)]
        calls = [self._call(k, Event.FINISH, [k.lengths], args)]
        if claim_next > 0:
            calls.append(self._claim_call(k, worker_id, claim_next))
        answers, lacks = await self._run_confirmed(*calls)
        if lacks is not None:
            # It cannot be taken back: the answer is there, and its client may have read it.
            self._on_unconfirmed(len(endings))
            log.warning("endings not confirmed", extra={"queue": queue, "lacks": lacks})
        for ending in endings:
            self._emitted.pop(ending.lease.nonce, None)
        states = [_ENDED[state] for state in answers[0]]
        return states, read_claims(answers[1]) if claim_next > 0 else []

    def _finish_args(self, ending: Ending) -> list[Any]:
        lease, outcome = ending.lease, ending.outcome
        usage, length = write_usage(outcome)
        said = [lease.job_id, lease.nonce, outcome.kind, usage, length]
        first = self._emitted.get(lease.nonce, 0)
        if not (outcome.error or outcome.delay_ms or first or ending.chunks):
            return [*said, 0]  # most answers that came whole: an argument costs the server 0.25 us
        error = outcome.error.model_dump_json() if outcome.error else ""
        more = [error, outcome.delay_ms, first, *ending.chunks]
        return [*said, len(more), *more]

    async def cancel(self, queue: str, job_id: str) -> JobState | None:
        """Withdraw a job; its state afterwards (what runs hears it soon), None: unknown."""
        k = QueueKeys(queue)
        call = self._call(k, Event.CANCEL, [k.job(job_id), k.control], [job_id])
        [answer], lacks = await self._run_confirmed(call)
        if answer == b"unknown":
            return None
        if lacks is not None:
            raise NotConfirmed(
                f"It was withdrawn, but {lacks}. Withdraw it again.", retry_after_s=1
            )
        return JobState(answer.decode())

    async def redrive(self, queue: str, job_id: str) -> JobState | None:
        """Give a failed job a new life, with all its attempts; its state afterwards.

        None: unknown. FAILED: it cannot be served again, its request is gone or unreadable.
        """
        k = QueueKeys(queue)
        keys = [k.job(job_id), k.body(job_id), k.out(job_id)]
        [answer] = await self._run(self._call(k, Event.REDRIVE, keys, [job_id]))
        if answer == b"unreadable":
            return JobState.FAILED
        return None if answer == b"unknown" else JobState(answer.decode())

    async def reprice(
        self,
        queue: str,
        job_id: str,
        *,
        slack_ms: float,
        predicted_tokens: float,
        predicted_ms: float,
        prediction: Prediction,
        basis: Basis = UNKNOWN_BASIS,
    ) -> float | None:
        """Give a waiting job another price; its new due time, or None: it no longer waits."""
        k = QueueKeys(queue)
        numbers = map(write_number, (slack_ms, predicted_tokens, predicted_ms))
        args = [job_id, write_cost(predicted_tokens), *numbers, *write_quantiles(prediction, basis)]
        [answer] = await self._run(self._call(k, Event.REPRICE, [k.job(job_id)], args))
        return float(answer[1]) if answer[0] == b"ok" else None

    async def tick(self, queue: str) -> TickReport | None:
        """Let time pass; None when another process did so within the last tick interval."""
        k, s = QueueKeys(queue), self.settings
        args = [
            s.tick_ms if self.now_ms is None else 0,
            100,  # jobs of each kind for each call: at most about 5 ms of the server's time
            s.worker_ttl_ms,
            s.keep_finished,
        ]
        keys = [k.guard, k.workers, k.worker_info, k.control]
        answer, _ = await self._run(
            self._call(k, Event.TICK, keys, args),
            # Whoever changed the policy may have died before the line was in order.
            self._call(k, "reorder", (), [_REORDER_STEP]),
        )
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
        keys = [k.lengths, k.workers, k.worker_info]
        [answer] = await self._run(self._call(k, "stats", keys, [_TENANTS_TOLD]))
        return read_stats(answer)

    # ------------------------------------------------------------------ waiting

    async def wait_for_work(self, queue: str, timeout_s: float) -> bool:
        """Block until a job may be waiting, or the time is over."""
        client = self._waiting.get(queue)
        if client is None:
            # A connection of its own: a blocking command that is cancelled leaves its reply
            # behind, and must never leave it to somebody else (redis-py #2624).
            key = QueueKeys(queue).wake
            client = self._waiting[queue] = self._connections.own(key, timeout_s + 5)
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
            if is_away(exc):
                raise away(exc) from exc
            raise

    async def cancellations(self, queue: str, timeout_s: float) -> list[str]:
        """Job ids whose cancellation was requested since the last call: a hint only."""
        pubsub = self._pubsub.get(queue)
        try:
            if pubsub is None:
                pubsub = self._pubsub[queue] = self._at(queue).pubsub(
                    ignore_subscribe_messages=True
                )
                await pubsub.subscribe(QueueKeys(queue).control)
            first = await pubsub.get_message(timeout=timeout_s)
            ids: list[str] = []
            while first is not None:
                ids.append(first["data"].decode())
                first = await pubsub.get_message(timeout=0)
        except BaseException as exc:
            if self._pubsub.pop(queue, None) is not None and pubsub is not None:
                await pubsub.aclose()
            if is_away(exc):
                raise away(exc) from exc
            raise
        return ids

    async def wait_output(
        self, queue: str, job_id: str, *, after: str = "0-0", timeout_s: float
    ) -> list[OutputEntry]:
        """Like `read_output`, but waits up to `timeout_s` for the first entry."""
        hub = self._hubs.get(queue)
        if hub is None:
            k = QueueKeys(queue)
            hub = self._hubs[queue] = OutputHub(
                self._connections.own(k.prefix, OutputHub.BLOCK_S + 5),
                self._at(queue),
                k,
            )
        out = QueueKeys(queue).out(job_id)
        if hub.is_behind(out, after):
            found = await self.read_output(queue, job_id, after=after)
            if found:
                return found

        async def look() -> list[OutputEntry]:
            return await self.read_output(queue, job_id, after=after)

        return await hub.wait(out, after, timeout_s, look=look) or await look()

    # ------------------------------------------------------------------ queues

    async def put_queue(self, name: str, settings: QueueSettings) -> None:
        """Create a queue or change its settings. With another policy the line is put in its order.

        Waiting jobs keep the price that they have: a new k, or new classes, are for new jobs.
        """
        await read(self._connections.of(QUEUES).hset(QUEUES, name, settings.model_dump_json()))
        if not settings.record_rows:
            await self.forget_record(name)
        await self._govern(name, policy=settings.policy)

    async def set_mode(self, queue: str, mode: Mode) -> None:
        """Open, pause or drain a queue; in force for the next claim and the next submit."""
        await self._govern(queue, mode=mode)

    async def set_fallback(self, queue: str, *, on: bool, judged_at: int = 0) -> None:
        """Suspend the policy `sjf`: serve in order of acceptance; or take it up again.

        `judged_at`: how many jobs had succeeded, so that the next verdict rests on later ones.
        """
        await read(self._at(queue).hset(QueueKeys(queue).meta, "judged", judged_at))
        await self._govern(queue, fallback="1" if on else "0")

    async def _govern(
        self, queue: str, *, mode: str = "", policy: str = "", fallback: str = ""
    ) -> None:
        k = QueueKeys(queue)
        [answer] = await self._run(self._call(k, "govern", (), [mode, policy, fallback]))
        while answer[2] == b"1":  # in steps, so that no script holds the server for long
            [looked] = await self._run(self._call(k, "reorder", (), [_REORDER_STEP]))
            if looked == 0:
                break

    async def check(self) -> None:
        """Ask every primary whether it is fit; its warnings are logged once.

        Raises:
            StoreUnfit: Its settings contradict what we promise; the message says what to set.
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
                "redis is not as it should be",
                extra={"problem": warning, "redis": str(self._connections.access)},
            )
        self._warned = warnings

    async def aclose(self) -> None:
        """Close every connection."""
        for hub in self._hubs.values():
            await hub.aclose()
        for pubsub in self._pubsub.values():
            await pubsub.aclose()
        for client in self._waiting.values():
            await client.aclose()
        for runner, client in self._runners.values():
            await runner.aclose()
            await client.aclose()
        await self._connections.aclose()


def _text(number: float | None) -> str:
    return "" if number is None else repr(number)
