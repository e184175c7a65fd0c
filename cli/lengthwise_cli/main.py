"""The `lengthwise` command: finds the command, runs it, and reports its errors.

Every flag can also be given by environment: `lengthwise up --port` is LENGTHWISE_UP_PORT.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from rich.console import Console

from lengthwise_cli.commands.catalog import ROOT, Command, Group
from lengthwise_cli.errors import CliError
from lengthwise_lab.errors import LabError

#: A shell sets it when it asks how to complete a command line (`--install-completion`).
COMPLETION_VARIABLE = "_LENGTHWISE_COMPLETE"


def build(argv: Sequence[str] | None = None) -> typer.Typer:
    """Build the command line.

    Args:
        argv: The arguments without the program's name. Only the command that they name is
            imported; the others have their help line and nothing else. None: import all.
    """
    words = None if argv is None else [a for a in argv if not a.startswith("-")]
    app = _group(ROOT, words, completion=True)
    app.callback()(_root)
    return app


def _group(group: Group, words: Sequence[str] | None, *, completion: bool = False) -> typer.Typer:
    app = typer.Typer(
        help=group.summary,
        no_args_is_help=True,
        add_completion=completion,
        pretty_exceptions_enable=False,
    )
    for name, entry in group.commands.items():
        rest = None if words is None else words[1:] if words[:1] == [name] else []
        if isinstance(entry, Group):
            app.add_typer(_group(entry, rest), name=name)
            continue
        wanted = words is None or words[:1] == [name]
        target = _load(entry) if wanted else _not_loaded
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=entry.summary)
        else:
            app.command(name, short_help=entry.summary)(target)
    return app


def _arguments() -> Sequence[str]:
    """Return the arguments: those of this process, or those that a shell asks to complete."""
    for variable in ("_TYPER_COMPLETE_ARGS", "COMP_WORDS"):  # zsh and fish; bash
        if COMPLETION_VARIABLE in os.environ and variable in os.environ:
            return os.environ[variable].split()[1:]
    return sys.argv[1:]


def _load(command: Command) -> Any:
    module, _, attribute = command.target.partition(":")
    return getattr(import_module(module), attribute)


def _not_loaded() -> None:
    """Placeholder of a command that the arguments do not name; it is never called."""
    raise AssertionError("the command's module was not imported")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lengthwise {metadata.version('lengthwise')}")
        raise typer.Exit


def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            show_envvar=False,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """LLM serving that answers the short requests first."""


def _interrupt(*_: object) -> None:
    # A shell starts background commands (`lengthwise train ... &`) with SIGINT ignored, and then
    # `kill` would end nothing.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def main(make: Callable[[Sequence[str]], Callable[..., object]] = build) -> None:
    """Run the command line; exit 1 with one message when the command fails.

    Args:
        make: Builds the command line from the arguments; tests replace it.
    """
    # `kill` ends a command as Ctrl-C does: it restores settings and removes processes and folders.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        make(_arguments())(prog_name="lengthwise", auto_envvar_prefix="LENGTHWISE")
    except (CliError, LabError) as exc:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"lengthwise: {exc}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
