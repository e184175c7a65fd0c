"""The errors of a worker, and the reaction to each.

```
WorkerError
├── BadSettings              the process does not start; exit code 2
├── WatchdogGaveUp           the process ends with exit code 1, to be restarted
└── EngineError              one call of the engine did not end with an answer
    ├── EngineRefused        the request is at fault: the job fails with the engine's error
    ├── EngineBusy           429 or 503: the job is put back, no attempt is used up
    ├── EngineUnavailable    nothing listens, or the key is wrong: put back, and claiming stops
    └── EngineFailed         5xx, cut connection, timeout: tried again, an attempt is used up
```

outcomes.py alone turns an `EngineError` into the outcome that the store gets.
"""

from __future__ import annotations

from typing import Any


class WorkerError(Exception):
    """Base class."""


class BadSettings(WorkerError):
    """The settings contradict each other; the message names the variable to change."""


class WatchdogGaveUp(WorkerError):
    """Work waits and slots are free, but nothing is claimed, even over new connections."""


class EngineError(WorkerError):
    """A call of the engine did not end with an answer.

    `status` is the engine's HTTP status and `body` its error body, if it sent them.
    """

    def __init__(self, message: str, *, status: int | None = None, body: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.body = body


class EngineRefused(EngineError):
    """The engine rejects the request itself; repeating it would change nothing."""


class EngineBusy(EngineError):
    """The engine has no room now; `retry_after_s` is its own estimate, s, None: it sent none."""

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


class EngineUnavailable(EngineError):
    """The engine cannot be called: it does not listen, or it rejects the API key."""


class EngineFailed(EngineError):
    """The engine failed while it answered; another attempt may work."""
