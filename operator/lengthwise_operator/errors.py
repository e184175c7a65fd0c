"""What can go wrong between the operator and what it talks to.

```
OperatorError
├── Refused        the other side understood and says no: the message goes into a condition
├── Unreachable    it does not answer, or not now: tried again, with pauses that grow
└── BadSpec        an LLMService that cannot be read: the message goes into a condition
```

Expected outcomes (there is no such object) are return values.
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all; `message` is for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refused(OperatorError):
    """The API server or the queue service refuses what was sent; again would not help."""


class Unreachable(OperatorError):
    """No answer, or one that means "later"."""


class BadSpec(OperatorError):
    """The object does not have the form that its CRD demands."""
