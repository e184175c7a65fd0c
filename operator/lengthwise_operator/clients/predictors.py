"""Client of the predictors: whether each is ready, and which model it uses for a queue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from lengthwise_operator.observed import PredictorFacts

#: Longest wait for an answer, s.
_TIMEOUT_S = 3.0

#: An answer is reused for this long, s: the version of a predictor rarely changes.
_REUSE_S = 15.0


class PredictorClient:
    """Asks predictors for their readiness, each at most every 15 s."""

    def __init__(self) -> None:
        """Ask nothing yet."""
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)
        self._answers: dict[str, tuple[float, Mapping[str, Any] | str]] = {}

    async def ask(self, url: str, queue: str) -> PredictorFacts:
        """Report whether a predictor is ready, and which model it uses for a queue."""
        recent = self._answers.get(url)
        if recent is None or time.monotonic() - recent[0] >= _REUSE_S:
            recent = (time.monotonic(), await self._ask(url))
            self._answers[url] = recent
        answer = recent[1]
        if isinstance(answer, str):
            return PredictorFacts(version="", problem=answer)
        return predictor_facts(answer, queue)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, url: str) -> Mapping[str, Any] | str:
        """Return the body of its `/readyz`, or the problem as a text."""
        try:
            answer = await self._http.get(f"{url.rstrip('/')}/readyz")
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return f"{url} does not answer ({type(exc).__name__}: {exc})"
        if answer.is_error:
            return f"{url} answers {answer.status_code}"
        try:
            body = answer.json()
        except ValueError:
            body = None
        return body if isinstance(body, dict) else {}


def predictor_facts(body: Mapping[str, Any], queue: str) -> PredictorFacts:
    """Extract what a ready predictor reports about the model of one queue.

    Args:
        body: The body of its `/readyz`. Another implementation, or an earlier version, may lack
            `models`.
        queue: The name of the queue, which names an LLM in the predictor's settings.
    """
    models = body.get("models")
    named = models if isinstance(models, dict) else {}
    own = named.get(queue, named.get("default"))
    if not isinstance(own, dict):
        own = {}
    version = own.get("model_version", body.get("model_version", ""))
    return PredictorFacts(version=str(version), problem="", refused=str(own.get("problem", "")))
