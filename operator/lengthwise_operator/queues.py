"""The queue service and the predictors, asked over HTTP.

One call tells of all queues, so that two hundred services cost as many calls as one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from lengthwise_operator.errors import Refused, Unreachable
from lengthwise_operator.metrics import Metrics
from lengthwise_operator.observed import PredictorFacts, QueueFacts

#: What the operator waits for an answer, s.
_TIMEOUT_S = 10.0

#: An answer of a predictor is good for so long, s: its version hardly ever changes.
_PREDICTOR_S = 15.0


class QueueService:
    """The queue service as the operator uses it.

    Args:
        base_url: Where it listens.
        api_key: Of an admin; None: it asks for none.
        metrics: Where to count.
    """

    def __init__(self, base_url: str, api_key: str | None, metrics: Metrics) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
        )
        self._metrics = metrics

    async def read_all(self) -> dict[str, QueueFacts]:
        """Every queue, by its name.

        Raises:
            Refused: The key is wrong.
            Unreachable: No answer.
        """
        try:
            answer = await self._call("GET", "/v1/queues")
        except (Refused, Unreachable):
            self._metrics.queue_polls.labels("failed").inc()
            raise
        self._metrics.queue_polls.labels("ok").inc()
        if any("settings" not in view for view in answer.get("data", [])):
            raise Refused(
                "the queue service takes the operator for a tenant: give it an admin's key in "
                "LENGTHWISE_OPERATOR_QUEUE_API_KEY"
            )
        return {view["name"]: facts(view) for view in answer.get("data", [])}

    async def put(self, name: str, settings: Mapping[str, Any]) -> QueueFacts:
        """Make a queue, or give it these settings; what they do not speak of stays as it is there.

        As it is there now: what was seen at the last look may be some seconds old, and somebody
        may have set something since.

        Raises:
            Refused: The settings are wrong; the message says which.
            Unreachable: No answer.
        """
        now = (await self.read_all()).get(name)
        whole = {**(now.settings if now else {}), **settings}
        return facts(await self._call("PUT", f"/v1/queues/{quote(name)}", json=whole))

    async def command(self, name: str, word: str) -> None:
        """Say `drain` or `resume` to a queue.

        Raises:
            Refused: It cannot; for one, it is of a version without this.
            Unreachable: No answer.
        """
        await self._call("POST", f"/v1/queues/{quote(name)}/{word}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, path: str, **how: Any) -> Any:
        try:
            answer = await self._http.request(method, path, **how)
        except httpx.HTTPError as exc:
            raise Unreachable(
                f"the queue service at {self._http.base_url} does not answer "
                f"({type(exc).__name__}: {exc})"
            ) from exc
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unreachable(
                f"the queue service answered {answer.status_code}: {_message(answer)}"
            )
        if answer.is_error:
            raise Refused(f"the queue service answered {answer.status_code}: {_message(answer)}")
        return answer.json() if answer.content else {}


class Predictors:
    """Asks predictors for their readiness, each at most every 15 s."""

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self._http = httpx.AsyncClient(timeout=3.0, trust_env=False)
        self._known: dict[str, tuple[float, Mapping[str, Any] | str]] = {}

    async def ask(self, url: str, queue: str) -> PredictorFacts:
        """Whether it is well, and which model it has for a queue."""
        known = self._known.get(url)
        if known is None or time.monotonic() - known[0] >= _PREDICTOR_S:
            known = (time.monotonic(), await self._ask(url))
            self._known[url] = known
        said = known[1]
        if isinstance(said, str):
            return PredictorFacts(version="", problem=said)
        return predictor_facts(said, queue)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, url: str) -> Mapping[str, Any] | str:
        """What it says of itself, or why it says nothing."""
        try:
            answer = await self._http.get(f"{url.rstrip('/')}/readyz")
        except httpx.HTTPError as exc:
            return f"{url} does not answer ({type(exc).__name__}: {exc})"
        if answer.is_error:
            return f"{url} answers {answer.status_code}"
        try:
            said = answer.json()
        except ValueError:
            said = None
        return said if isinstance(said, dict) else {}


def predictor_facts(said: Mapping[str, Any], queue: str) -> PredictorFacts:
    """What a predictor that is well says of the model of one queue.

    Args:
        said: Its `/readyz`. One of another make, or of an earlier version, lacks `models`.
        queue: The name of the queue, as that of an LLM in the predictor's settings.
    """
    models = said.get("models")
    named = models if isinstance(models, dict) else {}
    own = named.get(queue, named.get("default"))
    if not isinstance(own, dict):
        own = {}
    version = own.get("model_version", said.get("model_version", ""))
    return PredictorFacts(version=str(version), problem="", refused=str(own.get("problem", "")))


def facts(view: Mapping[str, Any]) -> QueueFacts:
    """What a queue's view tells; fields that an older service lacks get what it then does."""
    settings = view.get("settings", {})
    return QueueFacts(
        depth=int(view.get("depth", 0)),
        in_flight=int(view.get("in_flight", 0)),
        backlog_tokens=float(view.get("backlog_tokens", 0)),
        ms_per_token=float(view.get("ms_per_token", 0)),
        backlog_s=view.get("backlog_seconds"),
        oldest_wait_s=float(view.get("oldest_wait_seconds", 0)),
        workers=len(view.get("workers", ())),
        mode=view.get("mode", "open"),
        active_policy=view.get("active_policy") or settings.get("policy", ""),
        rank_accuracy=view.get("rank_accuracy"),
        fallback_active=bool(view.get("fallback", False)),
        settings=settings,
    )


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
