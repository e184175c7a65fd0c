"""Reconcile one service: observe, plan, apply. Called by `handlers.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from lengthwise_operator.applier import Applier
from lengthwise_operator.clients.cluster import Cluster
from lengthwise_operator.clients.predictors import PredictorClient
from lengthwise_operator.clients.queue_poll import PolledQueues
from lengthwise_operator.clients.queue_service import QueueServiceClient
from lengthwise_operator.conditions import invalid, merged
from lengthwise_operator.errors import BadSpec
from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.service import LLMService, llmservice_of
from lengthwise_operator.llmservice.spec import LLMServiceSpec, unreadable_spec
from lengthwise_operator.metrics import OperatorMetrics
from lengthwise_operator.observed import Observed, WatchedObjects
from lengthwise_operator.observer import Observer, served_queue
from lengthwise_operator.planner import ServicePlan, make_plan
from lengthwise_operator.service_state import ECHO_S, ServiceState


class Reconciler:
    """Singleton. Holds the clients that every reconciliation uses."""

    def __init__(
        self,
        installation: Installation,
        cluster: Cluster,
        queue_service: QueueServiceClient,
        predictors: PredictorClient,
        metrics: OperatorMetrics,
    ) -> None:
        """Call nothing before `poll` and `reconcile`."""
        self._installation = installation
        self._cluster = cluster
        self._metrics = metrics
        self._queues = PolledQueues(queue_service)
        self._observer = Observer(installation, cluster, self._queues, predictors)
        self._applier = Applier(cluster, self._queues, metrics)

    async def poll(self) -> set[str]:
        """Read all queues; return the names of those whose service to reconcile at once."""
        return await self._queues.poll()

    async def reconcile(
        self, body: Mapping[str, Any], watched: WatchedObjects, state: ServiceState
    ) -> ServicePlan:
        """Observe, plan and apply.

        Args:
            body: The LLMService as it is now.
            watched: The objects that the watches deliver.
            state: What is remembered of this service; it is changed.

        Returns:
            The plan that was applied.

        Raises:
            BadSpec: The object cannot be read; its status states the error.
            Refused, Unreachable: A call failed that is not about one child.
        """
        started_s = time.monotonic()
        service = await self._parse(body)
        if state.status is not None and started_s - state.status_s < ECHO_S:
            # The watch may still deliver the status from before: events would be posted twice.
            service = replace(service, status=state.status)
        if service.deleted:
            service = replace(service, served_queue=served_queue(service, watched) or "")
        outcome = "failed"
        try:
            apis = await self._observer.apis()
            observed = await self._observer.observe(service, watched, state)
            # One time for both plans, so that they cannot decide differently about a delay.
            now, now_s = datetime.now(UTC), time.monotonic()

            def plan_for(seen: Observed) -> ServicePlan:
                return make_plan(
                    service, seen, self._installation, apis, state.planner, now=now, now_s=now_s
                )

            plan = plan_for(observed)
            changed = await self._applier.apply(service, plan, watched, state)
            if changed:
                # The status of this generation must describe the state after what was done for it.
                # Otherwise a service would be Ready for a moment before its change starts.
                observed = await self._observer.observe(service, watched, state)
                plan = plan_for(observed)
            changed |= await self._applier.write_status(service, plan, state)
            outcome = "changed" if changed else "unchanged"
        finally:
            self._metrics.reconciles.labels(outcome).inc()
            self._metrics.reconcile_seconds.observe(time.monotonic() - started_s)
        state.planner = plan.state
        self._count(service, plan, observed)
        return plan

    async def _parse(self, body: Mapping[str, Any]) -> LLMService:
        """Parse the object; report an error in its status.

        Raises:
            BadSpec: The spec does not have the form of the CRD, and the object is not being
                deleted.
        """
        try:
            spec = LLMServiceSpec.model_validate(dict(body["spec"]))
        except ValidationError as exc:
            if body["metadata"].get("deletionTimestamp"):
                return llmservice_of(body, unreadable_spec(body["spec"]))
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = f"spec.{where}: {first['msg']}"
            meta, status = body["metadata"], body.get("status") or {}
            earlier = status.get("conditions")
            conditions = merged(
                [invalid(message)], earlier or (), meta["generation"], datetime.now(UTC)
            )
            if conditions != earlier:
                new = {"conditions": conditions, "observedGeneration": meta["generation"]}
                await asyncio.to_thread(
                    self._cluster.write_status, meta["namespace"], meta["name"], new
                )
            raise BadSpec(message) from None
        return llmservice_of(body, spec)

    def _count(self, service: LLMService, plan: ServicePlan, observed: Observed) -> None:
        labels = (service.namespace, service.queue, service.name)
        status = plan.status or service.status
        conditions = status.get("conditions", ())
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        self._metrics.ready.labels(*labels).set(ready)
        self._metrics.desired.labels(*labels).set(status.get("desiredReplicas") or 0)
        if observed.queue is not None:
            tokens, ms = observed.queue.backlog_tokens, observed.queue.ms_per_token
            self._metrics.backlog.labels(*labels).set(tokens * ms / 1000 / service.slots)
        last = service.status.get("desiredReplicas")
        if plan.scaling and last is not None and plan.scaling.replicas != last:
            self._metrics.decisions.labels(*labels, str(plan.scaling.reason)).inc()
