"""Check that a job's output is whole: no gap, no repeat, one engine call per attempt. Pure.

Called by output_checks.py. A piece is "ref run place pieces;" (model_server.py), so that the output
itself shows which job and which engine call it belongs to, and at which place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

#: The beginning of the text of something that is no answer.
FOREIGN = "foreign: "

Entry = Sequence[str]  #: Id, kind ("chunk", "attempt", "end"), text.


@dataclass
class Flaws:
    """The flaws of one output, as sentences."""

    gaps: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)  #: Not exactly one end, or it is not last.
    foreign: list[str] = field(default_factory=list)  #: An accepted answer that is none.
    gone: list[str] = field(default_factory=list)  #: Entries that were read and no longer exist.


@dataclass(frozen=True)
class Piece:
    """One piece of an answer."""

    ref: str
    run: int
    place: int
    pieces: int


def pieces_of(text: str) -> list[Piece]:
    """Parse a text: a piece of a stream, several, or none (the first of an answer may be empty)."""
    return [
        Piece(words[0], *map(int, words[1:]))
        for part in text.split(";")
        if len(words := part.split()) == 4
    ]


def refs_of(entries: Sequence[Entry]) -> set[str]:
    """Return the jobs whose pieces are in an output."""
    return {piece.ref for e in entries if e[1] == "chunk" for piece in pieces_of(e[2])}


def entry_text(kind: str, data: str | bytes) -> str:
    """Return the part of an entry that is compared: a text, an attempt's number, a state.

    A chunk that is no part of an answer gives a text that begins with `FOREIGN`.
    """
    if kind == "attempt":
        return str(json.loads(data)["attempt"])
    if kind == "end":
        return str(json.loads(data)["state"])
    try:
        choices = json.loads(data)["choices"]
        said = (choices[0].get("delta") or choices[0].get("message") or {}) if choices else {}
        return str(said.get("content") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return foreign(data)


def foreign(data: str | bytes) -> str:
    """Return the text that stands for data that is no answer."""
    text = data if isinstance(data, str) else data.decode(errors="replace")
    return FOREIGN + repr(text[:60])


def find_flaws(entries: Sequence[Entry], ref: str | None) -> Flaws:
    """Find the flaws of a complete output.

    Args:
        entries: In the order in which they were read.
        ref: The job that it must belong to; None: not checked.
    """
    flaws = Flaws()
    ids = [_order(entry[0]) for entry in entries]
    if any(a >= b for a, b in pairwise(ids)):
        flaws.repeats.append("entry ids do not ascend")
    ends = [i for i, entry in enumerate(entries) if entry[1] == "end"]
    if len(ends) != 1 or ends[0] != len(entries) - 1:
        flaws.ends.append(f"{len(ends)} ends in {len(entries)} entries, at {ends}")
    attempt, run, next_place, seen, strange = 1, None, 0, set(), None
    for entry in entries:
        if entry[1] == "attempt":
            if int(entry[2]) <= attempt:
                flaws.repeats.append(f"attempt {entry[2]} follows attempt {attempt}")
            attempt, run, next_place, strange = int(entry[2]), None, 0, None
        if entry[1] == "chunk" and entry[2].startswith(FOREIGN):
            strange = entry[2]
        for piece in pieces_of(entry[2]) if entry[1] == "chunk" else ():
            if ref is not None and piece.ref != ref:
                flaws.mixed.append(f"a piece of {piece.ref} in the output of {ref}")
            if run is None:
                if piece.run in seen:
                    flaws.mixed.append(f"call {piece.run} continues in attempt {attempt}")
                run = piece.run
                seen.add(run)
            if piece.run != run:
                flaws.mixed.append(f"calls {run} and {piece.run} in attempt {attempt}")
                run, next_place = piece.run, piece.place
            if piece.place > next_place:
                flaws.gaps.append(f"attempt {attempt}: piece {piece.place} instead of {next_place}")
            elif piece.place < next_place:
                flaws.repeats.append(f"attempt {attempt}: piece {piece.place} twice")
            next_place = piece.place + 1
    succeeded = bool(entries) and entries[-1][1] == "end" and entries[-1][2] == "succeeded"
    if succeeded and strange is not None:
        flaws.foreign.append(f"attempt {attempt} has {strange}")
    elif succeeded:
        chunks = (pieces_of(e[2]) for e in reversed(entries) if e[1] == "chunk")
        last = next((pieces[-1] for pieces in chunks if pieces), None)
        if last is None or next_place != last.pieces:
            flaws.gaps.append(f"answered after {next_place} of {last and last.pieces} pieces")
    return flaws


def is_whole(text: str) -> bool:
    """Whether a text consists of all pieces of one call, in order."""
    found = pieces_of(text)
    return bool(found) and found == [
        Piece(found[0].ref, found[0].run, place, found[0].pieces)
        for place in range(found[0].pieces)
    ]


def compare(read: Sequence[Entry], whole: Sequence[Entry], *, ended: bool) -> Flaws:
    """Find the flaws in what a reader saw, compared with the output at the end."""
    flaws = Flaws()
    if read and whole and not {entry[0] for entry in read} <= {entry[0] for entry in whole}:
        flaws.gone.append("a reader saw an entry that no longer exists")
        return flaws  # nothing else can be compared
    ids, all_ids = [entry[0] for entry in read], [entry[0] for entry in whole]
    if len(set(ids)) != len(ids):
        flaws.repeats.append("a reader saw an entry twice")
    if not ended:
        flaws.gaps.append(f"a reader never saw the end, only {len(ids)} of {len(all_ids)} entries")
    missed = set(all_ids[: len(all_ids) if ended else len(ids)]) - set(ids)
    if missed:
        flaws.gaps.append(f"a reader missed {len(missed)} entries, such as {min(missed)}")
    if missed or flaws.repeats:
        pass  # they differ already
    elif [list(e) for e in read] != [list(e) for e in whole[: len(read)]]:
        flaws.mixed.append("a reader saw other entries, or another order")
    return flaws


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)
