"""The processes of a measurement, seen from the one that measures."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lengthwise_lab.errors import BenchProcessError

#: How long a worker may take to end when it is told to, s.
_END_S = 5.0


class Child:
    """A running child.py; `wait_for` reads what it says."""

    def __init__(self, role: str, plan: dict[str, Any]) -> None:
        """Starts it."""
        self._what = f"{plan.get('library', '')} {role}".strip()
        # A file, because a pipe that nobody reads would stop a library that logs.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [
                sys.executable,
                "-m",
                f"{__package__}.benchmark_process",
                role,
                "--plan",
                json.dumps(plan),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._buffer = b""

    def wait_for(self, event: str, timeout_s: float) -> dict[str, Any]:
        """The line of JSON with this `event`.

        Raises:
            BenchProcessError: It did not come within `timeout_s`; the message has the end of the log.
        """
        pipe = self._process.stdout
        if pipe is None:
            raise BenchProcessError(f"{self._what}: no pipe")
        ends = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                while b"\n" in self._buffer:
                    line, self._buffer = self._buffer.split(b"\n", 1)
                    said = json.loads(line)
                    if said["event"] == event:
                        return dict(said)
                if not selector.select(max(0.0, ends - time.monotonic())):
                    why = f"no {event!r} within {timeout_s:g} s"
                    raise BenchProcessError(f"{self._what}: {why}{self._tail()}")
                piece = os.read(pipe.fileno(), 65536)
                if not piece:
                    raise BenchProcessError(f"{self._what}: ended before {event!r}{self._tail()}")
                self._buffer += piece

    def _tail(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()[-8:]
        return "\n" + "\n".join(lines) if lines else ""

    def end(self) -> None:
        """SIGTERM, and soon afterwards SIGKILL."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


@contextmanager
def child(role: str, plan: dict[str, Any]) -> Iterator[Child]:
    """A child that has ended after the block."""
    running = Child(role, plan)
    try:
        yield running
    finally:
        running.end()


def answer_of(role: str, plan: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Start a child that answers once, and return its answer.

    Raises:
        BenchProcessError: It gave none.
    """
    with child(role, plan) as running:
        return running.wait_for("answer", timeout_s)
