"""Imports that only some commands need, with an error that names the extra to install.

`lengthwise --help` must work without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lengthwise_cli.errors import BadUsage


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Run imports of an optional extra.

    Raises:
        BadUsage: One is not installed; the message has the pip command.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("lengthwise"):
            raise
        raise BadUsage(
            f"this needs {exc.name}, which is not installed: pip install 'lengthwise[{name}]'"
        ) from exc
