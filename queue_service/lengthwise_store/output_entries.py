"""A job's output as values: the entries of its stream, or the end that stands in its record alone.

Called by `RedisReads` and the output hub; no client, no clock.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_store.jobs import EntryKind, OutputEntry

log = logging.getLogger(__name__)

#: A CHUNK that starts its claim. A word of its own and not a field more: the entries of a stream
#: node that have other fields than its first one spell the names out, at 10 bytes each.
_FIRST = "first"


#: The fields of a record that `silent_end` reads.
END_FIELDS = ("state", "runs", "finished_ms", "error", "usage", "first_output_ms")


def order(entry_id: str) -> tuple[int, int]:
    """The two numbers of an entry's id, by which entries come one after the other."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


def parse_entries(reply: list[tuple[bytes, dict[bytes, bytes]]]) -> list[OutputEntry]:
    """Entries of XRANGE or XREAD as values; what cannot be read is logged and passed over."""
    entries = []
    for entry_id, fields in reply:
        try:
            said = fields[b"k"].decode()
            entry = OutputEntry(
                id=entry_id.decode(),
                kind=EntryKind.CHUNK if said == _FIRST else EntryKind(said),
                attempt=int(fields[b"a"]),
                data=fields[b"d"],
                starts=said == _FIRST,
            )
        except (KeyError, ValueError):
            log.warning("output entry cannot be read", extra={"entry": entry_id.decode()})
        else:
            entries.append(entry)
    return entries


def silent_end(record: Sequence[bytes | None], after: str) -> list[OutputEntry]:
    """The END of a job without a stream, as lua/include/end_job.lua would have written it.

    Args:
        record: The values of `END_FIELDS`; None where the record has none.
        after: Nothing is behind this entry if it is that END itself, whose id is when it was.

    Returns:
        The END; or nothing: the job has not ended, or had a stream, which is gone, or its record
        cannot be read, which is logged.
    """
    try:
        return _silent_end(record, after)
    except (IndexError, ValueError):
        log.warning("the end of a job cannot be read", extra={"record": repr(record)})
        return []


def _silent_end(record: Sequence[bytes | None], after: str) -> list[OutputEntry]:
    state, runs, finished_ms, error, usage, first_output_ms = record
    if state is None or JobState(state.decode()) not in TERMINAL or first_output_ms is not None:
        return []
    entry_id = f"{int(float(finished_ms or 0))}-0"
    if order(entry_id) <= order(after):
        return []
    prompt, output = (int(n) if n else None for n in (usage or b" ").split(b" "))
    said = {
        "state": state.decode(),
        "error": json.loads(error) if error else None,
        "prompt_tokens": prompt,
        "output_tokens": output,
    }
    attempt = int((runs or b"0").split(b" ")[0])
    data = json.dumps(said, separators=(",", ":")).encode()
    return [OutputEntry(id=entry_id, kind=EntryKind.END, attempt=attempt, data=data)]
