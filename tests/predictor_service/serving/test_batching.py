"""The micro-batcher: no request waits for others, is lost, or gets another request's rows.

The model is replaced by one whose pass can be held open, because the tests check which texts are in
a pass.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from lengthwise_predictor.batching import Batcher, Row
from lengthwise_predictor.errors import NotReady, Overloaded
from lengthwise_predictor.model import Encoded, LengthModel


class HeldModel:
    """Returns a text's length, but only while its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()
        self.sizes: list[int] = []

    def encode(self, text: str, llm: str) -> Encoded:
        if text == "poison":
            raise RuntimeError("poison")
        return Encoded([1] * len(text), np.zeros(1, dtype=np.float32), 0)

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        self.started.set()
        assert self.gate.wait(30)
        return np.array([[len(e.ids)] * 4 for e in batch], dtype=np.float32)


def batcher(model: HeldModel, *, max_batch: int = 8, max_waiting: int = 100) -> Batcher:
    return Batcher(
        cast(LengthModel, model),
        max_batch=max_batch,
        latency_target_ms=60_000,  # passes are held open: the batch size must not adapt to that
        max_waiting=max_waiting,
    )


def lengths(rows: Sequence[Row]) -> list[int]:
    return [int(r.numbers[0]) for r in rows]


async def started(model: HeldModel) -> None:
    assert await asyncio.to_thread(model.started.wait, 30)


def test_a_lone_request_runs_at_once_and_later_ones_run_together() -> None:
    async def scenario() -> None:
        model = HeldModel()
        b = batcher(model)
        b.start()
        first = asyncio.create_task(b.predict([("a", "m")]))
        await started(model)  # the pass has started, with no other request
        later = [asyncio.create_task(b.predict([("b" * n, "m")])) for n in range(2, 7)]
        await asyncio.sleep(0)
        assert b.waiting == 5
        model.gate.set()
        assert lengths(await first) == [1]
        assert [lengths(await t) for t in later] == [[2], [3], [4], [5], [6]]
        assert model.sizes == [1, 5]
        assert b.waiting == 0
        await b.stop()

    asyncio.run(scenario())


def test_a_large_request_is_served_in_passes_of_at_most_max_batch() -> None:
    async def scenario() -> None:
        model = HeldModel()
        model.gate.set()
        b = batcher(model, max_batch=8)
        b.start()
        rows = await b.predict([("x" * n, "m") for n in range(1, 21)])
        assert lengths(rows) == list(range(1, 21))
        assert model.sizes == [8, 8, 4]
        await b.stop()

    asyncio.run(scenario())


def test_a_cancelled_request_is_not_run() -> None:
    async def scenario() -> None:
        model = HeldModel()
        b = batcher(model)
        b.start()
        first = asyncio.create_task(b.predict([("a", "m")]))
        await started(model)
        left = asyncio.create_task(b.predict([("bb", "m")]))
        stays = asyncio.create_task(b.predict([("ccc", "m")]))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        model.gate.set()
        assert lengths(await stays) == [3]
        await first
        assert model.sizes == [1, 1]
        assert b.waiting == 0
        await b.stop()

    asyncio.run(scenario())


def test_above_max_waiting_a_request_is_refused_and_the_message_says_what_to_do() -> None:
    async def scenario() -> None:
        model = HeldModel()
        b = batcher(model, max_waiting=2)
        b.start()
        tasks = [asyncio.create_task(b.predict([("a", "m")]))]
        await started(model)
        tasks += [asyncio.create_task(b.predict([("a", "m")])) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="add replicas") as refused:
            await b.predict([("a", "m")])
        assert refused.value.retry_after_s == 1
        model.gate.set()
        await asyncio.gather(*tasks)
        await b.predict([("a", "m")])  # once the queue is short again, it is served
        await b.stop()

    asyncio.run(scenario())


def test_a_failed_pass_fails_only_its_own_requests() -> None:
    async def scenario() -> None:
        model = HeldModel()
        model.gate.set()
        b = batcher(model)
        b.start()
        with pytest.raises(RuntimeError, match="poison"):
            await b.predict([("poison", "m")])
        assert lengths(await b.predict([("fine", "m")])) == [4]
        await b.stop()

    asyncio.run(scenario())


def test_a_stopped_batcher_refuses_waiting_and_new_requests() -> None:
    async def scenario() -> None:
        model = HeldModel()
        b = batcher(model)
        with pytest.raises(NotReady):
            await b.predict([("early", "m")])
        b.start()
        running = asyncio.create_task(b.predict([("a", "m")]))
        await started(model)
        waiting = asyncio.create_task(b.predict([("b", "m")]))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(b.stop())
        await asyncio.sleep(0)
        model.gate.set()
        await stopping
        got = await asyncio.gather(running, waiting, return_exceptions=True)
        assert isinstance(got[0], asyncio.CancelledError)
        assert isinstance(got[1], NotReady)
        with pytest.raises(NotReady):
            await b.predict([("late", "m")])

    asyncio.run(scenario())
