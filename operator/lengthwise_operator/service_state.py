"""What the operator remembers of one service between two looks, and how it tells drift.

Called by `rounds.py`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from lengthwise_operator.observed import Body, ChildKey
from lengthwise_operator.planner import Memory


@dataclass
class Sent:
    """A child as we last sent it, and as it was then."""

    manifest: str
    seen: str
    at_s: float
    refused: str = ""
    done: Body | None = None


@dataclass
class Recall:
    """What is remembered of one service. Lost in a restart, which only costs one apply of each."""

    memory: Memory = field(default_factory=Memory)
    sent: dict[ChildKey, Sent] = field(default_factory=dict)
    claims: dict[str, Body | None] = field(default_factory=dict)
    events: list[Body] = field(default_factory=list)
    asked_s: float = -1e9
    queue_refused: tuple[str, str] = ("", "")
    queue_refused_s: float = -1e9
    command_refused: str = ""


def fingerprint(child: Body) -> str:
    """What of a child would be drift if it changed: all but its status and the bookkeeping."""
    meta = child["metadata"]
    notes = {
        k: v
        for k, v in (meta.get("annotations") or {}).items()
        if not k.startswith(("deployment.kubernetes.io/", "pv.kubernetes.io/", "volume."))
    }
    spec = dict(child.get("spec") or {})
    return digest_of([spec, meta.get("labels"), notes, meta.get("ownerReferences")])


def newer(child: Body, sent: Sent | None) -> Body:
    """A Deployment as the watch has it, or as our last apply left it if the watch is behind."""
    if sent is None or sent.done is None:
        return child
    ours, theirs = (body["metadata"].get("generation", 0) for body in (sent.done, child))
    same = sent.done["metadata"].get("uid") == child["metadata"].get("uid")
    return sent.done if same and ours > theirs else child


def digest_of(value: Any) -> str:
    """One text for one value, whatever the order of its fields."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
