"""Errors of the command line.

```
CliError
├── BadUsage          a flag or the machine is wrong; the message names what to change
└── ChildFailed       a process of the local stack did not start; has its last log lines
```

Only `main.py` prints the message and exits with 1; it does so for the lab's errors too.
"""

from __future__ import annotations


class CliError(Exception):
    """Base of all; the message is for the user and names what to do."""


class BadUsage(CliError):
    """The user can change something and run the command again."""


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
