"""State of one service between two reconciliations; drift is detected from it.

The state is lost in a restart, which only costs one apply of each child.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from lengthwise_operator.observed import Body, ChildKey
from lengthwise_operator.planner import PlannerState

#: A watch delivers what was just sent after a moment. Until then the old object is no drift, s.
ECHO_S = 3.0

#: On the monotonic clock, s: before every other time.
_NEVER_S = -1e9


@dataclass
class SentChild:
    """A child as the operator last sent it, and as the API server stored it.

    Attributes:
        manifest: Digest of the manifest.
        stored: Fingerprint of the stored object; "" if it was refused.
        at_s: When it was sent, on the monotonic clock, s.
        refused: Message of the API server; "": it was accepted.
        foreign: Whether it was not sent, because the object of that name is not the service's own;
            `refused` says so.
        body: The stored object.
    """

    manifest: str
    stored: str
    at_s: float
    refused: str = ""
    foreign: bool = False
    body: Body | None = None


@dataclass
class RefusedSettings:
    """Queue settings that the queue service refused.

    Attributes:
        settings: Digest of the settings; "": none were refused.
        message: Message of the queue service.
        at_s: When they were refused, on the monotonic clock, s.
    """

    settings: str = ""
    message: str = ""
    at_s: float = _NEVER_S


@dataclass
class ServiceState:
    """The state of one service.

    Attributes:
        planner: State of the planner.
        sent: The children as they were last sent.
        claims: Claims that the spec names; None: the claim does not exist.
        events: Warnings about pods that are stuck.
        claims_and_events_s: When claims and events were last read, on the monotonic clock, s.
        refused_settings: Queue settings that the queue service refused.
        refused_command: Message of the queue service to a refused command; "": none.
        status: The status as it was last written, which the watch delivers later; None: none was.
        status_s: When it was written, on the monotonic clock, s.
    """

    planner: PlannerState = field(default_factory=PlannerState)
    sent: dict[ChildKey, SentChild] = field(default_factory=dict)
    claims: dict[str, Body | None] = field(default_factory=dict)
    events: list[Body] = field(default_factory=list)
    claims_and_events_s: float = _NEVER_S
    refused_settings: RefusedSettings = field(default_factory=RefusedSettings)
    refused_command: str = ""
    status: dict[str, Any] | None = None
    status_s: float = _NEVER_S


def fingerprint(child: Body) -> str:
    """Digest of the fields whose change is drift: all except status and bookkeeping."""
    meta = child["metadata"]
    annotations = {
        k: v
        for k, v in (meta.get("annotations") or {}).items()
        if not k.startswith(("deployment.kubernetes.io/", "pv.kubernetes.io/", "volume."))
    }
    spec = dict(child.get("spec") or {})
    return digest_of([spec, meta.get("labels"), annotations, meta.get("ownerReferences")])


def newer(watched: Body, sent: SentChild | None) -> Body:
    """Return a Deployment as the watch has it, or as it was stored if the watch is behind."""
    if sent is None or sent.body is None:
        return watched
    stored_generation, watched_generation = (
        body["metadata"].get("generation", 0) for body in (sent.body, watched)
    )
    same = sent.body["metadata"].get("uid") == watched["metadata"].get("uid")
    return sent.body if same and stored_generation > watched_generation else watched


def digest_of(value: Any) -> str:
    """Digest of a value, independent of the order of its fields."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
