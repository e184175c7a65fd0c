"""How sure an acknowledged write is: docs/operate/guarantees.md.

`async`: the primary has it. `replica`: so many replicas have it in memory, too. `always`: the
primary's disk has it. The confirmation travels in the same pipeline as the writes it is about, and
behind one small write of its own: WAIT speaks of the last write of *its* connection, and a repeated
submit that finds its job there wrote nothing. Called by redis_store.py and script_runner.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Durability(StrEnum):
    """What an acknowledged write survives."""

    ASYNC = "async"  #: What Redis itself gives: its persistence, and asynchronous replication.
    REPLICA = "replica"  #: The loss of the primary, if a replica that confirmed is promoted.
    ALWAYS = "always"  #: The loss of the primary's power; needs `appendfsync always`.


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What is asked behind writes, and when the answer is enough."""

    replicas: int  #: So many must have the writes in memory; 0: none.
    disk: bool  #: The primary's append-only file must have them on disk.
    timeout_ms: int  #: Longest wait for the replicas, and for the disk, ms each.

    def commands(self, key: str) -> list[tuple[Any, ...]]:
        """The commands to send behind the writes.

        Args:
            key: One that was written; its hash tag says which slot.
        """
        tag = key[: key.index("}") + 1] if "}" in key else "lw:"
        # It lives for a minute only so that it leaves nothing behind.
        commands: list[tuple[Any, ...]] = [("SET", f"{tag}:sync", "", "PX", 60_000)]
        if self.replicas > 0:
            commands.append(("WAIT", self.replicas, self.timeout_ms))
        if self.disk:
            commands.append(("WAITAOF", 1, 0, self.timeout_ms))
        return commands

    def missing(self, answers: Sequence[Any]) -> str | None:
        """What the answers to `commands` lack, in words; None: all is confirmed."""
        for answer in answers:
            if isinstance(answer, Exception):
                return f"Redis refused to confirm it: {answer}"
        rest = list(answers[1:])
        if self.replicas > 0 and (got := int(rest.pop(0))) < self.replicas:
            return f"{got} of {self.replicas} replicas confirmed it in {self.timeout_ms} ms"
        if self.disk and int(rest.pop(0)[0]) < 1:
            return f"it was not on the primary's disk within {self.timeout_ms} ms"
        return None


def confirmation(mode: Durability, *, replicas: int, timeout_ms: int) -> Confirmation | None:
    """What a mode asks for; None: nothing.

    Args:
        mode: See `Durability`.
        replicas: Of mode `replica`; at least 1.
        timeout_ms: See `Confirmation`.
    """
    if mode is Durability.ASYNC:
        return None
    if mode is Durability.REPLICA:
        return Confirmation(replicas=max(1, replicas), disk=False, timeout_ms=timeout_ms)
    return Confirmation(replicas=0, disk=True, timeout_ms=timeout_ms)
