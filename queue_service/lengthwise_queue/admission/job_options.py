"""The options that a client may set for a job. Called by the routes and `submit`. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lengthwise_contract.defaults import MAX_ATTEMPTS
from lengthwise_contract.jobs import EndpointPath
from lengthwise_queue.errors import BadRequest

#: The longest `Idempotency-Key`, characters.
MAX_KEY = 255


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options of one job; None: the queue's default."""

    job_class: str | None = None
    max_attempts: int = MAX_ATTEMPTS
    delay_ms: int = 0
    ttl_ms: int | None = None
    idempotency_key: str | None = None
    job_id: str | None = None  #: Not for clients: a batch fixes the ids of its jobs beforehand.
    once: bool = False  #: The job is never submitted again under this `job_id`.
    request_id: str = ""  #: The client's, or the service's, for logs and the engine.
    request: bytes | None = None  #: What the client sent, if the job's body was made of it.

    def fingerprint(self, endpoint: EndpointPath, body: bytes) -> str:
        """Compute a digest that distinguishes a repeated request from another with the same key."""
        options = (self.job_class, self.max_attempts, self.delay_ms, self.ttl_ms)
        digest = hashlib.sha256(f"{endpoint} {options}\n".encode())
        digest.update(body if self.request is None else self.request)
        return digest.hexdigest()


def key_from(header: str | None) -> str | None:
    """Check the value of an `Idempotency-Key` header.

    Raises:
        BadRequest: It is empty or too long.
    """
    if header is not None and not 0 < len(header) <= MAX_KEY:
        raise BadRequest(
            f"`Idempotency-Key` must have 1 to {MAX_KEY} characters, and has {len(header)}.",
            param="Idempotency-Key",
        )
    return header
