"""Asks the predictor how long an answer will be, within a deadline; a dead one stops nobody.

Called by `intake` once per job. No answer in time means no prediction, and the job is priced at
its service's median length.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from enum import StrEnum

import httpx
from pydantic import ValidationError

from lengthwise_contract.api import Prediction, PredictRequest
from lengthwise_queue.breaker import Breaker

log = logging.getLogger(__name__)


class Fallback(StrEnum):
    """Why a job has no prediction."""

    OFF = "off"  #: No predictor is configured.
    NO_TEXT = "no_text"  #: The prompt is token ids or images only.
    TIMEOUT = "timeout"  #: No answer within the deadline.
    ERROR = "error"  #: It cannot be reached, or answered with an error.
    OPEN = "open"  #: It failed lately, and was not asked.


class PredictorClient:
    """One predictor, its connections and its breaker.

    Args:
        base_url: Where it listens; None: there is none, and nothing is ever asked.
        timeout_ms: Longest wait for one prediction, connecting included, ms.
        on_answer: Told how long each answered call took, s.
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
        self._http = None if base_url is None else _client(base_url)
        self._timeout_s = timeout_ms / 1000
        self._on_answer = on_answer
        self._on_fallback = on_fallback
        self._breaker = Breaker()

    async def predict(self, model: str, text: str | None) -> Prediction | None:
        """The predicted length of the answer to `text`, or None (which is counted)."""
        if self._http is None:
            self._on_fallback(Fallback.OFF)
            return None
        if not text:
            self._on_fallback(Fallback.NO_TEXT)
            return None
        started_s = time.monotonic()
        if not self._breaker.allows(started_s):
            self._on_fallback(Fallback.OPEN)
            return None
        request = PredictRequest(model=model, prompt=text)
        body = request.model_dump_json(exclude_none=True).encode()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._http.post("/v1/predict", content=body)
            prediction = _read(answer)
        except TimeoutError:
            self._failed(Fallback.TIMEOUT, f"no answer within {self._timeout_s * 1000} ms")
            return None
        except (httpx.HTTPError, _BadAnswer) as exc:
            self._failed(Fallback.ERROR, str(exc))
            return None
        self._on_answer(time.monotonic() - started_s)
        self._breaker.succeeded()
        return prediction

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    def _failed(self, why: Fallback, reason: str) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed(time.monotonic())
        if self._breaker.is_open and not was_open:
            log.warning("predictor given up for now", extra={"reason": reason})
        self._on_fallback(why)


def _client(base_url: str) -> httpx.AsyncClient:
    """Keep-alive connections to the predictor.

    Raises:
        ValueError: `base_url` is not an http or https URL.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8081, got {base_url!r}")
    return httpx.AsyncClient(
        base_url=url,
        headers={"Content-Type": "application/json"},
        timeout=httpx.Timeout(None),  # the whole call has a limit, and is cancelled by it
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        trust_env=False,  # a proxy has no business between a service and its predictor
    )


class _BadAnswer(Exception):
    """The predictor answered, but with no prediction."""


def _read(answer: httpx.Response) -> Prediction:
    if answer.status_code != httpx.codes.OK:
        raise _BadAnswer(f"the predictor answered {answer.status_code}")
    try:
        return Prediction.model_validate_json(answer.content)
    except ValidationError as exc:
        # Not the error's text: it quotes what was sent.
        raise _BadAnswer(f"the prediction has {exc.error_count()} wrong fields") from None
