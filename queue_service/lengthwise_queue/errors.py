"""What can go wrong in the queue service, and what a caller does about it.

```
LengthwiseError
├── BadRequest          400  the client changes its request
│   ├── ModelNotFound   404
│   └── BodyTooLarge    413
├── JobNotFound         404  no such job (or not yours)
├── KeyConflict         422  the idempotency key names another request
├── QueueOverloaded     429  the client waits `retry_after_s`
└── StoreUnavailable    503  Redis is away; the client tries again
```

Each carries the OpenAI error fields; `app.py` turns it into the answer, and nobody else does.
"""

from __future__ import annotations


class LengthwiseError(Exception):
    """Base of all; `code`, `param` and `type` are those of OpenAI's error object."""

    code: str = "internal_error"
    type: str = "server_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class BadRequest(LengthwiseError):
    """The request is wrong; the message says what to change."""

    type = "invalid_request_error"
    code = "invalid_request"


class ModelNotFound(BadRequest):
    """No queue serves the model."""

    code = "model_not_found"


class BodyTooLarge(BadRequest):
    """The body is over the size limit."""

    code = "body_too_large"


class JobNotFound(LengthwiseError):
    """There is no such job."""

    type = "invalid_request_error"
    code = "job_not_found"


class KeyConflict(LengthwiseError):
    """An idempotency key was used again for a different request."""

    type = "invalid_request_error"
    code = "idempotency_key_reused"


class QueueOverloaded(LengthwiseError):
    """The queue is at its cap."""

    type = "rate_limit_error"
    code = "queue_full"


class StoreUnavailable(LengthwiseError):
    """Redis does not answer; nothing was accepted."""

    type = "server_error"
    code = "store_unavailable"
