"""What can go wrong in the queue service, and what a caller does about it.

```
LengthwiseError
├── BadRequest              400  the client changes its request
│   ├── ModelNotFound       404
│   ├── WrongMethod         405  the URL is there for `allowed`
│   ├── BodyTooLarge        413
│   ├── StorageFull         413  its files would take more room than there is
│   └── UnsupportedMedia    415
├── WrongKey                401  the client sends an API key that is in force
├── AdminOnly               403  the client uses an admin's key
├── JobNotFound             404  no such job (or not yours)
├── ObjectNotFound          404  no such file, batch or response (or not yours)
├── NotRedrivable           409  the dead letter stays dead
├── KeyConflict             422  the idempotency key names another request
├── QueueOverloaded         429  the client waits `retry_after_s`
├── QueueDraining           503  the queue takes no new jobs; the client waits, or goes elsewhere
├── StoreUnavailable        503  Redis is away; the client tries again
│   ├── NotConfirmed        503  it may be accepted, and is not as safe as promised; tries again
│   └── StoreUnfit          503  Redis must be set up otherwise; a process does not start on it
├── AttemptRestarted        502  a retry's output cannot continue what was already sent
└── JobEnded                     the job was accepted, and ended without an answer
    ├── JobFailed           502  or the engine's own status and body
    ├── JobCancelled        409  somebody withdrew it
    └── JobExpired          504  not finished before its deadline
```

Each carries the OpenAI error fields; `app.py` turns it into the answer, and nobody else does.
"""

from __future__ import annotations

from lengthwise_store.errors import LengthwiseError


class BadRequest(LengthwiseError):
    """The request is wrong; the message says what to change."""

    type = "invalid_request_error"
    code = "invalid_request"


class ModelNotFound(BadRequest):
    """No queue serves the model."""

    code = "model_not_found"


class WrongMethod(BadRequest):
    """The URL is there, but not for this method."""

    code = "unknown_url"

    def __init__(self, asked: str, *, allowed: str) -> None:
        super().__init__(f"There is no {asked}, but this URL takes {allowed}.")
        self.allowed = allowed


class BodyTooLarge(BadRequest):
    """The body is over the size limit."""

    code = "body_too_large"


class UnsupportedMedia(BadRequest):
    """The body is of a type or encoding that is not read."""

    code = "unsupported_media_type"


class WrongKey(LengthwiseError):
    """The request has no API key, or one that nobody has."""

    type = "invalid_request_error"  # OpenAI's; its clients raise AuthenticationError by the status
    code = "invalid_api_key"


class AdminOnly(LengthwiseError):
    """The key is good, and its tenant may not do this."""

    type = "invalid_request_error"
    code = "admin_only"


class JobNotFound(LengthwiseError):
    """There is no such job."""

    type = "invalid_request_error"
    code = "job_not_found"


class ObjectNotFound(LengthwiseError):
    """There is no such file, batch or response."""

    type = "invalid_request_error"
    code = "not_found"


class NotRedrivable(LengthwiseError):
    """The job has no new life to be given."""

    type = "invalid_request_error"
    code = "not_redrivable"


class KeyConflict(LengthwiseError):
    """An idempotency key was used again for a different request."""

    type = "invalid_request_error"
    code = "idempotency_key_reused"


class QueueOverloaded(LengthwiseError):
    """The queue is at its cap."""

    type = "rate_limit_error"
    code = "queue_full"


class QueueDraining(LengthwiseError):
    """The queue serves what it has and takes nothing new."""

    type = "server_error"
    code = "queue_draining"


class AttemptRestarted(LengthwiseError):
    """A new attempt does not repeat what was already sent, so the stream cannot go on."""

    type = "server_error"
    code = "attempt_restarted"
