"""One predictor's HTTP connections: send requests, read predictions. Called by `client`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
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
from lengthwise_contract.prompts import clip, render_request

log = logging.getLogger(__name__)

#: How long an idle connection is kept, s.
_KEEP_IDLE_S = 4.0

#: A predictor that refused the facts of requests is offered them again after this, s.
PLAIN_S = 60.0

#: The statuses by which a predictor refuses fields that it does not know.
_REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


class BadAnswer(Exception):
    """The predictor answered, but not with the predictions."""


class PredictorConnection:
    """The connections to one predictor. They have no time limit of their own."""

    def __init__(self, base_url: str) -> None:
        """Open nothing before the first request.

        Raises:
            ValueError: `base_url` is not an http or https URL.
        """
        self._url = _batch_url(base_url)
        self._http: aiohttp.ClientSession | None = None  # made by the first call, in its loop
        self._plain_until_s = float("-inf")  #: Until then the predictor gets no facts.

    async def predict(self, requests: Sequence[PredictRequest]) -> list[Prediction]:
        """Send requests, and read the predictions.

        A predictor of an earlier release, or of another maker, refuses facts that it does not know.
        Then it gets the text alone, and is offered the facts again after a while: it may have been
        replaced.

        Raises:
            BadAnswer: It answered, but not with the predictions.
            aiohttp.ClientError: It cannot be reached.
        """
        self._http = self._http or _session()
        plain = time.monotonic() < self._plain_until_s
        while True:
            inputs = [_plain(one) for one in requests] if plain else list(requests)
            sent = PredictBatchRequest(inputs=inputs).model_dump_json(exclude_defaults=True)
            async with self._http.post(self._url, data=sent.encode(), allow_redirects=False) as got:
                content = await got.read()
            if got.status not in _REFUSED or plain or inputs == [_plain(one) for one in requests]:
                return _read(got.status, content, len(requests))
            plain, self._plain_until_s = True, time.monotonic() + PLAIN_S
            log.warning("predictor refuses the facts of requests, it gets their text alone")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()


def _batch_url(base_url: str) -> str:
    """Return the URL of the predictor for a batch of prompts.

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
    """Make a session with keep-alive connections to the predictor."""
    return aiohttp.ClientSession(
        headers={"Content-Type": "application/json"},
        skip_auto_headers=("Accept-Encoding",),
        timeout=aiohttp.ClientTimeout(total=None),  # the call itself has a limit
        # The calls are limited, so the connections need no limit. Idle ones are closed before the
        # predictor closes them (uvicorn: after 5 s), or a question would meet a closing one.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_IDLE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _plain(request: PredictRequest) -> PredictRequest:
    """Return a request with its text alone, as the first release of the predictor takes it."""
    text = request.prompt
    if text is None:
        text = clip(render_request(request.messages or []))
    return PredictRequest(model=request.model, prompt=text)


def _read(status: int, content: bytes, sent: int) -> list[Prediction]:
    if status != HTTPStatus.OK:
        raise BadAnswer(f"the predictor answered {status}")
    try:
        predictions = PredictBatchResponse.model_validate_json(content).predictions
    except ValidationError as exc:
        # The error's own text would quote the prompt.
        raise BadAnswer(f"the predictions have {exc.error_count()} wrong fields") from None
    if len(predictions) != sent:
        raise BadAnswer(f"{sent} prompts were sent, {len(predictions)} predictions came")
    return predictions
