"""Loads the Lua scripts, one per event, and reads the moves that their headers declare.

`QUEUE_SCRIPTS` concern a whole queue and move no job. The first header lines of every other script
are its moves, `event: source -> target | target`; a test holds them equal to `TRANSITIONS`. A line
`--@include name` inserts lua/include/name.lua.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lengthwise_contract.states import Event, JobState

_MOVE = re.compile(r"^(?P<event>[a-z]+): (?P<source>[a-z]+) -> (?P<targets>[a-z |]+)$")
_INCLUDE = re.compile(r"^--@include (?P<name>[a-z_]+)$", re.MULTILINE)


#: Scripts that run when Redis is full: they serve stored jobs, free memory and write little. New
#: jobs and pieces of answers are refused. Without this no job could end, and no memory become free.
WHEN_FULL = (Event.CLAIM, Event.BEAT, Event.FINISH, Event.CANCEL, Event.TICK, "remove")


#: Scripts that are no event of one job: a queue's mode and policy, its order after a change, its
#: removal, its counters.
QUEUE_SCRIPTS = ("govern", "remove", "reorder", "stats")


@dataclass(frozen=True)
class Script:
    """One script: its text as sent to Redis, and the SHA-1 that EVALSHA names."""

    name: str
    text: str
    sha: str
    moves: tuple[tuple[JobState | None, JobState], ...]


def _moves(name: str, text: str) -> Iterator[tuple[JobState | None, JobState]]:
    header = text.removeprefix("--[[\n").split("]]", 1)[0]
    for line in header.splitlines():
        match = _MOVE.match(line)
        if match is None:
            break
        if match["event"] != name:
            raise ValueError(f"lua/{name}.lua declares a move of {match['event']!r}")
        source = None if match["source"] == "none" else JobState(match["source"])
        for target in match["targets"].split("|"):
            yield source, JobState(target.strip())


@cache
def load(name: str) -> Script:
    """Load the script of an event, or one of `QUEUE_SCRIPTS`.

    Raises:
        ValueError: An event's header declares no move, or a header declares another script's.
    """
    folder = files("lengthwise_store") / "lua"
    source = (folder / f"{name}.lua").read_text(encoding="utf-8")
    moves = tuple(_moves(name, source))
    if bool(moves) == (name in QUEUE_SCRIPTS):
        raise ValueError(f"lua/{name}.lua: the header's first line must be 'event: a -> b'")
    text = _INCLUDE.sub(
        lambda m: (folder / "include" / f"{m['name']}.lua").read_text(encoding="utf-8"), source
    )
    if name in WHEN_FULL:
        text = "#!lua flags=allow-oom\n" + text
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name=name, text=text, sha=sha, moves=moves)


def load_all() -> dict[str, Script]:
    """Load every script, by name."""
    return {name: load(name) for name in (*Event, *QUEUE_SCRIPTS)}
