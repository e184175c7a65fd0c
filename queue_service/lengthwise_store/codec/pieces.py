"""Pieces of answers as the scripts `emit` and `finish` take them: in calls that are bounded.

A worker may report thousands of pieces at once, after an outage or from an engine that sends lumps.
One script with all of them would hold the server for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lengthwise_store.codec.jobs import write_usage
from lengthwise_store.jobs import Completion

#: The pieces of one call, at most, and their bytes: about 3 ms of the server's time. A single piece
#: may be larger.
PIECES, PIECE_BYTES = 1000, 2**20

#: The arguments of one call of `finish`, at most, unless one job has more.
FINISH_ARGS = 3000


def parts(pieces: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Split pieces into those of one call each; at least one part, which may be empty."""
    found, begin, size = [], 0, 0
    for at, piece in enumerate(pieces):
        if at > begin and (at - begin == PIECES or size + len(piece) > PIECE_BYTES):
            found.append(pieces[begin:at])
            begin, size = at, 0
        size += len(piece)
    return [*found, pieces[begin:]]


def write_completion(completion: Completion, first: int, pieces: Sequence[bytes]) -> list[Any]:
    """Write one job's arguments of `finish`.

    Args:
        completion: How its claim ended.
        first: How many pieces of the claim come before `pieces`.
        pieces: The last ones.
    """
    lease, outcome = completion.lease, completion.outcome
    usage, length = write_usage(outcome)
    args = [lease.job_id, lease.nonce, outcome.kind, usage, length]
    if not (outcome.error or outcome.delay_ms or first or pieces):
        # Most answers that came whole. Each argument less saves the server 0.25 us.
        return [*args, 0]
    error = outcome.error.model_dump_json() if outcome.error else ""
    more = [error, outcome.delay_ms, first, *pieces]
    return [*args, len(more), *more]


def grouped(completions: Sequence[list[Any]]) -> list[list[Any]]:
    """Join the arguments of several jobs into those of as few calls as the bound allows."""
    calls: list[list[Any]] = [[]]
    for args in completions:
        if calls[-1] and len(calls[-1]) + len(args) > FINISH_ARGS:
            calls.append([])
        calls[-1] += args
    return calls
