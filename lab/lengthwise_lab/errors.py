"""The errors of the lab, and the remedy of each.

```
LabError
├── BadWorkload         a workload file cannot be used; the message names the file and the line
├── BadChoice           an unknown model, policy or predictor; the message lists the known ones
├── ServiceError        a running service, or an engine, refused or cannot be reached
├── BenchProcessError   a process of a measurement ended, or did not report in time
└── ChaosError          the harness of a chaos run failed, not the system that it tests
```
"""

from __future__ import annotations


class LabError(Exception):
    """Base of all errors of the lab; the message is for the user and names the remedy."""


class BadWorkload(LabError):
    """A workload file cannot be used."""


class BadChoice(LabError):
    """A name is not one of the known ones."""


class ServiceError(LabError):
    """The queue service, or an engine, refused a request or did not answer.

    Attributes:
        status: The HTTP status; None: no answer at all.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        """`message` names what was refused and the remedy."""
        self.status = status
        super().__init__(message)


class BenchProcessError(LabError):
    """A process of a measurement ended, or did not report in time."""


class ChaosError(LabError):
    """The harness of a chaos run failed, so there is no result about the system that it tests."""
