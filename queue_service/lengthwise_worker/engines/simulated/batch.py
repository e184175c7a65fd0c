"""The scheduler of the simulated engine: slots, a waiting queue, and the faults that are set.

Called by response.py and server.py; it knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: How many requests `GET /admin/seen` lists.
_KEPT = 10_000

#: What the fault `garbage` may send.
Garbage = Literal["bytes", "html", "empty", "json", "ends"]


class Faults(BaseModel):
    """Faults to simulate from now on: the body of `POST /admin/faults`. Default: none.

    They end after `times` requests, and after `for_s` seconds.
    """

    model_config = ConfigDict(extra="forbid")

    slow_factor: float = Field(default=1.0, gt=0, description="Every token takes this much longer")
    status: int | None = Field(
        default=None, ge=400, le=599, description="Answer with this status, e.g. 429 or 503"
    )
    retry_after_s: float | None = Field(default=None, ge=0, description="Sent with `status`")
    cut_after_tokens: int | None = Field(
        default=None, ge=0, description="Cut the connection after this many tokens"
    )
    error_after_tokens: int | None = Field(
        default=None, ge=0, description="Send an SSE error event after this many tokens"
    )
    error_code: int = Field(default=500, ge=400, le=599, description="The code in that event")
    exit_after_tokens: int | None = Field(
        default=None, ge=0, description="End the process after this many tokens, exit code 1"
    )
    hang: bool = Field(
        default=False, description="Accept requests and send nothing, not even headers"
    )
    hang_after_tokens: int | None = Field(
        default=None, ge=0, description="Send nothing more after this many tokens"
    )
    garbage: Garbage | None = Field(
        default=None,
        description="Answer 200 with `bytes` (random, as JSON or as a stream), `html`, an `empty` "
        "body, `json` of another shape, or a stream (a body) that `ends` in its middle",
    )
    lump_tokens: int = Field(
        default=1, ge=1, description="Send the events of this many tokens in one write"
    )
    token_bytes: int | None = Field(
        default=None, ge=1, description="The text of each token is this long, bytes"
    )
    model: str | None = Field(
        default=None,
        description="Serve and list the model under this name; other names get 404, as in vLLM",
    )
    refuse_fields: list[str] = Field(
        default_factory=list,
        description="Answer 422 to a request with one of these fields, e.g. `stream_options`",
    )
    unhealthy: bool = Field(default=False, description="/health answers 503")
    hang_probes: bool = Field(
        default=False, description="/health and /v1/models accept requests and send nothing"
    )
    times: int | None = Field(default=None, ge=1, description="For this many requests; null: all")
    for_s: float | None = Field(default=None, gt=0, description="For this long, s; null: no limit")


class CutError(Exception):
    """A fault asks to cut the connection here."""


@dataclass
class EngineCounters:
    """Counters of the engine: the response of `GET /admin/seen`."""

    probes: int = 0  #: Of /health.
    requests: int = 0
    answered: int = 0
    aborted: int = 0  #: The client disconnected before the end.
    refused: int = 0  #: Answered with the status of a fault.
    peak_running: int = 0
    started: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=_KEPT))


@dataclass(order=True)
class _Waiter:
    priority: int
    arrival: int
    admitted: asyncio.Future[None] = field(compare=False)


class SimulatedBatch:
    """A continuous batch: `slots` answers at once, each at `tokens_per_s`; other requests wait.

    With `by_priority` the waiting queue is ordered like vLLM's: lowest priority first, ties by
    arrival.
    """

    def __init__(
        self, *, slots: int, tokens_per_s: float, prefill_s: float = 0.0, by_priority: bool = False
    ) -> None:
        """Create an empty batch. `prefill_s`: from a free slot to the first token, s."""
        self.slots, self.tokens_per_s, self.prefill_s = slots, tokens_per_s, prefill_s
        self.by_priority = by_priority
        self.running = 0
        self.seen = EngineCounters()
        self._queue: list[_Waiter] = []
        self._arrivals = itertools.count()
        self._faults, self._left, self._ends_s = Faults(), 0, 0.0

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a slot."""
        return sum(not w.admitted.done() for w in self._queue)

    # ------------------------------------------------------------------ faults

    def misbehave(self, faults: Faults) -> None:
        """Set the faults."""
        self._faults = faults
        self._left = faults.times or 0
        self._ends_s = time.monotonic() + (faults.for_s or 0)

    def faults(self) -> Faults:
        """Return the faults in force. The call does not count as a request."""
        over = self._faults.for_s is not None and time.monotonic() >= self._ends_s
        spent = self._faults.times is not None and self._left <= 0
        return Faults() if over or spent else self._faults

    def faults_of_request(self) -> Faults:
        """Return the faults for the next request, and count it."""
        faults = self.faults()
        self._left -= 1
        return faults

    # ------------------------------------------------------------------ the batch

    @asynccontextmanager
    async def slot(self, priority: int, summary: dict[str, object]) -> AsyncIterator[None]:
        """Wait for a slot and hold it. `summary` is added to `started` when the request starts."""
        if self.running >= self.slots or self.waiting:
            rank = priority if self.by_priority else 0
            waiter = _Waiter(rank, next(self._arrivals), asyncio.get_running_loop().create_future())
            heapq.heappush(self._queue, waiter)
            try:
                await waiter.admitted
            except asyncio.CancelledError:
                if waiter.admitted.done() and not waiter.admitted.cancelled():
                    self._leave()
                raise
        else:
            self.running += 1
        self.seen.peak_running = max(self.seen.peak_running, self.running)
        self.seen.started.append(summary)
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        """Give the slot to the first waiting request that was not cancelled."""
        while self._queue:
            waiter = heapq.heappop(self._queue)
            if not waiter.admitted.done():
                waiter.admitted.set_result(None)
                return
        self.running -= 1

    async def tokens(self, count: int, faults: Faults) -> AsyncIterator[int]:
        """Yield the tokens 0, 1, ... of one answer, each at its time.

        The times are absolute, so that a late wake-up does not delay the tokens that follow.

        Raises:
            CutError: A fault asks to cut the connection here.
        """
        step_s = faults.slow_factor / self.tokens_per_s
        due = time.monotonic() + self.prefill_s * faults.slow_factor
        for token in range(count):
            if token == faults.cut_after_tokens:
                raise CutError
            if token == faults.hang_after_tokens:
                await asyncio.Event().wait()
            due += step_s
            wait_s = due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            yield token
        if faults.cut_after_tokens is not None and count <= faults.cut_after_tokens:
            raise CutError
