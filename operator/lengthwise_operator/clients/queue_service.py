"""Client of the queue service's API.

One call reads all queues, so that two hundred services need as many calls as one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from lengthwise_operator.errors import Refused, Unreachable
from lengthwise_operator.metrics import OperatorMetrics
from lengthwise_operator.observed import QueueFacts

log = logging.getLogger(__name__)

#: Longest wait for an answer, s.
_TIMEOUT_S = 10.0

#: What an answer says that the queue service never sends.
_FOREIGN = (
    "what answers at LENGTHWISE_OPERATOR_QUEUE_URL is not the queue service: its answer is not the "
    "JSON of that API. Check the URL, and proxies on the way"
)

#: Settings whose null is not their default, but "never".
_ZERO_IS_NEVER = frozenset({"min_rank_accuracy", "drift_window_ms"})


class QueueServiceClient:
    """The part of the queue service's API that the operator uses.

    Args:
        base_url: Base URL of the queue service.
        api_key: Key of an admin; None: the queue service requires none.
        metrics: Counts the polls.
    """

    def __init__(self, base_url: str, api_key: str | None, metrics: OperatorMetrics) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False
        )
        self._metrics = metrics

    async def read_all(self) -> dict[str, QueueFacts]:
        """Read every queue, by name.

        Raises:
            Refused: The key is wrong, or not an admin's.
            Unreachable: No answer, or one that is not the queue service's.
        """
        try:
            answer = await self._call("GET", "/v1/queues")
            views = _views(answer)
        except (Refused, Unreachable):
            self._metrics.queue_polls.labels("failed").inc()
            raise
        self._metrics.queue_polls.labels("ok").inc()
        if any("settings" not in view for view in views):
            raise Refused(
                "the queue service treats the operator as a tenant: set an admin's key in "
                "LENGTHWISE_OPERATOR_QUEUE_API_KEY"
            )
        found: dict[str, QueueFacts] = {}
        for view in views:
            try:
                found[view["name"]] = queue_facts(view)
            except (ValueError, KeyError, TypeError, AttributeError):
                # The other queues must be known all the same.
                log.exception("view of a queue not understood", extra={"queue": view.get("name")})
        return found

    async def put(self, name: str, settings: Mapping[str, Any]) -> QueueFacts:
        """Create a queue, or change these settings of it; its other settings stay as they are.

        The queue service merges, so that an admin who changes another setting at the same moment
        loses nothing.

        Raises:
            Refused: The settings are wrong; the message names the wrong one.
            Unreachable: No answer.
        """
        path = f"/v1/queues/{quote(name)}"
        # In a patch, null is the default of the setting, and 0 switches these two off.
        changes = {k: 0 if v is None and k in _ZERO_IS_NEVER else v for k, v in settings.items()}
        answer = await self._send("PATCH", path, json=changes)
        if answer.status_code == httpx.codes.NOT_FOUND:
            only_new = {"If-None-Match": "*"}
            answer = await self._send("PUT", path, json=dict(settings), headers=only_new)
            if answer.status_code == httpx.codes.PRECONDITION_FAILED:  # another writer was first
                answer = await self._send("PATCH", path, json=changes)
        view = _body(answer)
        try:
            return queue_facts(view)
        except (ValueError, TypeError, AttributeError) as exc:
            raise _foreign(answer) from exc

    async def command(self, name: str, command: str) -> None:
        """Send `drain` or `resume` to a queue.

        Raises:
            Refused: The queue service cannot do it, for example because its version is too old.
            Unreachable: No answer.
        """
        await self._call("POST", f"/v1/queues/{quote(name)}/{command}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, path: str, **how: Any) -> Any:
        return _body(await self._send(method, path, **how))

    async def _send(self, method: str, path: str, **how: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **how)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise Unreachable(
                f"the queue service at {self._http.base_url} does not answer "
                f"({type(exc).__name__}: {exc})"
            ) from exc
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unreachable(
                f"the queue service answered {answer.status_code}: {_message(answer)}"
            )
        return answer


def queue_facts(view: Mapping[str, Any]) -> QueueFacts:
    """Parse a queue's view; a field that an older service lacks gets that service's behaviour."""
    settings = view.get("settings", {})
    return QueueFacts(
        depth=int(view.get("depth", 0)),
        in_flight=int(view.get("in_flight", 0)),
        backlog_tokens=float(view.get("backlog_tokens", 0)),
        ms_per_token=float(view.get("ms_per_token", 0)),
        backlog_s=view.get("backlog_seconds"),
        oldest_wait_s=float(view.get("oldest_wait_seconds", 0)),
        workers=len(view.get("workers", ())),
        engine_problem=_engine_problem(view.get("workers", ())),
        mode=view.get("mode", "open"),
        active_policy=view.get("active_policy") or settings.get("policy", ""),
        rank_accuracy=view.get("rank_accuracy"),
        fallback_active=bool(view.get("fallback", False)),
        settings=settings,
    )


def _engine_problem(workers: Sequence[Mapping[str, Any]]) -> str:
    """Return the first worker's problem if no worker is without one."""
    problems = [worker.get("problem") for worker in workers]
    return str(problems[0]) if problems and all(problems) else ""


def _body(answer: httpx.Response) -> Any:
    """Return the JSON object of an answer; a proxy or a login page may answer 200 with a page."""
    if answer.is_error:
        raise Refused(f"the queue service answered {answer.status_code}: {_message(answer)}")
    if not answer.content:
        return {}
    try:
        body = answer.json()
    except ValueError as exc:
        raise _foreign(answer) from exc
    if not isinstance(body, dict):
        raise _foreign(answer)
    return body


def _views(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the queues of a listing.

    Raises:
        Unreachable: It is no such listing.
    """
    views = body.get("data", [])
    if not isinstance(views, list) or not all(isinstance(view, dict) for view in views):
        raise Unreachable(_FOREIGN)
    return views


def _foreign(answer: httpx.Response) -> Unreachable:
    kind = answer.headers.get("content-type", "no content type")
    return Unreachable(f"{_FOREIGN} (status {answer.status_code}, {kind})")


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
