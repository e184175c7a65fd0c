"""How the command ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_WAIT = (
    "import time, lengthwise_cli.main as m\n"
    "m.app = lambda **_: (print('up', flush=True), time.sleep(60))\n"
    "m.main()\n"
)


def test_a_command_without_its_extra_names_the_pip_command() -> None:
    # A plain `pip install lengthwise` has the script, and it died of a traceback about typer.
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
def test_kill_ends_a_command_wherever_it_was_started(ignored: bool) -> None:
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
