"""vLLM: the OpenAI endpoint, with the job's due time as `priority`.

So requests that wait inside vLLM run in the order of our queue. The lowest `priority` runs first,
ties by arrival. It is a 32-bit integer, because some servers and proxies store it as one. With
`--scheduling-policy fcfs`, its default, a vLLM either ignores `priority` or answers 400 "Got
priority N but Priority scheduling is not enabled". Then the worker leaves it out: added_fields.py
(https://docs.vllm.ai, "OpenAI-compatible server", extra parameters; vllm-project/vllm #22997).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lengthwise_store.jobs import Claim
from lengthwise_worker.engines import wire
from lengthwise_worker.engines.openai_http import OpenAIEngine, call_options

if TYPE_CHECKING:
    from lengthwise_worker.settings import Settings

#: 2026-01-01T00:00:00Z, ms since the epoch. Priorities count from here. Do not change it, nor the
#: unit: workers of two versions may share one vLLM.
PRIORITY_EPOCH_MS = 1_767_225_600_000

#: The bounds of a 32-bit integer: due times from 1957 to 2094.
_LEAST, _MOST = -(2**31), 2**31 - 1


def priority_of(due_ms: float) -> int:
    """Return a job's `priority`: its due time, whole seconds since `PRIORITY_EPOCH_MS`.

    Lower runs first; it may be negative. Jobs that are due in one second tie, and vLLM runs them in
    the order in which the worker claimed them, which is the order of their due times.
    """
    return int(max(_LEAST, min(_MOST, (due_ms - PRIORITY_EPOCH_MS) // 1000)))


class VllmEngine(OpenAIEngine):
    """See `Engine`. /health needs no key, and succeeds only when the model is loaded."""

    kind = "vllm"
    probe_path = "/health"

    def request_for(self, claim: Claim, without: frozenset[str]) -> wire.EngineRequest:
        """Add `priority`. It replaces the client's, because the queue decides the order."""
        priority = {"priority": priority_of(claim.due_ms)}
        return wire.engine_request(claim.body, priority, without=without)

    def _probe_request(self, body: bytes, without: frozenset[str]) -> wire.EngineRequest:
        """Let a probe run before everything that waits inside vLLM."""
        return wire.engine_request(body, {"priority": _LEAST}, without=without)


def from_settings(settings: Settings) -> VllmEngine:
    """Build the engine from a worker's settings."""
    return VllmEngine(settings.engine_url, **call_options(settings))
