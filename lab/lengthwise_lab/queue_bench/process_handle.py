"""Start the processes of a measurement and read their events."""

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

#: How long a process may take to end after SIGTERM, s.
_END_S = 5.0


class BenchmarkProcess:
    """A running benchmark_process.py. `wait_for` reads its events."""

    def __init__(self, role: str, plan: dict[str, Any]) -> None:
        """Start the process."""
        self._name = f"{plan.get('library', '')} {role}".strip()
        # A file, because a full pipe would block a library that logs.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = subprocess.Popen(  # noqa: S603 - a module of this distribution
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
        """Wait for an event, and return it.

        Raises:
            BenchProcessError: It did not come within `timeout_s`. The message has the end of the
                log.
        """
        pipe = self._process.stdout
        if pipe is None:
            raise BenchProcessError(f"{self._name}: no pipe")
        ends = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                while b"\n" in self._buffer:
                    line, self._buffer = self._buffer.split(b"\n", 1)
                    received = json.loads(line)
                    if received["event"] == event:
                        return dict(received)
                if not selector.select(max(0.0, ends - time.monotonic())):
                    why = f"no {event!r} within {timeout_s:g} s"
                    raise BenchProcessError(f"{self._name}: {why}{self._tail()}")
                piece = os.read(pipe.fileno(), 65536)
                if not piece:
                    raise BenchProcessError(f"{self._name}: ended before {event!r}{self._tail()}")
                self._buffer += piece

    def _tail(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()[-8:]
        return "\n" + "\n".join(lines) if lines else ""

    def end(self) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end."""
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
def benchmark_process(role: str, plan: dict[str, Any]) -> Iterator[BenchmarkProcess]:
    """Start a process that ends after the block."""
    running = BenchmarkProcess(role, plan)
    try:
        yield running
    finally:
        running.end()


def run_process(role: str, plan: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Run a process and return its result.

    Raises:
        BenchProcessError: It had no result in time.
    """
    with benchmark_process(role, plan) as running:
        return running.wait_for("answer", timeout_s)
