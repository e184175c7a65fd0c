"""What a queue learns from: submissions of waiting jobs, and evidence of finished ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lengthwise_store.prediction_record import Basis

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredEvidence:
    """A finished job that is learned from."""

    job_id: str
    tokens: int  #: Length of its answer.
    censored: bool  #: Whether it ended at its cap: the real length is at least this.
    submission: bytes  #: As it was submitted; the store does not read it.


def write_view(submission: bytes, basis: Basis) -> bytes:
    """Write a submission with the cap that its answer is compared with: "cap bytes"; 0: none."""
    return b"%d " % (basis.max_tokens or 0) + submission if submission else b""


def read_view(raw: bytes) -> bytes:
    """Read the submission of a job that has not ended."""
    return raw.partition(b" ")[2]


def read_evidence(raw: bytes) -> StoredEvidence | None:
    """Read one entry, "id tokens cap bytes"; None: it cannot be read, which is logged."""
    try:
        job_id, tokens, cap, submission = raw.split(b" ", 3)
        length, most = int(tokens), int(cap)
    except ValueError:
        log.warning("an entry of the evidence cannot be read", extra={"bytes": len(raw)})
        return None
    return StoredEvidence(
        job_id=job_id.decode(),
        tokens=length,
        censored=0 < most <= length,
        submission=submission,
    )
