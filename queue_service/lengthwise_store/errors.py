"""Errors of the store, and of an accepted job that ended without an answer.

```
LengthwiseError
├── StoreUnavailable        503  Redis does not answer; try again
│   ├── NotConfirmed        503  accepted, but not as durable as configured; try again
│   └── StoreUnfit          503  Redis is configured in a way that breaks a promise; fix its settings
├── StorageFull             413  the files of all tenants are at the limit; delete some
└── JobEnded                     the job was accepted and ended without an answer
    ├── JobFailed           502  or the engine's own status and body
    ├── JobCancelled        409  a client withdrew it
    └── JobExpired          504  it passed its deadline
```

The numbers are the HTTP statuses that the queue service sends. Each error carries the fields of
OpenAI's error object. The queue service's own errors (`lengthwise_queue.errors`) share the base.
"""

from __future__ import annotations

from typing import Any


class LengthwiseError(Exception):
    """Base of all; `code`, `param` and `type` are those of OpenAI's error object."""

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
        if code is not None:
            self.code = code

    def as_openai(self) -> dict[str, Any]:
        """The error as the body of an OpenAI answer."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class StorageFull(LengthwiseError):
    """There is no room for more files; the client deletes some."""

    type = "invalid_request_error"
    code = "storage_full"


class StoreUnavailable(LengthwiseError):
    """Redis does not answer; nothing was accepted."""

    type = "server_error"
    code = "store_unavailable"


class NotConfirmed(StoreUnavailable):
    """A job was written, and the confirmation that its durability asks for did not come."""

    code = "not_confirmed"


class StoreUnfit(StoreUnavailable):
    """Redis answers, and its settings contradict what we promise."""

    code = "store_unfit"


class JobEnded(LengthwiseError):
    """An accepted job ended without an answer. Sending it again makes a new job.

    `status` and `engine_body` are the engine's own, if it gave them; the client gets those.
    """

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
        """The engine's error as it gave it, else ours."""
        if isinstance(self.engine_body, dict) and self.engine_body:
            return self.engine_body
        return super().as_openai()


class JobFailed(JobEnded):
    """The engine refused the job, or every attempt at it failed."""

    code = "job_failed"

    @classmethod
    def answer_missing(cls, job_id: str) -> JobFailed:
        """It succeeded, and its output holds no answer: somebody else wrote to Redis."""
        return cls(
            "The engine's answer is missing from the job's output. Send the request again.",
            job_id=job_id,
            code="malformed_record",
        )


class JobCancelled(JobEnded):
    """The job was withdrawn while somebody waited for it."""

    code = "job_cancelled"


class JobExpired(JobEnded):
    """The job was not finished before its deadline."""

    code = "job_expired"
