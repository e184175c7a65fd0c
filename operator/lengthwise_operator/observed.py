"""Observations of one service at one moment: the input of every decision. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

#: An object of the Kubernetes API, as parsed JSON.
Body = Mapping[str, Any]

#: (kind, name) of a child.
ChildKey = tuple[str, str]


class WatchedObjects(Protocol):
    """The objects that the watches deliver."""

    def of_service(self, namespace: str, service: str) -> Iterable[Body]:
        """The children and pods of one service."""

    def with_queue(self, queue: str) -> Iterable[tuple[str, str, str]]:
        """(creation time, "namespace/name", uid) of every LLMService with this queue."""


class IndexedObjects:
    """The indices that Kopf keeps, as `WatchedObjects`."""

    def __init__(self, indices: Mapping[str, Any], watched: Iterable[tuple[str, str]]) -> None:
        """`indices`: of each (group, plural) in `watched`, and `queue_names`."""
        self._indices = indices
        self._plurals = [plural for _, plural in watched]

    def of_service(self, namespace: str, service: str) -> Iterable[Body]:
        """The children and pods of one service."""
        for plural in self._plurals:
            yield from self._indices[plural].get((namespace, service), ())

    def with_queue(self, queue: str) -> Iterable[tuple[str, str, str]]:
        """(creation time, "namespace/name", uid) of every LLMService with this queue."""
        return list(self._indices["queue_names"].get(queue, ()))


@dataclass(frozen=True, kw_only=True)
class QueueFacts:
    """One queue, as the queue service reports it.

    Attributes:
        depth: Jobs that wait.
        in_flight: Jobs that are being answered.
        backlog_tokens: Predicted tokens of the waiting jobs.
        ms_per_token: Time of one token of one job, ms.
        backlog_s: Time to serve the waiting jobs with the present workers, s; None: no worker.
        oldest_wait_s: How long the oldest job has waited, s.
        workers: Workers that sent a heartbeat recently.
        engine_problem: Why none of them gives its engine work; "": one does, or none reported.
        mode: open, paused or draining.
        active_policy: The policy in force.
        rank_accuracy: Share of pairs predicted in the right order; None: not measured.
        fallback_active: Whether the queue serves fcfs because that share is too low.
        settings: All settings of the queue, by their names in the queue service's API.
    """

    depth: int
    in_flight: int
    backlog_tokens: float
    ms_per_token: float
    backlog_s: float | None
    oldest_wait_s: float
    workers: int
    engine_problem: str
    mode: str
    active_policy: str
    rank_accuracy: float | None
    fallback_active: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PredictorFacts:
    """The readiness of one predictor, for one queue.

    Attributes:
        version: Version of the model that predicts for the queue; "": not reported.
        problem: Why it predicts nothing; "": it is ready.
        refused: Why it cannot load the files of the queue's model, so that another model predicts;
            "": no problem.
    """

    version: str
    problem: str
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Everything that the planner needs to know about one service.

    Attributes:
        deployments, claims: Children and named claims, by name.
        others: Children of every kind, to find those that are no longer wanted.
        pods: The pods of this service.
        events: Warnings about those pods; read only when a pod is stuck for an unknown reason.
        missing_claims: Claims that the spec names and that do not exist.
        queue: The service's queue; None: it does not exist yet.
        queue_problem: Why the queue is unknown; "": it is known.
        predictor: None: it was not asked (yet).
        refused: Messages of the API server or the queue service that refused the last manifest or
            settings, by child.
        spec_problems: What is wrong with the parts of the spec that have the form of a Pod.
        foreign: Messages about objects that have the name of a child and are not the service's own.
        name_owner: "namespace/name" of an older service with the same queue; "": there is none.
        served_queue: The queue that the running engine serves; None: there is no engine.
        queue_rolling: Whether the workers must be replaced but wait, because the queue service is
            being rolled out.
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
    spec_problems: Sequence[str] = ()
    foreign: Mapping[ChildKey, str] = field(default_factory=dict)
    name_owner: str = ""
    served_queue: str | None = None
    queue_rolling: bool = False

    def foreign_named(self, name: str) -> str:
        """Join the messages about objects of this name that are not the service's own."""
        return "; ".join(message for (_, child), message in self.foreign.items() if child == name)

    def refusals_of(self, name: str) -> str:
        """Join the API server's refusals of children of this name."""
        # A cluster may forbid the operator to create monitors; that keeps no request from its
        # answer.
        return "; ".join(
            message if kind == "Deployment" else f"{kind} {name}: {message}"
            for (kind, child), message in self.refused.items()
            if child == name and kind not in ("Queue", "QueueCommand", "PodMonitor")
        )
