"""Plan the changes of one service's queue: its settings, and draining it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.fields import seconds
from lengthwise_operator.llmservice.names import ENGINE
from lengthwise_operator.llmservice.service import LLMService, parse_time
from lengthwise_operator.llmservice.spec import unreadable_spec
from lengthwise_operator.observed import Observed

#: While the queue service does not answer, a deletion waits for this long, s. The jobs are in Redis
#: and survive the service.
UNREACHABLE_S = 60.0


def queue_settings(service: LLMService) -> dict[str, Any]:
    """The settings that the spec determines, in the form of `PATCH /v1/queues/{name}`."""
    spec = service.spec.queue
    out: dict[str, Any] = {
        "policy": spec.policy,
        "overtake_factor": spec.overtake_factor,
        "max_depth": spec.max_depth,
        "request_ttl_ms": round(seconds(spec.request_ttl) * 1000),
        "classes": [
            {"name": c.name, "offset_ms": round(seconds(c.offset) * 1000)} for c in spec.classes
        ],
    }
    if service.spec.model.max_model_len is not None:
        out["max_model_len"] = service.spec.model.max_model_len
    return out


def settings_to_send(
    service: LLMService, observed: Observed, installation: Installation
) -> dict[str, Any] | None:
    """The settings to send; None: the queue has them already, or is unknown."""
    if observed.queue_problem:
        return None
    wanted = queue_settings(service)
    if observed.queue is None:
        return wanted
    present = observed.queue.settings
    optional = _optional_settings(service, installation)
    wanted |= {name: value for name, value in optional.items() if name in present}
    return wanted if any(present.get(k) != v for k, v in wanted.items()) else None


def queue_command(service: LLMService, observed: Observed) -> str:
    """The command to send: `drain`, `resume`, or "" for none."""
    queue = observed.queue
    if queue is None:
        return ""
    if service.deleted:
        return "" if queue.mode == "draining" else "drain"
    # Without an engine, the queue was left draining by a deleted service of the same name. With an
    # engine, an admin has set it to drain.
    recreated = observed.deployments.get(service.child(ENGINE)) is None
    return "resume" if queue.mode == "draining" and recreated else ""


def drained(service: LLMService, observed: Observed, now: datetime, *, suspended: bool) -> bool:
    """Whether a deletion need not wait any longer for the queued jobs.

    Args:
        service: The service; nothing is waited for unless it is being deleted.
        observed: What was observed.
        now: Wall clock.
        suspended: Whether the service never had this queue, or has an invalid spec.
    """
    if suspended or service.deleted is None:
        return True
    waited_s = (now - service.deleted).total_seconds()
    limit_s = service.spec.drain.delete_timeout_seconds
    if waited_s >= limit_s:
        return True
    if observed.queue_problem:
        return waited_s >= UNREACHABLE_S
    queue = observed.queue
    if queue is None:
        return True
    # A queue service without modes cannot stop admission; then an empty queue is enough.
    closed = queue.mode == "draining" or ("QueueCommand", service.queue) in observed.refused
    return closed and queue.depth == 0 and queue.in_flight == 0


def overdue(body: Mapping[str, Any], now: datetime) -> bool:
    """Whether the time that a deletion may wait for its queue is over, by the object as it is."""
    deleted = body["metadata"].get("deletionTimestamp")
    limit_s = unreadable_spec(body.get("spec")).drain.delete_timeout_seconds
    return deleted is None or (now - parse_time(deleted)).total_seconds() >= limit_s


def _optional_settings(service: LLMService, installation: Installation) -> dict[str, Any]:
    """Settings that an older queue service may lack; they are sent only if the queue has them."""
    least = service.spec.predictor.min_rank_accuracy
    window_ms = round(seconds(service.spec.predictor.drift_window) * 1000)
    url = service.predictor_url(installation)
    # For the queue service, null is the shared predictor, whose URL it has, and "" is none.
    shared = url is not None and url == installation.predictor_url
    return {
        "overtake_wait_factor": service.spec.queue.overtake_wait_factor,
        "no_workers": service.spec.queue.no_workers,
        "min_rank_accuracy": least if least >= 0.5 else None,
        "drift_window_ms": window_ms or None,
        "record_rows": service.spec.queue.record_rows,
        "learning": service.spec.predictor.learning,
        "keep_words": service.spec.predictor.keep_words,
        "llm": _llm(service),
        "predictor_url": None if shared else url or "",
    }


def _llm(service: LLMService) -> str | None:
    """Name the LLM with its revision; lengths of another one count less."""
    model = service.spec.model
    return f"{model.uri}@{model.revision}"[:512] if model.uri else None
