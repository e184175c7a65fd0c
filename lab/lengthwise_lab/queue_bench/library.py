"""What a library has to offer to be measured, and which libraries there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, cast

from lengthwise_lab.errors import BadChoice
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced

#: What installs all the others.
INSTALL = "pip install 'lengthwise[bench]'"

#: Name -> the distribution that has it; ours first.
LIBRARIES = {
    "lengthwise": "lengthwise",
    "arq": "arq",
    "bullmq": "bullmq",
    "celery": "celery",
    "dramatiq": "dramatiq",
    "rq": "rq",
    "saq": "saq",
    "streaq": "streaq",
}


@dataclass(frozen=True, kw_only=True)
class Semantics:
    """What a library promises as it is set up here, in a few words each, and how it is set up."""

    settings: str
    acknowledged: str  #: When a job leaves the server for good.
    after_a_kill: str  #: What becomes of the jobs of a worker that was killed, and when.
    retries: str
    deduplication: str
    result: str
    order: str

    def as_json(self) -> dict[str, str]:
        """By field."""
        return asdict(self)


class Library(Protocol):
    """A module in `libraries`."""

    SEMANTICS: Semantics
    #: Hand jobs in as the plan says.
    produce: Callable[[str, LoadPlan], Produced]
    #: Be one worker process that does nothing with each job but tell the probe; until SIGTERM.
    work: Callable[[str, Probe], None]


def load(name: str) -> Library:
    """The module of a library, which imports the library.

    Raises:
        BadChoice: There is no such library.
    """
    if name not in LIBRARIES:
        raise BadChoice(f"no library {name!r}; there are: {', '.join(LIBRARIES)}")
    module = importlib.import_module(f"lengthwise_lab.queue_bench.libraries.{name}_library")
    return cast(Library, module)


def installed_version(name: str) -> str | None:
    """Its version; None: it is not installed."""
    try:
        return version(LIBRARIES[name])
    except PackageNotFoundError:
        # Ours runs from a source tree as well.
        return "source tree" if name == "lengthwise" else None
