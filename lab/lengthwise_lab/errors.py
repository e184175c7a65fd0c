"""What can go wrong in the lab, and what its user does about it.

```
LabError
├── BadWorkload       a workload file cannot be used; the message names the file and the line
├── BadChoice         a model or a policy is not one that there is; the message lists them
├── ServiceError      a running service, or an engine, refused or cannot be reached
├── ChildSilent       a process of `bench queue` ended, or did not say what it should in time
└── ChaosError        the harness of a chaos run broke, not the system that it tests
```
"""

from __future__ import annotations


class LabError(Exception):
    """Base of all; the message is for the user, and says what to do."""


class BadWorkload(LabError):
    """A workload file cannot be used."""


class BadChoice(LabError):
    """What was asked for is not among what there is."""


class ServiceError(LabError):
    """The queue service, or an engine, did not do what it was asked.

    Attributes:
        status: HTTP status; None: no answer at all.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        """`message` says what was refused and what to do."""
        self.status = status
        super().__init__(message)


class ChildSilent(LabError):
    """A process of a measurement ended, or did not say in time what was waited for."""


class ChaosError(LabError):
    """A chaos run could not be carried out: nothing is said about the system that it tests."""
