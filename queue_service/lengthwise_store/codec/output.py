"""A job's output: the entries of its stream, or the END of a job whose record alone has it.

Called by the store's reads and by the output hub.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from lengthwise_contract.states import TERMINAL, JobState
from lengthwise_store.codec.jobs import read_usage
from lengthwise_store.jobs import EntryKind, OutputEntry

log = logging.getLogger(__name__)

#: The kind of a CHUNK that starts its claim. It is a kind of its own and not one more field: in a
#: stream node, entries whose fields differ from the first one's repeat the names, 10 bytes each.
_FIRST = "first"

#: The fields of a record that `read_silent_end` reads.
END_FIELDS = ("state", "runs", "finished_ms", "error", "usage", "first_output_ms")


def entry_order(entry_id: str) -> tuple[int, int]:
    """Return the two numbers of an entry's id, by which entries are ordered."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


def read_entries(reply: list[tuple[bytes, dict[bytes, bytes]]]) -> list[OutputEntry]:
    """Read the entries of XRANGE or XREAD; an unreadable one is logged and skipped."""
    entries = []
    for entry_id, fields in reply:
        try:
            kind = fields[b"k"].decode()
            entry = OutputEntry(
                id=entry_id.decode(),
                kind=EntryKind.CHUNK if kind == _FIRST else EntryKind(kind),
                attempt=int(fields[b"a"]),
                data=fields[b"d"],
                starts=kind == _FIRST,
            )
        except (KeyError, ValueError):
            log.warning("output entry cannot be read", extra={"entry": entry_id.decode()})
        else:
            entries.append(entry)
    return entries


def read_silent_end(record: Sequence[bytes | None], after: str) -> list[OutputEntry]:
    """Make the END of a job without a stream, as lua/include/end_job.lua would have written it.

    Args:
        record: The values of `END_FIELDS`; None where the record has none.
        after: The entry that the reader has. If it is this END, nothing follows it: the id of the
            END is the time at which the job ended.

    Returns:
        The END. Or nothing: the job has not ended, or it had a stream, which is gone, or its record
        cannot be read, which is logged.
    """
    try:
        return _read_silent_end(record, after)
    except (IndexError, ValueError):
        log.warning("the end of a job cannot be read", extra={"record": repr(record)})
        return []


def _read_silent_end(record: Sequence[bytes | None], after: str) -> list[OutputEntry]:
    state, runs, finished_ms, error, usage, first_output_ms = record
    if state is None or JobState(state.decode()) not in TERMINAL or first_output_ms is not None:
        return []
    entry_id = f"{int(float(finished_ms or 0))}-0"
    if entry_order(entry_id) <= entry_order(after):
        return []
    prompt, output, details = read_usage((usage or b"").decode())
    end = {
        "state": state.decode(),
        "error": json.loads(error) if error else None,
        "prompt_tokens": prompt,
        "output_tokens": output,
    } | ({} if details is None else {"usage_details": details})
    attempt = int((runs or b"0").split(b" ")[0])
    data = json.dumps(end, separators=(",", ":")).encode()
    return [OutputEntry(id=entry_id, kind=EntryKind.END, attempt=attempt, data=data)]
