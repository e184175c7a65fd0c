"""Asks the predictor how long an answer will be, within a deadline; a dead one stops nobody.

Called by `intake` once per job. No answer in time means no prediction, and the job is priced at
its service's median length; an answer that comes late still gives it the right price.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

import aiohttp
from pydantic import ValidationError
from yarl import URL

from lengthwise_contract.prediction import (
    PredictBatchRequest,
    PredictBatchResponse,
    Prediction,
    PredictRequest,
)
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.prediction.circuit_breaker import Breaker

log = logging.getLogger(__name__)


class Fallback(StrEnum):
    """Why a job has no prediction."""

    OFF = "off"  #: No predictor is configured.
    NO_TEXT = "no_text"  #: The prompt is token ids or images only.
    TIMEOUT = "timeout"  #: No answer within the deadline.
    ERROR = "error"  #: It cannot be reached, or answered with an error.
    OPEN = "open"  #: It failed lately, and was not asked.


#: Prompts of one call. A call's prompts wait for each other, so they must fit the deadline.
MAX_BATCH = 32

#: A call is given up after so many times the deadline of a job; what comes in between is too late
#: for the jobs, which have gone on without it, and tells that the predictor lives but is slow.
GIVE_UP_AFTER = 5

#: Calls under way at once: one is answered while the next is on its way.
MAX_CALLS = 2

_KEEP_IDLE_S = 4.0

#: Questions whose jobs have gone on without an answer, and that are still to be answered, at most.
MAX_LATE = 1000


@dataclass
class _Question:
    """One job's prompt, in line for the next call."""

    request: PredictRequest
    answer: asyncio.Future[Prediction | Fallback]
    late: bool = False  #: Its job has gone on without the answer.


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What there was at the deadline; `late`: what may still come (cancel it to give it up)."""

    prediction: Prediction | None
    late: asyncio.Future[Prediction | Fallback] | None = None


class PredictorClient:
    """One predictor, its connections and its breaker.

    What comes while calls are under way is asked in the next one: a burst of a hundred jobs is a
    handful of calls, or most of them would miss the deadline for the cost of HTTP alone. A lone
    job never waits for company.

    Args:
        base_url: Where it listens; None: there is none, and nothing is ever asked.
        timeout_ms: Longest wait for one prediction, connecting included, ms.
        on_answer: Told how long each answered job waited for it, s.
        on_fallback: Told of each job without a prediction, and why.
    """

    def __init__(
        self,
        base_url: str | None,
        *,
        timeout_ms: float,
        on_answer: Callable[[float], None],
        on_fallback: Callable[[Fallback], None],
    ) -> None:
        self._url = None if base_url is None else _batch_url(base_url)
        self._http: aiohttp.ClientSession | None = None  # made by the first call, in its loop
        self._timeout_s = timeout_ms / 1000
        self._on_answer = on_answer
        self._on_fallback = on_fallback
        self._breaker = Breaker()
        self._line: deque[_Question] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._late_line: deque[_Question] = deque()
        self._late = 0
        self._asking = 0  #: Calls under way. (A task that has ended is still in `_calls`.)

    async def ask(self, model: str, text: str | None) -> Asked:
        """The predicted length of the answer to `text`; its absence is counted."""
        started_s = time.monotonic()
        answer = await self._ask(model, text, started_s)
        if isinstance(answer, Prediction):
            self._on_answer(time.monotonic() - started_s)
            return Asked(prediction=answer)
        if isinstance(answer, Fallback):
            self._on_fallback(answer)
            return Asked(prediction=None)
        self._on_fallback(Fallback.TIMEOUT)
        return Asked(prediction=None, late=answer)

    async def _ask(
        self, model: str, text: str | None, now_s: float
    ) -> Prediction | Fallback | asyncio.Future[Prediction | Fallback]:
        if self._url is None:
            return Fallback.OFF
        if not text:
            return Fallback.NO_TEXT
        if not self._breaker.allows(now_s):
            return Fallback.OPEN
        question = _Question(
            PredictRequest(model=model, prompt=text), asyncio.get_running_loop().create_future()
        )
        self._line.append(question)
        if self._asking < MAX_CALLS:
            self._asking += 1
            call = asyncio.create_task(self._call(self._url))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        await asyncio.wait({question.answer}, timeout=self._timeout_s)
        late_s = time.monotonic() - now_s - self._timeout_s
        if not question.answer.done() and late_s > 0:
            # A loop that was busy (a burst is being read) meets the timer before an answer that
            # has long been in the socket: as late as we are ourselves, it may be.
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

    async def _call(self, url: str) -> None:
        """Ask what is in line, until nothing is."""
        self._http = self._http or _session()
        try:
            await self._ask_line(self._http, url)
        finally:
            self._asking -= 1

    async def _ask_line(self, http: aiohttp.ClientSession, url: str) -> None:
        while batch := self._next_batch():
            in_time = any(not question.late for question in batch)
            body = PredictBatchRequest(inputs=[question.request for question in batch])
            answers: Sequence[Prediction | Fallback]
            try:
                async with asyncio.timeout(GIVE_UP_AFTER * self._timeout_s):
                    sent = body.model_dump_json(exclude_none=True).encode()
                    async with http.post(url, data=sent, allow_redirects=False) as got:
                        answers = _read(got.status, await got.read(), len(batch))
            except TimeoutError:
                self._failed("no answer")
                answers = [Fallback.TIMEOUT] * len(batch)
            except (aiohttp.ClientError, _BadAnswer) as exc:
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
        while self._line and len(batch) < MAX_BATCH:
            question = self._line.popleft()
            if not question.answer.done():
                (self._late_line if question.late else batch).append(question)
        # Those that are late anyway are asked only when the predictor has nothing else to do: in a
        # call with the others they would make those late too.
        if not batch and self._asking <= 1:
            while self._late_line and len(batch) < MAX_BATCH:
                question = self._late_line.popleft()
                if not question.answer.done():
                    batch.append(question)
        return batch

    async def aclose(self) -> None:
        """Close the connections."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def _failed(self, reason: str) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed(time.monotonic())
        if self._breaker.is_open and not was_open:
            log.warning("predictor given up for now", extra={"reason": reason})


