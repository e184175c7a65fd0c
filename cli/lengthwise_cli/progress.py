"""The progress displays of the commands, on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


def progress_bars(*, quiet: bool = False) -> Progress:
    """Return a display of progress bars with counts; `quiet` prints nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )


def spinner(*, quiet: bool, transient: bool = False) -> Progress:
    """Return a spinner that shows the current step.

    Args:
        quiet: Print nothing.
        transient: Erase the spinner at the end.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
        transient=transient,
    )
