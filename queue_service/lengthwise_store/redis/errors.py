"""Translate the errors that mean that Redis cannot serve now to `StoreUnavailable`.

Redis is down, starting, not the primary, full, cannot write, or lacks replicas: all of that is
`StoreUnavailable`, and ends without a restart of ours as soon as Redis recovers. Every other error
(WRONGTYPE, a fault in a script) is a bug and is raised unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - the client's own, not the built-in
    ExecAbortError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
    TryAgainError,
)

from lengthwise_store.errors import StoreUnavailable

T = TypeVar("T")

#: The note of an error that came before anything was sent.
UNSENT = "nothing was sent"

#: Errors with a class of their own in the client. `AskError` is also MOVED's.
OUTAGE_ERRORS = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    OutOfMemoryError,
    NoPermissionError,
    AskError,
    TryAgainError,
    RedisClusterException,
    # Something else answers at this address: on Kubernetes, a Service that is not set up on all
    # nodes yet may lead to a proxy, which speaks HTTP.
    InvalidResponse,
    OSError,
)

#: The others are a plain `ResponseError` whose text begins with its code. UNBLOCKED: the primary
#: became a replica during a blocking command. BUSY: another client's script keeps the server busy.
_CODES = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY ", "NOTREADY")

#: Reasons that an operator must act on are named; everything else is "does not answer".
_REASONS: tuple[tuple[type[Exception] | str, str], ...] = (
    (OutOfMemoryError, "is full (maxmemory)"),
    (ReadOnlyError, "is a read-only replica"),
    (
        NoPermissionError,
        "forbids a command or key; its ACL must allow what docs/operate/redis.md lists",
    ),
    (AuthenticationError, "refused the credentials"),
    (BusyLoadingError, "is loading its data"),
    (InvalidResponse, "is not the server at its address"),
    ("MISCONF", "cannot write to its disk"),
    ("NOREPLICAS", "has not enough replicas (min-replicas-to-write)"),
    (AskError, "is moving this queue to another node"),
    (TryAgainError, "is moving this queue to another node"),
    (ClusterDownError, "has lost a part of its Cluster"),
)


def is_outage(exc: BaseException) -> bool:
    """Whether an error means that Redis cannot serve now."""
    if isinstance(exc, ExecAbortError):  # a queued command was refused; the text has the reason
        return any(code in str(exc) for code in ("OOM", "READONLY", "MISCONF", "NOREPLICAS"))
    return isinstance(exc, OUTAGE_ERRORS) or (
        isinstance(exc, ResponseError) and str(exc).startswith(_CODES)
    )


def unavailable(cause: BaseException | None = None) -> StoreUnavailable:
    """Make the error that a caller gets while Redis cannot serve; names no address and no user."""
    what = "does not answer"
    for kind, reason in _REASONS:
        if str(cause).startswith(kind) if isinstance(kind, str) else isinstance(cause, kind):
            what = reason
            break
    problem = f"The queue's Redis {what}."
    error = StoreUnavailable(f"{problem} Try again.", retry_after_s=1)
    error.problem, error.unsent = problem, UNSENT in getattr(cause, "__notes__", ())
    return error


@contextmanager
def reaching_redis() -> Iterator[None]:
    """Translate the errors of the calls to Redis inside.

    Raises:
        StoreUnavailable: In place of an error that means "not now"; its cause is that error.
    """
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as exc:
        if not is_outage(exc):
            raise
        raise unavailable(exc) from exc


async def read(reply: Awaitable[T]) -> T:
    """Await the reply to one command.

    Raises:
        StoreUnavailable: See `reaching_redis`.
    """
    with reaching_redis():
        return await reply