class Predictors:
    """The predictors of all queues: the one that most share, and those of a queue's own.

    Each has connections and a breaker of its own, so that a dead one costs only its queue.

    Args:
        shared_url: Of the shared one; None: there is none.
        make: Makes the client of a URL.
    """

    def __init__(
        self, shared_url: str | None, make: Callable[[str | None], PredictorClient]
    ) -> None:
        self._make = make
        self._shared = make(shared_url)
        self._own: dict[str, PredictorClient] = {}

    def of(self, settings: QueueSettings) -> PredictorClient:
        """The predictor that a queue with these settings asks."""
        url = settings.predictor_url
        if url is None:
            return self._shared
        # Only an admin sets URLs, so there are about as many as queues.
        if url not in self._own:
            self._own[url] = self._make(url or None)
        return self._own[url]

    async def aclose(self) -> None:
        """Close the connections of all."""
        await asyncio.gather(*(c.aclose() for c in (self._shared, *self._own.values())))


def _batch_url(base_url: str) -> str:
    """Where batches are asked at this predictor.

    Raises:
        ValueError: `base_url` is not an http or https URL.
    """
    try:
        url = URL(base_url)
        usable = url.scheme in ("http", "https") and bool(url.host)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8081, got {base_url!r}")
    return f"{base_url.rstrip('/')}/v1/predict/batch"


def _session() -> aiohttp.ClientSession:
    """Keep-alive connections to the predictor."""
    return aiohttp.ClientSession(
        headers={"Content-Type": "application/json"},
        skip_auto_headers=("Accept-Encoding",),
        timeout=aiohttp.ClientTimeout(total=None),  # a call has a limit, and is cancelled by it
        # No number of connections is too large: the calls are limited. Idle ones are dropped before
        # the predictor does it (uvicorn waits 5 s), or a question would meet a closing one.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_IDLE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class _BadAnswer(Exception):
    """The predictor answered, but with no prediction."""


def _read(status: int, content: bytes, asked: int) -> list[Prediction]:
    if status != HTTPStatus.OK:
        raise _BadAnswer(f"the predictor answered {status}")
    try:
        predictions = PredictBatchResponse.model_validate_json(content).predictions
    except ValidationError as exc:
        # Not the error's text: it quotes what was sent.
        raise _BadAnswer(f"the predictions have {exc.error_count()} wrong fields") from None
    if len(predictions) != asked:
        raise _BadAnswer(f"{asked} prompts were asked, {len(predictions)} were answered")
    return predictions
