"""Lengthwise: `JobStore.submit`, as the HTTP routes call it, and the worker with an idle engine."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import uuid_utils
import uvloop

from lengthwise_contract.logs import set_up
from lengthwise_lab.queue_bench.library import Semantics
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced, produce_async
from lengthwise_store.jobs import Accepted, Claim, NewJob
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore
from lengthwise_worker.engines.base import EngineResponse, Health, Sink
from lengthwise_worker.settings import Settings
from lengthwise_worker.worker import Worker

QUEUE = "bench"

SEMANTICS = Semantics(
    settings="slots, continuous batching, lease 15 s, uvloop",
    acknowledged="after the job, with the claim's random nonce; one result is accepted",
    after_a_kill="the lease expires: runs again within 16 s, with its old place in the queue",
    retries="3 attempts, full jitter; then a dead letter with its reason",
    deduplication="job id and idempotency key, with a fingerprint of the body",
    result="state, times, token counts and output stream, 1 h",
    order="by due time (predicted length and age), between tenants by weight",
)


class IdleEngine:
    """An engine that answers every job at once."""

    kind = "idle"
    patience_s = 60.0

    def __init__(self, probe: Probe) -> None:
        """Store the probe, which counts the jobs."""
        self._probe = probe

    async def start(self) -> None:
        """Do nothing."""

    async def health(self) -> Health:
        """Report no problem."""
        return Health()

    async def probe(self) -> None:
        """Do nothing."""

    async def answer(self, claim: Claim, sink: Sink) -> EngineResponse:
        """Parse the body, as every engine does, and report one token each way."""
        del sink
        self._probe.job(json.loads(claim.body)["sent_s"])
        return EngineResponse(prompt_tokens=1, output_tokens=1)

    async def aclose(self) -> None:
        """Do nothing."""


def new_job(sent_s: float, payload: str, *, slack_ms: float = 3000.0) -> NewJob:
    """Make a job like the HTTP routes; it is due `slack_ms` after its acceptance, ms."""
    return NewJob(
        id=str(uuid_utils.uuid7()),
        endpoint="/v1/chat/completions",
        body=json.dumps({"sent_s": sent_s, "payload": payload}).encode(),
        job_class="interactive",
        slack_ms=slack_ms,
        predicted_tokens=50.0,
        predicted_ms=1000.0,
        prediction=None,
        max_attempts=3,
        delay_ms=0,
        ttl_ms=3_600_000,
        max_depth=10_000_000,
    )


def produce(url: str, plan: LoadPlan) -> Produced:
    """Submit jobs through the store."""

    async def run() -> Produced:
        store = JobStore(url)

        async def submit(sent_s: float, payload: str) -> Any:
            result = await store.submit(QUEUE, new_job(sent_s, payload))
            if not isinstance(result, Accepted):
                raise RuntimeError(f"the queue refused a job of the bench: {result}")

        try:
            return await produce_async(plan, submit)
        finally:
            await store.aclose()

    return uvloop.run(run())


def work(url: str, probe: Probe) -> None:
    """Run a worker with the setup of `python -m lengthwise_worker`."""
    settings = Settings(
        redis_url=url,
        queue=QUEUE,
        slots=probe.concurrency,
        shutdown_grace_s=1.0,
        log_level="WARNING",
    )
    times = StoreSettings(
        lease_ms=settings.lease_ms, beat_ms=settings.beat_ms, tick_ms=settings.tick_ms
    )
    set_up(settings.log_level)

    async def run() -> None:
        worker = Worker(settings, IdleEngine(probe), lambda: JobStore(url, times))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()

    uvloop.run(run())
