"""The errors of the queue service, and what the client does about each.

```
LengthwiseError
├── BadRequest              400  the request is wrong; change it
│   ├── ModelNotFound       404  no queue serves the model
│   ├── WrongMethod         405  the URL exists, but only for the methods in `allowed`
│   ├── BodyTooLarge        413  the body is over the size limit
│   └── UnsupportedMedia    415  the body is not JSON, or is compressed
├── WrongKey                401  the API key is missing or wrong; send a valid one
├── AdminOnly               403  use an admin's key
├── JobNotFound             404  no such job, or it belongs to another tenant
├── ObjectNotFound          404  no such file, batch or response, or another tenant's
├── NotRedrivable           409  the dead letter cannot be queued again
├── QueueInUse              409  the queue is not empty; empty it, or remove it with `force`
├── QueueExists             412  the queue was to be created, and exists; change it instead
├── KeyConflict             422  the idempotency key was used for another request
├── QueueOverloaded         429  a limit of the queue or tenant is reached; wait `retry_after_s`
├── QueueDraining           503  the queue accepts no new jobs; wait, or use another queue
│   └── NoWorkers           503  no worker serves the queue, which is set to refuse then
├── SubmitUnconfirmed       503  Redis did not answer; job `job_id` may have been stored
├── AnswerInterrupted       503  the answer of job `job_id` cannot be read here; see the message
└── AttemptRestarted        502  the output of a new attempt cannot continue the stream
```

The errors of the store (`lengthwise_store.errors`) share the base.
Each error carries the fields of OpenAI's error object. Only `app.py` turns errors into responses.
"""

from __future__ import annotations

from lengthwise_store.errors import LengthwiseError, StoreUnavailable


class BadRequest(LengthwiseError):
    """The request is wrong; the message says what to change."""

    type = "invalid_request_error"
    code = "invalid_request"


class ModelNotFound(BadRequest):
    """No queue serves the model."""

    code = "model_not_found"


class WrongMethod(BadRequest):
    """The URL exists, but not for this method."""

    code = "unknown_url"

    def __init__(self, requested: str, *, allowed: str) -> None:
        super().__init__(f"There is no {requested}, but this URL takes {allowed}.")
        self.allowed = allowed


class BodyTooLarge(BadRequest):
    """The body is over the size limit."""

    code = "body_too_large"


class UnsupportedMedia(BadRequest):
    """The body has a media type or an encoding that is not supported."""

    code = "unsupported_media_type"


class WrongKey(LengthwiseError):
    """The request has no API key, or one that belongs to no tenant."""

    type = "invalid_request_error"  # OpenAI's; its clients raise AuthenticationError by the status
    code = "invalid_api_key"


class AdminOnly(LengthwiseError):
    """The key is valid, but its tenant is not an admin."""

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
    """The job cannot be queued again."""

    type = "invalid_request_error"
    code = "not_redrivable"


class QueueInUse(LengthwiseError):
    """The queue has jobs or workers, and is not removed."""

    type = "invalid_request_error"
    code = "queue_in_use"


class QueueExists(LengthwiseError):
    """The queue was to be created only if it did not exist."""

    type = "invalid_request_error"
    code = "queue_exists"


class KeyConflict(LengthwiseError):
    """An idempotency key was used again for a different request."""

    type = "invalid_request_error"
    code = "idempotency_key_reused"


class QueueOverloaded(LengthwiseError):
    """A limit of the queue or of the tenant is reached."""

    type = "rate_limit_error"
    code = "queue_full"


class QueueDraining(LengthwiseError):
    """The queue serves its jobs and accepts no new ones."""

    type = "server_error"
    code = "queue_draining"


class NoWorkers(QueueDraining):
    """No worker serves the queue, and its setting is to refuse jobs then."""

    code = "no_workers"


class AttemptRestarted(LengthwiseError):
    """A new attempt does not repeat what was already sent, so the stream cannot continue."""

    type = "server_error"
    code = "attempt_restarted"


class SubmitUnconfirmed(StoreUnavailable):
    """Redis did not answer a submit, so the job may have been stored; `job_id` names it."""

    def __init__(self, cause: StoreUnavailable, repeatable: bool) -> None:
        what = (
            "The job may have been stored: send the request again with the same "
            "`Idempotency-Key`, which finds it or submits it."
            if repeatable
            else "If the job was stored, it is cancelled when Redis answers; a worker may claim it "
            "before that. Send the request again for a new job."
        )
        super().__init__(f"{cause.problem} {what}", retry_after_s=cause.retry_after_s)


class AnswerInterrupted(StoreUnavailable):
    """The client waits for an answer that this replica cannot read; `job_id` names its job.

    `answer_at`: the URL at which the answer can be read later, if the client has no key to repeat
    the request with.
    """

    code = "answer_interrupted"

    def __init__(
        self, problem: str, *, job_id: str, repeatable: bool, answer_at: str | None = None
    ) -> None:
        job = f"The request was accepted as job {job_id}"
        if repeatable:
            what = f"{job}: send it again with the same `Idempotency-Key` to get its answer."
        elif answer_at is not None:
            what = f"{job}, which continues: GET {answer_at} returns its answer."
        else:
            what = (
                f"{job}, which is now cancelled; while Redis is away a worker may still run it "
                f"(GET /v1/jobs/{job_id}). Send it again for a new job."
            )
        super().__init__(f"{problem} {what}", retry_after_s=1)
        self.job_id = job_id
        self.answer_at = answer_at
