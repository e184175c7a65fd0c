"""What can go wrong in the command line, and what the user does about it.

```
CliError
├── BadUsage          a flag or the machine is not as needed; the message says what to change
└── ChildFailed       a process of the local stack did not come up; carries its last log lines
```

`main.py` prints the message (as for the lab's errors) and exits with 1; nobody else does.
"""

from __future__ import annotations


class CliError(Exception):
    """Base of all; the message is for the user, and says what to do."""


class BadUsage(CliError):
    """Something the user can change before starting again."""


class ChildFailed(CliError):
    """A process did not become ready.

    Attributes:
        child: Its name.
        log_tail: The last lines of its log.
    """

    def __init__(self, child: str, reason: str, log_tail: str) -> None:
        """`reason` completes "the child did not start:"."""
        self.child = child
        self.log_tail = log_tail
        shown = f"\nThe last lines of its log:\n{log_tail}" if log_tail else "\nIts log is empty."
        super().__init__(f"{child} did not start: {reason}{shown}")
