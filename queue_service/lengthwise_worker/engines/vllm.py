"""vLLM: the OpenAI face, and the job's rank as `priority`, so that its own line agrees with ours.

vLLM's `priority` is an int without bounds in its API, the lowest runs first, ties by arrival; it
travels to the engine core as a 64-bit int. With `--scheduling-policy fcfs`, its default, a vLLM
either ignores it or answers 400 "Got priority N but Priority scheduling is not enabled": then we
say so once and go on without (https://docs.vllm.ai, "OpenAI-compatible server", extra
parameters; vllm-project/vllm issue #22997).
"""

from __future__ import annotations

import logging

from lengthwise_store.jobs import Claim
from lengthwise_worker.engines import wire
from lengthwise_worker.engines.base import Answer, Sink
from lengthwise_worker.engines.openai_http import OpenAIEngine
from lengthwise_worker.errors import EngineRefused

log = logging.getLogger(__name__)

#: 2026-01-01T00:00:00Z, ms since the epoch: due times are counted from here, so that the number
#: is readable in vLLM's logs. Never to be changed: two workers may share one vLLM.
PRIORITY_EPOCH_MS = 1_767_225_600_000


def priority_of(due_ms: float) -> int:
    """A job's `priority`: its due time, whole ms since `PRIORITY_EPOCH_MS`; lower runs first."""
    return int(due_ms) - PRIORITY_EPOCH_MS


class VllmEngine(OpenAIEngine):
    """See `Engine`. /health needs no key and answers only once the model is loaded."""

    kind = "vllm"
    probe_path = "/health"
    _takes_priority = True

    def shape(self, claim: Claim) -> wire.Request:
        """A `priority` of the client's own is overwritten: the queue says who is next."""
        if not self._takes_priority:
            return super().shape(claim)
        return wire.shape(claim.body, {"priority": priority_of(claim.due_ms)})

    async def answer(self, claim: Claim, sink: Sink) -> Answer:
        """As `OpenAIEngine.answer`; asks again without `priority` if that is what vLLM refused."""
        sent = self._takes_priority  # another call may find out while this one is under way
        try:
            return await super().answer(claim, sink)
        except EngineRefused as exc:
            if not sent or not _is_about_priority(exc):
                raise
        if self._takes_priority:
            self._takes_priority = False
            log.warning(
                "vLLM does not take priorities: start it with --scheduling-policy priority, "
                "or what waits inside it is served in order of arrival",
                extra={"job_id": claim.lease.job_id},
            )
        return await super().answer(claim, sink)


def _is_about_priority(error: EngineRefused) -> bool:
    said = error.message.lower()
    return "priority" in said and "not enabled" in said
