"""Fixtures of a worker: a real Valkey, the simulated engine as a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.waiting import PATIENCE_S, eventually_async

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import Accepted, EntryKind, Job, NewJob, OutputEntry
from lengthwise_store.settings import StoreSettings
from lengthwise_store.store import JobStore
from lengthwise_worker.engines import open_engine
from lengthwise_worker.engines.simulated.batch import SimulatedBatch
from lengthwise_worker.engines.simulated.embedded import SimulatedServer
from lengthwise_worker.settings import Settings
from lengthwise_worker.worker import Worker


class Rig:
    """One queue on a real Valkey, with engines and workers, in this process and in others."""

    queue = "org/model-1"

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self._engines: list[SimulatedServer] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.store: JobStore

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        """Run the async body of a test, with `store` open and the queue made."""

        async def body() -> None:
            self.store = JobStore(self.redis_url)
            try:
                async with asyncio.timeout(2 * PATIENCE_S):
                    await self.store.put_queue(self.queue, QueueSettings())
                    await test()
            finally:
                await self.store.aclose()

        asyncio.run(body())

    # --- engines

    def engine(self, **changes: Any) -> SimulatedServer:
        """A simulated engine that listens: 4 slots, 200 tokens/s each, priorities taken."""
        fields = {"slots": 4, "tokens_per_s": 200.0, "by_priority": True} | changes
        server = SimulatedServer(SimulatedBatch(**fields), model=self.queue)
        self._engines.append(server)
        server.start()
        return server

    # --- workers

    def settings(self, engine_url: str | None, **changes: Any) -> Settings:
        fields = {
            "redis_url": self.redis_url,
            "queue": self.queue,
            "engine": "vllm",
            "engine_url": engine_url,
            "slots": 4,
            "shutdown_grace_s": 0.0,
            "beat_ms": 1000,
        }
        return Settings(**(fields | changes))

    def open_store(self, settings: Settings) -> JobStore:
        times = StoreSettings(
            lease_ms=settings.lease_ms, beat_ms=settings.beat_ms, tick_ms=settings.tick_ms
        )
        return JobStore(settings.redis_url, times)

    @asynccontextmanager
    async def working(
        self,
        engine_url: str | None,
        open_store: Callable[[], JobStore] | None = None,
        **changes: Any,
    ) -> AsyncIterator[Worker]:
        """A worker that runs inside the block and is stopped at its end."""
        settings = self.settings(engine_url, **changes)
        make = open_store or (lambda: self.open_store(settings))
        worker = Worker(settings, open_engine(settings), make)
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            worker.stop()
            await task

    def process(self, engine_url: str | None, **changes: Any) -> subprocess.Popen[bytes]:
        """A worker as a process; its logs are in its `stderr`."""
        fields = {
            "redis_url": self.redis_url,
            "queue": self.queue,
            "engine": "vllm",
            "engine_url": engine_url,
            "slots": 4,
        }
        env = {
            f"LENGTHWISE_WORKER_{name.upper()}": str(value)
            for name, value in (fields | changes).items()
            if value is not None
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "lengthwise_worker"],
            env=os.environ | env,
            stderr=subprocess.PIPE,
        )
        self._processes.append(process)
        return process

    # --- jobs

    async def submit(
        self,
        job_id: str,
        *,
        tokens: int = 5,
        stream: bool = True,
        slack_ms: float = 0.0,
        body: bytes | None = None,
        **fields: Any,
    ) -> None:
        """Submit a chat whose answer will have `tokens` tokens; `fields` go into its body."""
        default = {
            "model": self.queue,
            "messages": [{"role": "user", "content": f"question {job_id}"}],
            "stream": stream,
            "vllm_xargs": {"output_tokens": tokens},
        }
        job = NewJob(
            id=job_id,
            endpoint="/v1/chat/completions",
            body=body if body is not None else json.dumps(default | fields).encode(),
            job_class="interactive",
            slack_ms=slack_ms,
            predicted_tokens=float(tokens),
            predicted_ms=1000.0,
            prediction=None,
            max_attempts=3,
            delay_ms=0,
            ttl_ms=600_000,
            max_depth=10_000,
        )
        assert isinstance(await self.store.submit(self.queue, job), Accepted)

    async def job(self, job_id: str) -> Job:
        found = await self.store.get(self.queue, job_id)
        assert found is not None
        return found

    async def output(self, job_id: str) -> list[OutputEntry]:
        """The whole output of a job, once it has ended."""
        entries: list[OutputEntry] = []
        async with asyncio.timeout(PATIENCE_S):
            while not entries or entries[-1].kind is not EntryKind.END:
                after = entries[-1].id if entries else "0-0"
                entries += await self.store.wait_output(
                    self.queue, job_id, after=after, timeout_s=2
                )
        return entries

    async def state(self, job_id: str, want: JobState) -> Job:
        """The job, once it is in the state `want`."""

        async def reached() -> bool:
            return (await self.job(job_id)).state is want

        await self.until(reached)
        return await self.job(job_id)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Return once `condition` holds; fail when it does not within `PATIENCE_S`."""
        await eventually_async(condition, "the condition of the test")

    async def becomes(self, condition: Callable[[], bool]) -> None:
        """`until` for a condition that needs no await."""
        await eventually_async(condition, "the condition of the test")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        for engine in self._engines:
            engine.stop()


@pytest.fixture
def rig(redis_url: str) -> Iterator[Rig]:
    made = Rig(redis_url)
    yield made
    made.close()


@pytest.fixture
def make_rig() -> type[Rig]:
    """Makes rigs on other servers than that of `rig`."""
    return Rig
