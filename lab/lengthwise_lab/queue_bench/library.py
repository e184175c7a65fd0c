"""The interface of a measured library, and the list of libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, cast

from lengthwise_lab.errors import BadChoice
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan, Produced

#: The command that installs all other libraries.
INSTALL = "pip install 'lengthwise[bench]'"

#: Name -> its distribution; Lengthwise first.
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
    """The guarantees of a library with its settings here, and the settings, in a few words."""

    settings: str
    acknowledged: str  #: When a job is removed from the server.
    after_a_kill: str  #: What happens to the jobs of a killed worker, and when.
    retries: str
    deduplication: str
    result: str
    order: str

    def as_json(self) -> dict[str, str]:
        """Return the texts by field."""
        return asdict(self)


class Library(Protocol):
    """A module in `libraries`."""

    SEMANTICS: Semantics
    #: Submit the jobs of a plan.
    produce: Callable[[str, LoadPlan], Produced]
    #: Run one worker process, whose job only reports to the probe, until SIGTERM.
    work: Callable[[str, Probe], None]


def load(name: str) -> Library:
    """Import the module of a library, which imports the library.

    Raises:
        BadChoice: There is no such library.
    """
    if name not in LIBRARIES:
        raise BadChoice(f"no library {name!r}; there are: {', '.join(LIBRARIES)}")
    module = importlib.import_module(f"lengthwise_lab.queue_bench.libraries.{name}_library")
    return cast(Library, module)


def installed_version(name: str) -> str | None:
    """Return the version of a library; None: it is not installed."""
    try:
        return version(LIBRARIES[name])
    except PackageNotFoundError:
        # Ours may run from a source tree.
        return "source tree" if name == "lengthwise" else None
