"""What can go wrong in a worker, and what the worker does about it.

```
WorkerError
├── BadSettings              the process does not start; exit code 2
├── WatchdogGaveUp           the process ends with exit code 1, to be started afresh
└── EngineError              one call of the engine did not end with an answer
    ├── EngineRefused        the request's own fault: the job fails with the engine's words
    ├── EngineBusy           429 or 503: the job is put back, no attempt spent
    ├── EngineAway           nothing listens, or the key is wrong: put back, and claiming stops
    └── EngineFailed         5xx, cut connection, timeout: tried again, an attempt is spent
```

outcomes.py turns an `EngineError` into what the store is told, and nobody else does.
"""

from __future__ import annotations

from typing import Any


class WorkerError(Exception):
    """Base of all."""


class BadSettings(WorkerError):
    """The settings contradict each other; the message says which variable to change."""


class WatchdogGaveUp(WorkerError):
    """Work waits and slots are free, yet nothing is claimed, even over new connections."""


class EngineError(WorkerError):
    """A call of the engine did not end with an answer.

    `status` is the engine's HTTP status and `body` its error body, where it gave them.
    """

    def __init__(self, message: str, *, status: int | None = None, body: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.body = body


class EngineRefused(EngineError):
    """The engine says that the request itself is wrong; asking again would change nothing."""


class EngineBusy(EngineError):
    """The engine has no room now; `retry_after_s` is its own estimate, s, None: it gave none."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: Any = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, status=status, body=body)
        self.retry_after_s = retry_after_s


class EngineAway(EngineError):
    """The engine cannot be called at all: it does not listen, or it does not know our key."""


class EngineFailed(EngineError):
    """The engine broke while it answered; another try may work."""
