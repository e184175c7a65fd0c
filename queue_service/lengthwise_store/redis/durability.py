"""The durability of acknowledged writes, and their confirmation: docs/operate/guarantees.md.

`async`: the primary has it. `replica`: some replicas have it in memory too. `always`: the primary's
disk has it. The confirmation is asked for in the pipeline of the writes, behind one small write of
its own: WAIT is about the last write of *its* connection, and a repeated submit that finds its job
writes nothing. Called by base.py and pipeline.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Durability(StrEnum):
    """The failures that an acknowledged write survives."""

    ASYNC = "async"  #: What Redis itself offers: its persistence, and asynchronous replication.
    REPLICA = "replica"  #: The loss of the primary, if a replica that confirmed is promoted.
    ALWAYS = "always"  #: The loss of the primary's power; needs `appendfsync always`.


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The commands that confirm writes, and the replies that are enough."""

    replicas: int  #: This many must have the writes in memory; 0: none.
    disk: bool  #: The primary's append-only file must have them on disk.
    timeout_ms: int  #: Longest wait for the replicas, and for the disk, ms each.

    def commands(self, key: str) -> list[tuple[Any, ...]]:
        """Return the commands to send behind the writes.

        Args:
            key: A key that was written; its hash tag determines the slot.
        """
        tag = key[: key.index("}") + 1] if "}" in key else "lw:"
        # It expires after a minute, so that it leaves nothing behind.
        commands: list[tuple[Any, ...]] = [("SET", f"{tag}:sync", "", "PX", 60_000)]
        if self.replicas > 0:
            commands.append(("WAIT", self.replicas, self.timeout_ms))
        if self.disk:
            commands.append(("WAITAOF", 1, 0, self.timeout_ms))
        return commands

    def missing(self, replies: Sequence[Any]) -> str | None:
        """Describe what the replies to `commands` do not confirm; None: all is confirmed."""
        for reply in replies:
            if isinstance(reply, Exception):
                return f"Redis refused to confirm it: {reply}"
        rest = list(replies[1:])
        if self.replicas > 0 and (got := int(rest.pop(0))) < self.replicas:
            return f"{got} of {self.replicas} replicas confirmed it in {self.timeout_ms} ms"
        if self.disk and int(rest.pop(0)[0]) < 1:
            return f"it was not on the primary's disk within {self.timeout_ms} ms"
        return None


def confirmation(mode: Durability, *, replicas: int, timeout_ms: int) -> Confirmation | None:
    """Return the confirmation that a mode asks for; None: none.

    Args:
        mode: See `Durability`.
        replicas: Used by mode `replica`; at least 1.
        timeout_ms: See `Confirmation`.
    """
    if mode is Durability.ASYNC:
        return None
    if mode is Durability.REPLICA:
        return Confirmation(replicas=max(1, replicas), disk=False, timeout_ms=timeout_ms)
    return Confirmation(replicas=0, disk=True, timeout_ms=timeout_ms)
