"""Errors of the operator.

```
OperatorError
├── Refused        the other side understood and refused: the message goes into a condition
├── Unreachable    no answer, or a temporary failure: tried again after growing pauses
└── BadSpec        an LLMService that cannot be read: the message goes into a condition
```

Expected outcomes (an object does not exist) are return values.
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base class; `message` is written for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refused(OperatorError):
    """The API server or the queue service refused what was sent; a retry would not help.

    `status` is the HTTP status of the answer; 0: it is not known.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(OperatorError):
    """There is no answer, or one that asks to try again later."""


class BadSpec(OperatorError):
    """The object does not have the form that its CRD requires."""
