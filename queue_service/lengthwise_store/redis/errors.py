"""Which of Redis's errors mean "not now", and what a caller is then told.

Redis is away, starting, not the primary, full, cannot write, or lacks replicas: all of that is
`StoreUnavailable`, and over without a restart of ours as soon as Redis is well. Everything else
(WRONGTYPE, a bug in a script) is a bug and stays what it is.
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

#: Errors with a class of their own in the client. `AskError` is also MOVED's.
AWAY = (
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
    # Something else answers there: on Kubernetes, a Service that no node knows of yet may lead to
    # a proxy, which speaks HTTP.
    InvalidResponse,
    OSError,
)

#: The rest comes as a plain `ResponseError` whose text begins with its code. UNBLOCKED: the
#: primary became a replica under a blocking command. BUSY: a script of somebody else's hogs it.
_CODES = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY ", "NOTREADY")

#: What an operator has to know is said; everything else is "does not answer".
_REASONS: tuple[tuple[type[Exception] | str, str], ...] = (
    (OutOfMemoryError, "is full (maxmemory)"),
    (ReadOnlyError, "is a read-only replica"),
    (
        NoPermissionError,
        "forbids a command or key; its ACL must allow what docs/operate/redis.md lists",
    ),
    (AuthenticationError, "refused the credentials"),
    (BusyLoadingError, "is loading its data"),
    (InvalidResponse, "is not what answers at its address"),
    ("MISCONF", "cannot write to its disk"),
    ("NOREPLICAS", "has not enough replicas (min-replicas-to-write)"),
    (AskError, "is moving this queue to another node"),
    (TryAgainError, "is moving this queue to another node"),
    (ClusterDownError, "has lost a part of its Cluster"),
)


def is_away(exc: BaseException) -> bool:
    """Whether an error means that Redis cannot serve us now."""
    if isinstance(exc, ExecAbortError):  # a queued command was refused; the text holds why
        return any(code in str(exc) for code in ("OOM", "READONLY", "MISCONF", "NOREPLICAS"))
    return isinstance(exc, AWAY) or (isinstance(exc, ResponseError) and str(exc).startswith(_CODES))


def away(cause: BaseException | None = None) -> StoreUnavailable:
    """What a caller is told while Redis cannot serve; names no address and no user."""
    what = "does not answer"
    for kind, reason in _REASONS:
        if str(cause).startswith(kind) if isinstance(kind, str) else isinstance(cause, kind):
            what = reason
            break
    return StoreUnavailable(
        f"The queue's Redis {what}. Nothing was accepted; try again.", retry_after_s=1
    )


@contextmanager
def reaching_redis() -> Iterator[None]:
    """Around calls to Redis.

    Raises:
        StoreUnavailable: In place of an error that means "not now"; its cause is that error.
    """
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as exc:
        if not is_away(exc):
            raise
        raise away(exc) from exc


async def read(reply: Awaitable[T]) -> T:
    """The reply to one command.

    Raises:
        StoreUnavailable: See `reaching_redis`.
    """
    with reaching_redis():
        return await reply
