"""What only some commands need is imported inside them; this says what to install if it is missing.

`lengthwise --help` must work without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lengthwise_cli.errors import BadUsage


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports of an optional extra stand in here.

    Raises:
        BadUsage: One of them is not installed; the message has the pip command.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("lengthwise"):
            raise
        raise BadUsage(
            f"this needs {exc.name}, which is not installed: pip install 'lengthwise[{name}]'"
        ) from exc


def one_of(flag: str, value: str, known: Sequence[str]) -> None:
    """Check a flag whose values are known only to what is imported later.

    Raises:
        BadUsage: It is none of them.
    """
    if value not in known:
        raise BadUsage(f"{flag} is {value!r}; it must be one of {', '.join(known)}")
