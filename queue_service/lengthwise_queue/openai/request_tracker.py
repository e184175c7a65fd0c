"""Tracks one client's request until it is answered, for the metrics and the log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from lengthwise_contract.states import JobState
from lengthwise_queue.admission.submit import SubmittedJob
from lengthwise_queue.errors import AnswerInterrupted
from lengthwise_queue.metrics import length_bucket
from lengthwise_queue.service import Service
from lengthwise_queue.web.server_sent_events import KEEP_ALIVE_S
from lengthwise_store.errors import JobEnded, StoreUnavailable
from lengthwise_store.jobs import EntryKind, OutputEntry
from lengthwise_store.output_reader import JobEnd, read_end, stream_output

log = logging.getLogger(__name__)

#: How long the headers of a stream wait for its first entry, s. A job that fails within this time
#: gets the right status. With a longer time, a waiting client would learn its job's id too late.
HEADER_HOLD_S = 2.0

_OUTCOMES = {
    JobState.SUCCEEDED: "succeeded",
    JobState.CANCELLED: "cancelled",
    JobState.EXPIRED: "expired",
}


@dataclass
class RequestTracker:
    """One client's wait for one job."""

    service: Service
    job: SubmittedJob
    started_s: float  #: When the request came, `time.perf_counter`.
    answer_at: str | None = None  #: The URL that returns the answer later; None: there is none.
    first_s: float | None = None  #: From `started_s` to the first piece of the answer.
    end: JobEnd | None = None  #: How the job ended; None: it has not.
    ended_ms: float | None = None  #: When it ended, ms since the epoch by Redis.

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.accepted.id

    def output(self) -> AsyncGenerator[list[OutputEntry]]:
        """Stream the job's output from its start. An empty list: nothing came for a while."""
        return stream_output(
            self.service.store,
            self.job.queue,
            self.job_id,
            first_s=HEADER_HOLD_S,
            beat_s=KEEP_ALIVE_S,
        )

    async def all_chunks(self) -> list[bytes]:
        """Wait for the job's end, and return the chunks of its last attempt."""
        chunks: list[bytes] = []
        async with contextlib.aclosing(self.output()) as batches:
            async for batch in batches:
                for entry in batch:
                    self.note(entry)
                    if entry.kind is EntryKind.ATTEMPT:
                        chunks = []
                    elif entry.kind is EntryKind.CHUNK:
                        chunks.append(entry.data)
        return chunks

    def note(self, entry: OutputEntry) -> None:
        """Record that an entry of the job's output came."""
        if entry.kind is EntryKind.CHUNK and self.first_s is None:
            self.first_s = time.perf_counter() - self.started_s
            self.service.metrics.ttft.labels(self.job.queue).observe(self.first_s)
        elif entry.kind is EntryKind.END:
            self.end = read_end(entry)
            self.ended_ms = float(entry.id.partition("-")[0])

    def problem(self) -> JobEnded | None:
        """Return why the job has no answer; None: it has one, or has not ended yet."""
        return None if self.end is None else self.end.problem(self.job_id)

    def client_disconnected(self) -> None:
        """Record that the client is gone, and cancel its job unless it can repeat the request."""
        if self.end is not None:
            return
        self._count("client_disconnected")
        if not self._repeatable:
            self._withdraw("client disconnected")

    def interrupted(self, problem: str) -> AnswerInterrupted:
        """Make the error of a client whose answer cannot be read here, and count it.

        The job is cancelled, unless the client can get its answer in another way.

        Args:
            problem: Why it cannot be read, in a sentence.
        """
        self._log_answer("broken")
        if not self._repeatable and self.answer_at is None:
            self._withdraw("answer interrupted")
        return AnswerInterrupted(
            problem,
            job_id=self.job_id,
            repeatable=self._repeatable,
            answer_at=self.answer_at,
        )

    @property
    def _repeatable(self) -> bool:
        # A client with an idempotency key means to repeat the request, and to find the job.
        return self.job.new.idempotency_key is not None

    def _withdraw(self, reason: str) -> None:
        job = self.job.new
        self.service.withdrawals.add(
            self.job.queue, self.job_id, lifetime_ms=job.delay_ms + job.ttl_ms, reason=reason
        )

    def answered(self) -> None:
        """Record that the client was sent everything that it will get."""
        state = None if self.end is None else self.end.state
        self._log_answer("broken" if state is None else _OUTCOMES.get(state, "failed"))
        if state is JobState.SUCCEEDED:
            self.service.tasks.start(self._measure())

    def _log_answer(self, outcome: str) -> None:
        took_s = time.perf_counter() - self.started_s
        self._count(outcome)
        self.service.metrics.e2e.labels(self.job.queue).observe(took_s)
        log.info(
            "request answered",
            extra={
                "job_id": self.job_id,
                "request_id": self.job.new.request_id,
                "queue": self.job.queue,
                "outcome": outcome,
                "ttft_s": self.first_s,
                "took_s": took_s,
                "predicted_tokens": self.job.new.predicted_tokens,
                "output_tokens": None if self.end is None else self.end.output_tokens,
            },
        )

    def _count(self, outcome: str) -> None:
        self.service.metrics.requests.labels(self.job.queue, outcome).inc()

    async def _measure(self) -> None:
        """Record how long the job waited in the queue, and the error of its prediction."""
        queue, metrics = self.job.queue, self.service.metrics
        try:
            job = await self.service.store.get(queue, self.job_id)
        except StoreUnavailable:
            return
        if job is None or job.started_ms is None:
            return
        bucket = length_bucket(job.predicted_tokens)
        waited_s = max(job.started_ms - job.accepted_ms, 0) / 1000
        metrics.queue_wait.labels(queue, bucket).observe(waited_s)
        if job.prediction is not None and job.output_tokens is not None:
            error = abs(job.predicted_tokens - job.output_tokens)
            metrics.predictor_error.labels(queue).observe(error)
