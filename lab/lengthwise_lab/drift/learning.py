"""The learner of the queue service beside a simulated stream: the same code, the real store.

The stream has no prompts. A request's view is what its prediction says: the median and the spread.
So what can be learned is how the predictions of the last requests and their lengths go together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from dataclasses import replace

import numpy as np

from lengthwise_lab.drift.streams import StreamRequest
from lengthwise_learning.evidence import Submission
from lengthwise_learning.view import View
from lengthwise_queue.learning.forecaster import Forecasted, Forecaster, learned_prediction
from lengthwise_queue.learning.learner import Learner
from lengthwise_queue.scheduling.snapshot import QueueCache, QueueSnapshot
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.store import JobStore

#: Columns of each part of a view; the parts that describe a prompt are empty.
_WIDTHS = (1, 3, 1, 1, 1, 1)

#: The usual distance between quantiles, log tokens, about which the spread is given.
_USUAL_SPREAD = 0.6


class StreamLearner:
    """Learns from one stream."""

    def __init__(self, store: JobStore, cache: QueueCache, queue: str) -> None:
        learning = LearningStore(store.client)
        self._queue = queue
        self._tasks: set[asyncio.Task[None]] = set()
        self._forecaster = Forecaster(learning, key=b"drift has no secrets", start=self._start)
        self._learner = Learner(store, learning, cache, self._forecaster)

    async def check(self) -> None:
        """Learn and judge, as the queue service does every few seconds, and read what is new."""
        await self._learner.check()
        await self._forecaster.fits.read(self._queue)
        await asyncio.gather(*self._tasks)

    def forecast(self, snapshot: QueueSnapshot, request: StreamRequest) -> Forecasted:
        """Return what was learned about a request."""
        submission = Submission(
            view=_view(request),
            llm="drift",
            static=math.log(request.p50_tokens),
        )
        learned = self._forecaster.fits.of(self._queue, snapshot.stats.fit)
        made = learned_prediction(snapshot, learned, submission)
        kept = replace(submission, learned=made.learned, young=made.young)
        return Forecasted(learning=made, submission=kept.pack())

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _view(request: StreamRequest) -> View:
    p10, p50, p90 = map(math.log, (request.p10_tokens, request.p50_tokens, request.p90_tokens))
    spread = [one - _USUAL_SPREAD for one in (p50 - p10, p90 - p50, 0.0)]
    numbers = [p50, *spread, 0, 0, 0, 0]
    vector = np.array(numbers, dtype=np.float16).astype(np.float32)
    return View(1, _WIDTHS, vector, np.zeros(0, dtype=np.uint16))
