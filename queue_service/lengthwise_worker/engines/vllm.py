"""vLLM: the OpenAI endpoint, with the job's due time as `priority`.

So requests that wait inside vLLM run in the order of our queue. vLLM's `priority` is an int without
bounds in its API; the lowest runs first, ties by arrival; the engine core gets it as a 64-bit int.
With `--scheduling-policy fcfs`, its default, a vLLM either ignores `priority` or answers 400 "Got
priority N but Priority scheduling is not enabled". In the second case the worker logs a warning
once and sends no more priorities (https://docs.vllm.ai, "OpenAI-compatible server", extra
parameters; vllm-project/vllm issue #22997).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lengthwise_store.jobs import Claim
from lengthwise_worker.engines import wire
from lengthwise_worker.engines.base import EngineResponse, Sink
from lengthwise_worker.engines.openai_http import OpenAIEngine, call_options
from lengthwise_worker.errors import EngineRefused

if TYPE_CHECKING:
    from lengthwise_worker.settings import Settings

log = logging.getLogger(__name__)

#: 2026-01-01T00:00:00Z, ms since the epoch. Priorities count from here, so that they are readable
#: in vLLM's logs. Do not change it: workers of two versions may share one vLLM.
PRIORITY_EPOCH_MS = 1_767_225_600_000


def priority_of(due_ms: float) -> int:
    """Return a job's `priority`: its due time, ms since `PRIORITY_EPOCH_MS`. Lower runs first."""
    return int(due_ms) - PRIORITY_EPOCH_MS


class VllmEngine(OpenAIEngine):
    """See `Engine`. /health needs no key, and succeeds only when the model is loaded."""

    kind = "vllm"
    probe_path = "/health"
    _takes_priority = True

    def request_for(self, claim: Claim) -> wire.EngineRequest:
        """Add `priority`. It replaces the client's, because the queue decides the order."""
        if not self._takes_priority:
            return super().request_for(claim)
        return wire.engine_request(claim.body, {"priority": priority_of(claim.due_ms)})

    async def answer(self, claim: Claim, sink: Sink) -> EngineResponse:
        """Run one job. If vLLM rejects `priority`, send the request again without it."""
        sent = self._takes_priority  # another call may reset it while this one runs
        try:
            return await super().answer(claim, sink)
        except EngineRefused as exc:
            if not sent or not _is_about_priority(exc):
                raise
        if self._takes_priority:
            self._takes_priority = False
            log.warning(
                "vLLM rejects priorities: start it with --scheduling-policy priority; "
                "until then, requests that wait inside it run in order of arrival",
                extra={"job_id": claim.lease.job_id},
            )
        return await super().answer(claim, sink)


def _is_about_priority(error: EngineRefused) -> bool:
    message = error.message.lower()
    return "priority" in message and "not enabled" in message


def from_settings(settings: Settings) -> VllmEngine:
    """Build the engine from a worker's settings."""
    return VllmEngine(settings.engine_url, **call_options(settings))
