"""Observe one service: the first step of a reconciliation.

What the cluster holds comes from Kopf's indices, which its watches keep up to date, so that
observing a service at rest makes no call of the API.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from lengthwise_operator.children.engine import engine_deployment, worker_image
from lengthwise_operator.children.model_cache import cache_claim
from lengthwise_operator.clients.cluster import Cluster
from lengthwise_operator.clients.predictors import PredictorClient
from lengthwise_operator.clients.queue_poll import PolledQueues
from lengthwise_operator.clients.queue_rollout import QueueRollout
from lengthwise_operator.diagnosis import stuck_pods
from lengthwise_operator.installation import Apis, Installation
from lengthwise_operator.llmservice.names import CACHE, ENGINE, QUEUE_ANNOTATION
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.observed import Body, ChildKey, Observed, WatchedObjects
from lengthwise_operator.ownership import controller_uid
from lengthwise_operator.pod_check import pod_problems
from lengthwise_operator.service_state import ECHO_S, ServiceState, newer

#: The optional APIs of the server are looked up again this often, s: an admin may add them later.
_APIS_S = 300.0

#: Named claims, and warnings about stuck pods, are read this often, s.
_READ_AGAIN_S = 10.0


class Observer:
    """Singleton. Collects what the planner needs to know about a service."""

    def __init__(
        self,
        installation: Installation,
        cluster: Cluster,
        queues: PolledQueues,
        predictors: PredictorClient,
    ) -> None:
        """Call nothing yet."""
        self._installation = installation
        self._cluster = cluster
        self._queues = queues
        self._predictors = predictors
        self._queue_rollout = QueueRollout(installation.queue_deployment, cluster)
        self._apis: Apis | None = None
        self._apis_s = -1e9

    async def apis(self) -> Apis:
        """The optional APIs that the API server offers.

        Raises:
            Refused, Unreachable: The API server did not answer the question.
        """
        if self._apis is None or time.monotonic() - self._apis_s > _APIS_S:
            self._apis_s = time.monotonic()
            self._apis = await asyncio.to_thread(self._cluster.apis)
        return self._apis

    async def observe(
        self, service: LLMService, watched: WatchedObjects, state: ServiceState
    ) -> Observed:
        """Collect the observed state of one service.

        Raises:
            Refused, Unreachable: A claim, an event or the queue service's Deployment could not be
                read.
        """
        kinds: dict[str, dict[str, Body]] = {}
        for found in watched.of_service(service.namespace, service.name):
            # Anybody can put the operator's labels on an object.
            if found["kind"] == "Pod" or controller_uid(found) == service.uid:
                kinds.setdefault(found["kind"], {})[found["metadata"]["name"]] = found
        pods = list(kinds.pop("Pod", {}).values())
        await self._read_claims_and_events(service, pods, state)
        named = {name: claim for name, claim in state.claims.items() if claim is not None}
        deployments = _deployments(kinds.get("Deployment", {}), state)
        engine = deployments.get(service.child(ENGINE))
        served_queue = None if engine is None else _queue_of(engine)
        spec_problems = pod_problems(service.spec)
        predictor_url = service.predictor_url(self._installation)
        return Observed(
            deployments=deployments,
            claims={**kinds.get("PersistentVolumeClaim", {}), **named},
            others=[(kind, name) for kind, children in kinds.items() for name in children],
            pods=pods,
            events=state.events,
            missing_claims=[name for name, claim in state.claims.items() if claim is None],
            queue=self._queues.facts(service.queue),
            queue_problem=self._queues.problem,
            predictor=await self._predictors.ask(predictor_url, service.queue)
            if predictor_url
            else None,
            refused=_refusals(service, state),
            foreign={key: sent.refused for key, sent in state.sent.items() if sent.foreign},
            name_owner=_name_owner(service, watched),
            served_queue=served_queue,
            spec_problems=spec_problems,
            queue_rolling=not spec_problems
            and self._worker_is_outdated(service, engine)
            and await self._queue_rollout.in_progress(),
        )

    async def _read_claims_and_events(
        self, service: LLMService, pods: list[Body], state: ServiceState
    ) -> None:
        """Read what no watch delivers: the user's claim, and warnings about stuck pods."""
        if time.monotonic() - state.claims_and_events_s < _READ_AGAIN_S:
            return
        claim = cache_claim(service)
        named = [claim] if claim and claim != service.child(CACHE) else []
        stuck = stuck_pods(pods, datetime.now(UTC))
        if not named and not stuck:
            state.claims, state.events = {}, []
            return
        state.claims_and_events_s = time.monotonic()
        state.claims = {
            name: await asyncio.to_thread(
                self._cluster.find, "PersistentVolumeClaim", service.namespace, name
            )
            for name in named
        }
        state.events = [
            event
            for uid in stuck[:3]
            for event in await asyncio.to_thread(self._cluster.warnings, service.namespace, uid)
        ]

    def _worker_is_outdated(self, service: LLMService, engine: Body | None) -> bool:
        if engine is None or service.deleted:
            return False
        # The user's template may name another worker image, so the desired manifest is built.
        desired = engine_deployment(service, self._installation, 0)
        return worker_image(engine) != worker_image(desired)


def _deployments(watched: dict[str, Body], state: ServiceState) -> dict[str, Body]:
    """The Deployments of the watch, with those that were just sent and that it lacks."""
    found = {
        name: newer(child, state.sent.get(("Deployment", name))) for name, child in watched.items()
    }
    for (kind, name), sent in state.sent.items():
        recent = time.monotonic() - sent.at_s < ECHO_S
        if kind == "Deployment" and sent.body is not None and recent:
            found.setdefault(name, sent.body)
    return found


def served_queue(service: LLMService, watched: WatchedObjects) -> str | None:
    """Return the queue that the service's engine serves; None: there is no engine."""
    for found in watched.of_service(service.namespace, service.name):
        mine = found["kind"] == "Deployment" and controller_uid(found) == service.uid
        if mine and found["metadata"]["name"] == service.child(ENGINE):
            return _queue_of(found)
    return None


def _queue_of(engine: Body) -> str | None:
    return (engine["metadata"].get("annotations") or {}).get(QUEUE_ANNOTATION)


def _refusals(service: LLMService, state: ServiceState) -> dict[ChildKey, str]:
    out = {
        key: sent.refused for key, sent in state.sent.items() if sent.refused and not sent.foreign
    }
    if state.refused_settings.message:
        out["Queue", service.queue] = state.refused_settings.message
    if state.refused_command:
        out["QueueCommand", service.queue] = state.refused_command
    return out


def _name_owner(service: LLMService, watched: WatchedObjects) -> str:
    """The oldest other service with this queue, if it is older; "": there is none."""
    own = (service.created.strftime("%Y-%m-%dT%H:%M:%SZ"), f"{service.namespace}/{service.name}")
    others = sorted(
        (created, name)
        for created, name, uid in watched.with_queue(service.queue)
        if uid != service.uid
    )
    return others[0][1] if others and others[0] < own else ""
