"""A queue's settings as Redis keeps them: what people set, and what workers publish.

People's settings are one JSON object that holds only the fields that were set, so that a default is
the default of the release that reads it. Fields that this release does not know stay as they are: a
newer release wrote them. What workers publish is another object, in another key.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lengthwise_contract.queue_settings import PUBLISHED_FIELDS, QueueSettings
from lengthwise_store.queues import Queue

log = logging.getLogger(__name__)

#: What people set, by field; it may hold fields of a newer release.
Document = dict[str, Any]


def read_document(raw: bytes | None) -> Document:
    """Read what people set; {}: nothing, or no JSON object."""
    try:
        found = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_document(document: Document) -> str:
    """Write what people set."""
    return json.dumps(document, separators=(",", ":"))


def replaced(stored: Document, settings: QueueSettings) -> Document:
    """Replace every setting that this release knows; one that is not set gets its default."""
    return _unknown(stored) | settings.model_dump(mode="json", exclude_unset=True)


def patched(stored: Document, changes: Mapping[str, Any]) -> Document:
    """Merge changes into what people set; None takes a field back to its default.

    Raises:
        ValueError: A field is not a setting.
        ValidationError: A value is wrong.
    """
    strange = changes.keys() - QueueSettings.model_fields.keys()
    if strange:
        raise ValueError(f"not settings of a queue: {sorted(strange)}")
    known = {n: v for n, v in stored.items() if n in QueueSettings.model_fields} | dict(changes)
    known = {n: v for n, v in known.items() if n not in changes or v is not None}
    return replaced(stored, QueueSettings.model_validate(known))


def read_queue(name: str, raw: bytes, published: bytes | None) -> Queue | None:
    """Read a queue's settings; None: they cannot be read, which is logged."""
    document = read_document(raw)
    facts = read_document(published).get("facts")
    try:
        if not isinstance(json.loads(raw), dict):
            raise ValueError("not an object")
        # A field of a newer version must not make the queue disappear for this one.
        own = QueueSettings.model_validate(document, extra="ignore")
    except (ValidationError, ValueError):
        log.exception("queue settings cannot be read; put them again", extra={"queue": name})
        return None
    return Queue(
        name=name,
        settings=in_force(own, facts if isinstance(facts, dict) else {}),
        set_fields=frozenset(own.model_fields_set),
        published=facts if isinstance(facts, dict) else {},
    )


def in_force(own: QueueSettings, facts: Mapping[str, Any]) -> QueueSettings:
    """Return the settings in force: people's value where there is one, else a worker's."""
    found = {n: facts[n] for n in PUBLISHED_FIELDS if n in facts and getattr(own, n) is None}
    if not found:
        return own
    try:
        QueueSettings.model_validate(found)
    except ValidationError:
        return own
    return own.model_copy(update=found)


def _unknown(stored: Document) -> Document:
    return {n: v for n, v in stored.items() if n not in QueueSettings.model_fields}
