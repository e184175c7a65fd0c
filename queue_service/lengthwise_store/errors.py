"""Errors of the store, and the errors of an accepted job that ended without an answer.

```
LengthwiseError
├── StoreUnavailable        503  Redis cannot serve now; try again
│   ├── NotConfirmed        503  accepted, but not as durable as configured; try again
│   └── StoreUnfit          503  Redis is configured so that a promise is broken; fix its settings
├── StorageFull             413  a tenant's files, or all files, are at the limit; delete some
└── JobEnded                     the job was accepted and ended without an answer
    ├── JobFailed           502  or the engine's own status and body
    ├── JobCancelled        409  a client cancelled it
    └── JobExpired          504  it passed its deadline
```

The numbers are the HTTP statuses that the queue service sends. Each error carries the fields of
OpenAI's error object. The queue service's own errors (`lengthwise_queue.errors`) share the base.
"""

from __future__ import annotations

from typing import Any


class LengthwiseError(Exception):
    """Base class; `code`, `param` and `type` are those of OpenAI's error object.

    `job_id` is set if the error concerns a job that exists, or may exist.
    """

    code: str = "internal_error"
    type: str = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.job_id: str | None = None
        if code is not None:
            self.code = code

    def as_openai(self) -> dict[str, Any]:
        """Return the error as the body of an OpenAI response."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error if self.job_id is None else error | {"job_id": self.job_id}}


class StorageFull(LengthwiseError):
    """The files reached a limit; the client must delete some."""

    type = "invalid_request_error"
    code = "storage_full"


class StoreUnavailable(LengthwiseError):
    """Redis cannot serve now. What was asked of it may have been done, unless it is `unsent`."""

    type = "server_error"
    code = "store_unavailable"
    problem = "The queue's Redis does not answer."  #: The first sentence of the message.
    unsent = False  #: Redis certainly never got the request.


class NotConfirmed(StoreUnavailable):
    """A write was made, but the confirmation that its durability asks for did not arrive."""

    code = "not_confirmed"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.problem = f"{message.partition('. ')[0]}."


class StoreUnfit(StoreUnavailable):
    """Redis answers, but its settings contradict a promise."""

    code = "store_unfit"


class JobEnded(LengthwiseError):
    """An accepted job ended without an answer. Sending it again makes a new job.

    `status` and `engine_body` are the engine's own, if it sent them; the client gets those.
    """

    job_id: str

    def __init__(
        self,
        message: str,
        *,
        job_id: str,
        code: str | None = None,
        status: int | None = None,
        engine_body: Any = None,
    ) -> None:
        super().__init__(message, code=code)
        self.job_id = job_id
        self.status = status
        self.engine_body = engine_body

    def as_openai(self) -> dict[str, Any]:
        """Return the engine's error as it was sent, else this one."""
        if isinstance(self.engine_body, dict) and self.engine_body:
            return self.engine_body
        return super().as_openai()


class JobFailed(JobEnded):
    """The engine refused the job, or every attempt at it failed."""

    code = "job_failed"

    @classmethod
    def answer_missing(cls, job_id: str) -> JobFailed:
        """Make the error of a job that succeeded without an answer in its output.

        Only another program that writes to Redis can cause this.
        """
        return cls(
            "The engine's answer is missing from the job's output. Send the request again.",
            job_id=job_id,
            code="malformed_record",
        )


class JobCancelled(JobEnded):
    """The job was cancelled while a client waited for it."""

    code = "job_cancelled"


class JobExpired(JobEnded):
    """The job was not finished before its deadline."""

    code = "job_expired"
