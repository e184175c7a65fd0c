"""Ask the predictor how long an answer will be, within a deadline.

Called by `admission.submit` once per job. Without an answer in time the job has no prediction, and
is priced at the median length of its queue; a late answer still corrects the price. A predictor
that does not answer delays no job by more than the deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import aiohttp

from lengthwise_contract.prediction import (
    Prediction,
    PredictRequest,
)
from lengthwise_queue.prediction.circuit_breaker import Breaker
from lengthwise_queue.prediction.connection import BadAnswer, PredictorConnection

log = logging.getLogger(__name__)


class Fallback(StrEnum):
    """The reasons why a job has no prediction."""

    OFF = "off"  #: No predictor is configured.
    NO_TEXT = "no_text"  #: The prompt is token ids or images only.
    TIMEOUT = "timeout"  #: No answer within the deadline.
    ERROR = "error"  #: It cannot be reached, or answered with an error.
    OPEN = "open"  #: It failed before, so no request was sent.


#: The most prompts of one call. They wait for each other, so all must fit into the deadline.
MAX_BATCH = 32

#: A call is cancelled after this many times the deadline of a job. An answer after the deadline is
#: too late for its jobs, but shows that the predictor works and is slow.
GIVE_UP_AFTER = 5

#: The most calls at the same time: the predictor works on one while the next is sent.
MAX_CALLS = 2

#: The most late questions: their jobs were submitted without a prediction, and may still get one.
MAX_LATE = 1000


@dataclass
class _Question:
    """One job's prompt, queued for the next call."""

    request: PredictRequest
    answer: asyncio.Future[Prediction | Fallback]
    late: bool = False  #: Its job was submitted without the answer.


@dataclass(frozen=True, kw_only=True)
class PredictionAttempt:
    """The result of a request for a prediction, as it is at the deadline.

    Attributes:
        prediction: None: there is no prediction.
        late: A prediction that may still come; the caller awaits or cancels it.
    """

    prediction: Prediction | None
    late: asyncio.Future[Prediction | Fallback] | None = None


class PredictorClient:
    """One predictor, its connections and its circuit breaker.

    The prompts that arrive during a call are sent together in the next one: a burst of a hundred
    jobs is a few calls. With one call each, most would miss the deadline for the cost of HTTP
    alone. A single job never waits for others.

    Args:
        base_url: Where the predictor listens; None: there is no predictor.
        timeout_ms: The longest wait for one prediction, connecting included, ms.
        on_answer: Called for each prediction, with how long its job waited for it, s.
        on_fallback: Called for each job without a prediction, with the reason.
    """

    def __init__(
        self,
        base_url: str | None,
        *,
        timeout_ms: float,
        on_answer: Callable[[float], None],
        on_fallback: Callable[[Fallback], None],
    ) -> None:
        self._connection = None if base_url is None else PredictorConnection(base_url)
        self._timeout_s = timeout_ms / 1000
        self._on_answer = on_answer
        self._on_fallback = on_fallback
        self._breaker = Breaker()
        self._queue: deque[_Question] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._late_queue: deque[_Question] = deque()
        self._late = 0
        self._asking = 0  #: Running calls. (A task that has ended is still in `_calls`.)

    async def ask(self, request: PredictRequest | None) -> PredictionAttempt:
        """Predict the length of one answer; count the jobs without a prediction.

        Args:
            request: None: the job has no text.
        """
        started_s = time.monotonic()
        answer = await self._ask(request, started_s)
        if isinstance(answer, Prediction):
            self._on_answer(time.monotonic() - started_s)
            return PredictionAttempt(prediction=answer)
        if isinstance(answer, Fallback):
            self._on_fallback(answer)
            return PredictionAttempt(prediction=None)
        self._on_fallback(Fallback.TIMEOUT)
        return PredictionAttempt(prediction=None, late=answer)

    async def _ask(
        self, request: PredictRequest | None, now_s: float
    ) -> Prediction | Fallback | asyncio.Future[Prediction | Fallback]:
        if self._connection is None:
            return Fallback.OFF
        if request is None:
            return Fallback.NO_TEXT
        if not self._breaker.allows(now_s):
            return Fallback.OPEN
        question = _Question(request, asyncio.get_running_loop().create_future())
        self._queue.append(question)
        if self._asking < MAX_CALLS:
            self._asking += 1
            call = asyncio.create_task(self._call(self._connection))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        await asyncio.wait({question.answer}, timeout=self._timeout_s)
        late_s = time.monotonic() - now_s - self._timeout_s
        if not question.answer.done() and late_s > 0:
            # An event loop that was busy (it reads a burst) runs the timer before it reads an
            # answer that is in the socket already. So the answer may be as late as this task is.
            await asyncio.wait({question.answer}, timeout=min(late_s, self._timeout_s))
        if not question.answer.done():
            question.late = True
            if self._late >= MAX_LATE:
                question.answer.cancel()
                return Fallback.TIMEOUT
            self._late += 1
            question.answer.add_done_callback(self._late_done)
            return question.answer
        return question.answer.result()

    def _late_done(self, _: object) -> None:
        self._late -= 1

    async def _call(self, connection: PredictorConnection) -> None:
        """Send the queued questions, until there are none."""
        try:
            await self._ask_queue(connection)
        finally:
            self._asking -= 1

    async def _ask_queue(self, connection: PredictorConnection) -> None:
        while batch := self._next_batch():
            in_time = any(not question.late for question in batch)
            answers: Sequence[Prediction | Fallback]
            try:
                async with asyncio.timeout(GIVE_UP_AFTER * self._timeout_s):
                    answers = await connection.predict([one.request for one in batch])
            except TimeoutError:
                self._failed("no answer")
                answers = [Fallback.TIMEOUT] * len(batch)
            except (aiohttp.ClientError, BadAnswer) as exc:
                self._failed(str(exc))
                answers = [Fallback.ERROR] * len(batch)
            else:
                if any(not question.late for question in batch):
                    self._breaker.succeeded()
                elif in_time:
                    self._failed("every answer came too late")
            for question, answer in zip(batch, answers, strict=True):
                if not question.answer.done():
                    question.answer.set_result(answer)

    def _next_batch(self) -> list[_Question]:
        batch: list[_Question] = []
        while self._queue and len(batch) < MAX_BATCH:
            question = self._queue.popleft()
            if not question.answer.done():
                (self._late_queue if question.late else batch).append(question)
        # Late questions are sent only when the predictor has nothing else to do: in a call with
        # others they would make those late, too.
        if not batch and self._asking <= 1:
            while self._late_queue and len(batch) < MAX_BATCH:
                question = self._late_queue.popleft()
                if not question.answer.done():
                    batch.append(question)
        return batch

    async def aclose(self) -> None:
        """Close the connections."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._connection is not None:
            await self._connection.aclose()

    def _failed(self, reason: str) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed(time.monotonic())
        if self._breaker.is_open and not was_open:
            log.warning("predictor fails, requests to it are paused", extra={"reason": reason})
