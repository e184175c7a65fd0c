"""The store goes away and comes back, behind a proxy that the test can cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lengthwise_contract.states import JobState
from lengthwise_queue.jobs import EntryKind

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


class Proxy:
    """A TCP proxy; while it is cut, it drops what is open and refuses what is new."""

    def __init__(self, port: int) -> None:
        self._target, self.port = port, 0
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        pair = {writer, far_writer}
        self._open |= pair
        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            self._open -= pair
            for one in pair:
                one.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def proxied(rig: Rig) -> tuple[Proxy, str]:
    proxy = Proxy(urlsplit(rig.redis_url).port or 6379)
    await proxy.mend()
    return proxy, f"redis://127.0.0.1:{proxy.port}/0"


def test_a_stream_over_an_outage_of_the_store_loses_and_repeats_nothing(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=50.0)
        proxy, url = await proxied(rig)
        async with rig.working(engine.url, redis_url=url) as worker:
            await rig.submit("j1", tokens=100)
            await rig.becomes(lambda: engine.batch.running == 1)
            await proxy.cut()
            # The engine goes on to its end, and then the store comes back.
            await rig.becomes(lambda: worker._link.away)
            await rig.becomes(lambda: engine.batch.seen.answered == 1)
            assert (await rig.job("j1")).state is JobState.RUNNING
            await proxy.mend()
            *chunks, _ = await rig.output("j1")
            await proxy.cut()
            await proxy.mend()
            # And it claims again.
            await rig.submit("j2", tokens=2)
            await rig.output("j2")
        await proxy.cut()
        texts = [json.loads(c.data)["choices"][0]["delta"]["content"] for c in chunks]
        assert texts == [f" w{i}" for i in range(100)]
        assert (await rig.job("j1")).attempt == 1

    rig.run(body)


def test_a_worker_back_after_its_lease_ran_out_hears_that_it_lost_the_job(rig: Rig) -> None:
    async def body() -> None:
        engine = rig.engine(tokens_per_s=20.0)
        proxy, url = await proxied(rig)
        times: dict[str, Any] = {"lease_ms": 2000, "beat_ms": 100, "tick_ms": 100}
        settings = rig.settings(engine.url, redis_url=url, **times)
        async with rig.working(engine.url, redis_url=url, **times) as worker:
            await rig.submit("j1", tokens=5000)
            await rig.becomes(lambda: engine.batch.running == 1)
            await proxy.cut()
            other = rig.open_store(settings.model_copy(update={"redis_url": rig.redis_url}))

            async def stolen() -> bool:
                await other.tick(rig.queue)
                return bool(await other.claim(rig.queue, worker_id="thief", count=1))

            await rig.until(stolen)
            assert engine.batch.seen.aborted == 0
            await proxy.mend()
            await rig.becomes(lambda: engine.batch.seen.aborted == 1)
            await rig.becomes(lambda: worker.metrics.leases_lost._value.get() == 1)
            await other.aclose()
        await proxy.cut()
        entries = await rig.store.read_output(rig.queue, "j1")
        assert [e.kind for e in entries if e.attempt == 2] == [EntryKind.ATTEMPT]

    rig.run(body)
