"""Start the processes of a local stack, keep them alive, and stop them in order.

processes.py describes them. A child that dies is started again, after a growing pause, as long as
the supervisor runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lengthwise_cli.errors import ChildFailed

#: First and longest pause before a dead child is started again, seconds.
BACKOFF_S = (0.2, 5.0)
#: After this lifetime of a child the pause is the first one again, seconds.
HEALTHY_S = 20.0
#: Interval between readiness checks of a starting child, seconds.
POLL_S = 0.05
#: How much of a log is shown when a child fails, lines.
TAIL_LINES = 15


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process: how to start it, when it is ready, and how long it may take to stop.

    `env` is added to this process's environment. `ready` is called repeatedly; it returns False or
    raises OSError while the child is not ready. Its argument is the start time of the child's
    process, seconds since the epoch. `niceness` lowers the priority, as nice(1) does.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    ready: Callable[[float], Awaitable[bool]]
    env: Mapping[str, str] = field(default_factory=dict)
    niceness: int = 0
    ready_within_s: float = 60.0
    stop_within_s: float = 10.0


class Supervisor:
    """The children of one stack. Use it as an async context manager: leaving it stops them all."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        """Build a supervisor; `notify` is called when a child dies, is back, or must be killed."""
        self._notify = notify
        self._children: list[_Running] = []

    async def __aenter__(self) -> Supervisor:
        """Return the supervisor; nothing runs yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all children."""
        await self.stop()

    async def start(self, child: Child) -> None:
        """Start a child, wait until it is ready, and keep it alive afterwards.

        Raises:
            ChildFailed: It exited, or was not ready in time.
        """
        running = _Running(child, self._notify)
        self._children.append(running)
        await running.start()

    def pids(self) -> dict[str, int]:
        """Process id of each living child, by name."""
        return {r.child.name: r.process.pid for r in self._children if r.process is not None}

    async def stop(self) -> None:
        """Stop all, the last started first: SIGTERM, then SIGKILL after the child's time."""
        while self._children:
            await self._children.pop().stop()


class _Running:
    """A child and the task that keeps it alive."""

    def __init__(self, child: Child, notify: Callable[[str], None]) -> None:
        self.child = child
        self.process: asyncio.subprocess.Process | None = None
        self._notify = notify
        self._watcher: asyncio.Task[None] | None = None
        self._log_start = 0

    async def start(self) -> None:
        process = await self._spawn()
        await self._until_ready(process)
        self._watcher = asyncio.create_task(self._watch(process), name=f"watch-{self.child.name}")

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        process = self.process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self.child.stop_within_s)
        except TimeoutError:
            allowed_s = self.child.stop_within_s
            self._notify(f"{self.child.name} did not stop within {allowed_s:.0f} s: killed")
        finally:
            self._kill_group(process)
            await process.wait()
            self.process = None

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Start the process in its own session, so that Ctrl-C reaches only the supervisor."""
        self.child.log.parent.mkdir(parents=True, exist_ok=True)
        with self.child.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lengthwise_cli.local.parent_death"),
                *(str(os.getpid()), str(self.child.niceness)),
                *self.child.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.child.env},
                start_new_session=True,
            )
        return self.process

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + self.child.ready_within_s
        born_s = time.time()
        while True:
            if process.returncode is not None:
                raise self._failed(f"it exited with status {process.returncode}")
            try:
                if await asyncio.wait_for(self.child.ready(born_s), 5):
                    return
            except (OSError, TimeoutError):
                pass  # not listening yet
            if time.monotonic() > deadline:
                raise self._failed(f"not ready after {self.child.ready_within_s:.0f} s")
            await asyncio.sleep(POLL_S)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Restart the child whenever it ends, until cancelled."""
        pause_s = BACKOFF_S[0]
        while True:
            born = time.monotonic()
            status = await process.wait()
            self._kill_group(process)
            if time.monotonic() - born > HEALTHY_S:
                pause_s = BACKOFF_S[0]
            self._notify(
                f"{self.child.name} ended ({_cause(status)}): restarting it "
                f"in {pause_s:.1f} s; its log is {self.child.log}"
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_S[1])
            process = await self._spawn()
            try:
                await self._until_ready(process)
            except ChildFailed as failure:
                self._notify(str(failure))
                self._kill_group(process)
            else:
                self._notify(f"{self.child.name} is back")

    def _kill_group(self, process: asyncio.subprocess.Process) -> None:
        """Kill the rest of the child's session: its children, and the child if it hangs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _failed(self, reason: str) -> ChildFailed:
        return ChildFailed(self.child.name, reason, self._tail())

    def _tail(self) -> str:
        """The last log lines since this start of the child."""
        with self.child.log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


def _cause(status: int) -> str:
    """Describe how a process ended."""
    if status >= 0:
        return f"status {status}"
    return f"killed by {signal.Signals(-status).name}"
