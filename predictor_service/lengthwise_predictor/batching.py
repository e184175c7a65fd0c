"""Micro-batching: texts that arrive during one forward pass are collected for the next.

An idle service starts a pass at once, so a single request never waits for others. Under load the
batch grows to the size that is expected to meet the latency target.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lengthwise_predictor.errors import NotReady, Overloaded
from lengthwise_predictor.model import Encoded, LengthModel

#: Weight of the newest batch in the running estimate of the cost of one text.
SMOOTHING = 0.2

Text = tuple[str, str]


class Row(NamedTuple):
    """What a pass computed for one text.

    Attributes:
        numbers: float32, as `LengthModel.run` returns them.
        ids: The token ids that it read.
    """

    numbers: NDArray[np.float32]
    ids: list[int]


@dataclass
class _WaitingRequest:
    texts: Sequence[Text]
    future: asyncio.Future[list[Row]]
    since_s: float  #: Monotonic.


class Batcher:
    """Feeds a `LengthModel` from one event loop; tokenising and inference run in one thread.

    One thread, not a pool: the pass is compute-bound, so two threads would only take turns.
    """

    def __init__(
        self,
        model: LengthModel,
        *,
        max_batch: int,
        latency_target_ms: float,
        max_waiting: int,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
        on_wait: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Build a batcher; `start` runs it.

        Args:
            model: What to run.
            max_batch: Most texts in a pass.
            latency_target_ms: Passes are sized to take about this, ms.
            max_waiting: Texts that may wait before `submit` refuses more.
            on_batch: Called with the size of each pass and its duration in seconds.
            on_wait: Called with the time that each request waited for its pass, seconds.
        """
        self._model = model
        self._max_batch = max_batch
        self._target_s = latency_target_ms / 1000
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._on_wait = on_wait
        self._quiet = asyncio.Event()  #: Nothing waits, and no pass is running.
        self._quiet.set()
        self._queue: deque[_WaitingRequest] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predict")
        self._task: asyncio.Task[None] | None = None
        self._text_s = 0.0
        self.waiting = 0

    def start(self) -> None:
        """Start serving; call it in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="batcher")

    async def drain(self) -> None:
        """Answer what waits, then end the thread; new requests must not be submitted."""
        while not self._quiet.is_set():
            await self._quiet.wait()
        await self.stop()

    @property
    def limit(self) -> int:
        """The number of texts that a pass is expected to process within the target."""
        if self._text_s <= 0:
            return self._max_batch
        return max(1, min(self._max_batch, int(self._target_s / self._text_s)))

    async def stop(self) -> None:
        """Refuse what waits and end the thread."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        while self._queue:
            future = self._queue.popleft().future
            if not future.done():
                future.set_exception(
                    NotReady("the predictor is shutting down; use another replica")
                )
        self.waiting = 0
        self._thread.shutdown(wait=True)

    async def predict(self, texts: Sequence[Text]) -> list[Row]:
        """Submit texts and wait for their rows."""
        return [row for rows in await self.submit(texts) for row in rows]

    def submit(self, texts: Sequence[Text]) -> asyncio.Future[list[list[Row]]]:
        """Queue (text, LLM name) pairs for the next passes; they are queued when this returns.

        Args:
            texts: At least one pair; more than a batch holds are processed in several passes.

        Returns:
            The rows, in the order of the texts, pass by pass. Cancel the future to give them up.

        Raises:
            NotReady: The batcher is not running.
            Overloaded: Too many texts wait already.
        """
        if self._task is None:
            raise NotReady("the predictor is not serving yet; try again", retry_after_s=1)
        # A request larger than the whole limit is accepted when nothing else waits.
        if self.waiting and self.waiting + len(texts) > self._max_waiting:
            raise Overloaded(
                f"{self.waiting} texts wait for a prediction (max_waiting is {self._max_waiting}); "
                "add replicas, or continue without a prediction",
                retry_after_s=1,
            )
        loop = asyncio.get_running_loop()
        parts = [
            _WaitingRequest(texts[i : i + self._max_batch], loop.create_future(), time.monotonic())
            for i in range(0, len(texts), self._max_batch)
        ]
        self._queue.extend(parts)
        self._quiet.clear()
        self.waiting += len(texts)
        self._arrived.set()
        return asyncio.gather(*(p.future for p in parts))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                batch = self._take()
                if not batch:
                    continue
                try:
                    rows, seconds = await loop.run_in_executor(self._thread, self._pass, batch)
                except asyncio.CancelledError:
                    for w in batch:
                        w.future.cancel()
                    raise
                except Exception as exc:  # a bad batch must not stop the service
                    for w in batch:
                        if not w.future.done():
                            w.future.set_exception(exc)
                    continue
                self._learn(len(rows), seconds)
                start = 0
                for w in batch:
                    if not w.future.done():
                        w.future.set_result(rows[start : start + len(w.texts)])
                    start += len(w.texts)
            self._quiet.set()

    def _take(self) -> list[_WaitingRequest]:
        """Take as many requests from the queue's head as fit; drop those that were cancelled."""
        room, now_s = self.limit, time.monotonic()
        batch: list[_WaitingRequest] = []
        while self._queue and (not batch or len(self._queue[0].texts) <= room):
            w = self._queue.popleft()
            self.waiting -= len(w.texts)
            if w.future.done():
                continue
            batch.append(w)
            self._on_wait(now_s - w.since_s)
            room -= len(w.texts)
        return batch

    def _pass(self, batch: list[_WaitingRequest]) -> tuple[list[Row], float]:
        began = time.perf_counter()
        encoded: list[Encoded] = [self._model.encode(*t) for w in batch for t in w.texts]
        numbers = self._model.run(encoded)
        rows = [Row(row, e.ids) for row, e in zip(numbers, encoded, strict=True)]
        return rows, time.perf_counter() - began

    def _learn(self, size: int, seconds: float) -> None:
        cost = seconds / size
        self._text_s += SMOOTHING * (cost - self._text_s) if self._text_s else cost
        self._on_batch(size, seconds)
