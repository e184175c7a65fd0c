"""What was seen of one service at one moment: the input of every decision. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Body = Mapping[str, Any]

#: (kind, name) of a child.
ChildKey = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class QueueFacts:
    """One queue, as the queue service shows it.

    Attributes:
        depth: Jobs waiting.
        in_flight: Jobs being answered.
        backlog_tokens: Predicted tokens of the waiting jobs.
        ms_per_token: What one token of one job takes, ms.
        backlog_s: Time to serve what waits with the present workers, s; None: no worker.
        oldest_wait_s: How long the oldest has waited, s.
        workers: Workers that beat lately.
        mode: open, paused or draining.
        active_policy: What is really served.
        rank_accuracy: Share of pairs predicted in the right order; None: not measured.
        fallback_active: Whether the predictor is not trusted at present.
        settings: All that the queue can be told, by its name there.
    """

    depth: int
    in_flight: int
    backlog_tokens: float
    ms_per_token: float
    backlog_s: float | None
    oldest_wait_s: float
    workers: int
    mode: str
    active_policy: str
    rank_accuracy: float | None
    fallback_active: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PredictorFacts:
    """One predictor, asked for its readiness, as it is for one queue.

    Attributes:
        version: Of the model that predicts for the queue; "": it did not say.
        problem: Why it predicts nothing; "": it is well.
        refused: Why the files that are there for the queue's model are not what predicts; "": they
            are.
    """

    version: str
    problem: str
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Everything.

    Attributes:
        deployments, claims: Children and named claims by name.
        others: Names of further children by kind, to find those that are no longer wanted.
        pods: Of this service.
        events: Warnings about those pods; asked for only when a pod hangs without a reason.
        missing_claims: Claims that the spec names and that do not exist.
        queue: Its queue; None: it has none yet.
        queue_problem: Why nothing is known of the queue; "": it is known.
        predictor: None: nobody was asked (yet).
        refused: What the API server or the queue service said to our last words, by child.
        rival: "namespace/name" of an older service with the same queue.
        served: The queue that the running engine serves; None: there is no engine.
        queue_rolling: Whether the workers are to be replaced and must wait, because the queue
            service itself is being replaced just now.
    """

    deployments: Mapping[str, Body] = field(default_factory=dict)
    claims: Mapping[str, Body] = field(default_factory=dict)
    others: Sequence[ChildKey] = ()
    pods: Sequence[Body] = ()
    events: Sequence[Body] = ()
    missing_claims: Sequence[str] = ()
    queue: QueueFacts | None = None
    queue_problem: str = ""
    predictor: PredictorFacts | None = None
    refused: Mapping[ChildKey, str] = field(default_factory=dict)
    rival: str = ""
    served: str | None = None
    queue_rolling: bool = False
