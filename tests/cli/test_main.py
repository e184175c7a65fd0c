"""The command line as a whole: what it lists, what it imports, how it ends."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from lengthwise_cli.commands.catalog import ROOT, Command, Group
from lengthwise_cli.main import build

_WAIT = (
    "import time, lengthwise_cli.main as m\n"
    "def serve(**_): print('up', flush=True); time.sleep(60)\n"
    "m.main(make=lambda argv: serve)\n"
)


def _commands(
    group: Group, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Command]]:
    for name, entry in group.commands.items():
        if isinstance(entry, Group):
            yield from _commands(entry, (*words, name))
        else:
            yield (*words, name), entry


_HEAVY = ("aiohttp", "fastapi", "httpx", "numba", "numpy", "onnxruntime", "redis")
_ALL = list(_commands(ROOT))


@pytest.mark.parametrize(("words", "command"), _ALL, ids=["-".join(w) for w, _ in _ALL])
def test_the_summary_of_a_command_is_the_first_line_of_its_help(
    words: tuple[str, ...], command: Command
) -> None:
    # The catalog repeats it, so that `lengthwise --help` need not import the command.
    module, _, attribute = command.target.partition(":")
    target = getattr(import_module(module), attribute)
    text = target.info.help if isinstance(target, typer.Typer) else inspect.getdoc(target)
    assert str(text).splitlines()[0] == command.summary


@pytest.mark.parametrize("words", [w for w, _ in _ALL], ids=["-".join(w) for w, _ in _ALL])
def test_a_command_that_the_arguments_name_is_the_whole_command(words: tuple[str, ...]) -> None:
    arguments = [*words, "--help"]
    lazily = CliRunner().invoke(build(arguments), arguments)
    wholly = CliRunner().invoke(build(), arguments)
    assert lazily.exit_code == 0
    assert lazily.output == wholly.output


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "--help"]], ids=["root", "bench"])
def test_help_lists_every_command_and_imports_none(arguments: list[str]) -> None:
    # `lengthwise --help` took 1.6 s of CPU: it imported every command, ONNX Runtime and aiohttp.
    start = (
        "import sys; from lengthwise_cli.main import build\n"
        f"try: build({arguments!r})({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print([m for m in {_HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    *text, imported = done.stdout.splitlines()
    assert imported == "[]"
    group = ROOT if len(arguments) == 1 else ROOT.commands["bench"]
    assert isinstance(group, Group)
    for name in group.commands:
        assert any(name in line for line in text)


def test_it_prints_its_version() -> None:
    done = CliRunner().invoke(build(["--version"]), ["--version"])
    assert done.output == f"lengthwise {version('lengthwise')}\n"


@pytest.mark.parametrize(
    ("typed", "want"),
    [("lengthwise do", "doctor"), ("lengthwise demo --req", "--requests")],
    ids=["command", "flag"],
)
def test_a_shell_completes_commands_and_their_flags(typed: str, want: str) -> None:
    # Only the named command is imported, and a shell names it in its own way.
    asked = {
        "_LENGTHWISE_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "lengthwise_cli"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [want]


def test_a_mistyped_command_is_an_error_that_suggests_the_right_one() -> None:
    done = CliRunner().invoke(build(["submti"]), ["submti"])
    assert done.exit_code == 2
    assert "'submit'" in done.output


def test_a_command_without_its_extra_names_the_pip_command() -> None:
    # A plain `pip install lengthwise` has the script, and it ended with a traceback about typer.
    start = (
        "import sys; sys.modules['typer'] = None\n"
        "from lengthwise_cli.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        "lengthwise: typer is not installed, which every command needs: "
        "pip install 'lengthwise[local]'\n"
    )


@pytest.mark.parametrize("ignored", [False, True], ids=["foreground", "background"])
def test_sigterm_ends_a_command_in_the_foreground_and_in_the_background(ignored: bool) -> None:
    # A shell's background command ignores SIGINT, and a training run there could not be ended.
    start = (
        "import signal, sys, os\n"
        f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if ignored else 'default_int_handler'})\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {_WAIT!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
