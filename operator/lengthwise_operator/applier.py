"""Apply a plan: the last step of a reconciliation.

A child is sent only if its manifest changed, or if the child is not what it was after it was last
sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from lengthwise_operator.children.manifest import Manifest
from lengthwise_operator.clients.cluster import Cluster
from lengthwise_operator.clients.queue_poll import PolledQueues
from lengthwise_operator.errors import Refused, Unreachable
from lengthwise_operator.llmservice.names import ENGINE
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.metrics import OperatorMetrics
from lengthwise_operator.observed import Body, ChildKey, WatchedObjects
from lengthwise_operator.ownership import conflict, may_change
from lengthwise_operator.planner import ServicePlan
from lengthwise_operator.service_state import (
    ECHO_S,
    RefusedSettings,
    SentChild,
    ServiceState,
    digest_of,
    fingerprint,
)

log = logging.getLogger(__name__)

#: Something that was refused is sent again after this, s: an admin may have raised a quota.
_REFUSED_AGAIN_S = 30.0

#: An object that is not the service's own is looked at again after this, s: it may be gone.
_FOREIGN_AGAIN_S = 5.0

#: Children of kinds that are not watched are sent again this often, s.
_UNWATCHED_AGAIN_S = 300.0


class Applier:
    """Singleton. Sends what a plan contains to the queue service and to the API server."""

    def __init__(self, cluster: Cluster, queues: PolledQueues, metrics: OperatorMetrics) -> None:
        """Call nothing yet."""
        self._cluster = cluster
        self._queues = queues
        self._metrics = metrics

    async def apply(
        self, service: LLMService, plan: ServicePlan, watched: WatchedObjects, state: ServiceState
    ) -> bool:
        """Send queue settings, queue command and children; whether anything was sent.

        Raises:
            Unreachable: The API server does not answer.
        """
        changed = await self._send_settings(service, plan, state)
        changed |= await self._send_command(service, plan, state)
        changed |= await self._scale(service, plan)
        present = {
            (child["kind"], child["metadata"]["name"]): child
            for child in watched.of_service(service.namespace, service.name)
        }
        for manifest in plan.apply:
            changed |= await self._send_child(service, manifest, present, state)
        for kind, name in plan.delete:
            uid = present[kind, name]["metadata"]["uid"]
            await asyncio.to_thread(self._cluster.delete, kind, service.namespace, name, uid)
            state.sent.pop((kind, name), None)
            changed = True
        return changed

    async def write_status(
        self, service: LLMService, plan: ServicePlan, state: ServiceState
    ) -> bool:
        """Write the status of the plan; whether there was one.

        Raises:
            Unreachable: The API server does not answer.
        """
        if plan.status is None:
            return False
        # A merge removes only fields that are set to null.
        removed = {k: None for k in service.status if k not in plan.status}
        status = {**removed, **plan.status}
        state.status, state.status_s = plan.status, time.monotonic()
        try:
            await asyncio.to_thread(
                self._cluster.write_status, service.namespace, service.name, status
            )
        except Refused as exc:
            # A refused status (the CRD is older than the operator) must not stop anything else,
            # least of all a deletion.
            log.error("status refused", extra={"problem": exc.message})
        return True

    async def _send_settings(
        self, service: LLMService, plan: ServicePlan, state: ServiceState
    ) -> bool:
        if plan.queue_settings is None:
            return False
        digest, refused = digest_of(plan.queue_settings), state.refused_settings
        # The same settings would be refused again by this version of the queue service, but not by
        # the next one, which may be starting.
        due = time.monotonic() - refused.at_s > _REFUSED_AGAIN_S
        if refused.settings == digest and not due:
            return False
        try:
            await self._queues.put(service.queue, plan.queue_settings)
            state.refused_settings = RefusedSettings()
        except Refused as exc:
            state.refused_settings = RefusedSettings(digest, exc.message, time.monotonic())
        except Unreachable as exc:
            # The next poll reports it. The children do not wait for the queue service.
            log.warning("queue settings not sent", extra={"problem": exc.message})
        return True

    async def _send_command(
        self, service: LLMService, plan: ServicePlan, state: ServiceState
    ) -> bool:
        if not plan.queue_command:
            return False
        try:
            await self._queues.command(service.queue, plan.queue_command)
            state.refused_command = ""
        except Refused as exc:
            if state.refused_command != exc.message:
                log.warning("queue command refused", extra={"problem": exc.message})
            state.refused_command = exc.message
        except Unreachable as exc:
            log.warning("queue command not sent", extra={"problem": exc.message})
        return True

    async def _scale(self, service: LLMService, plan: ServicePlan) -> bool:
        if plan.scale is None:
            return False
        try:
            name = service.child(ENGINE)
            await asyncio.to_thread(self._cluster.scale, service.namespace, name, plan.scale)
        except Refused as exc:
            log.warning("scaling refused", extra={"problem": exc.message})
        return True

    async def _send_child(
        self,
        service: LLMService,
        manifest: Manifest,
        present: Mapping[ChildKey, Body],
        state: ServiceState,
    ) -> bool:
        """Send one child unless it is as it should be; whether it was sent."""
        key = (manifest["kind"], manifest["metadata"]["name"])
        digest, now_s, sent = digest_of(manifest), time.monotonic(), state.sent.get(key)
        if sent is not None and sent.manifest == digest:
            age_s = now_s - sent.at_s
            if sent.refused:
                due = age_s > (_FOREIGN_AGAIN_S if sent.foreign else _REFUSED_AGAIN_S)
            elif manifest["kind"] == "PodMonitor":
                due = age_s > _UNWATCHED_AGAIN_S
            else:
                child = present.get(key)
                seen = "" if child is None else fingerprint(child)
                due = seen != sent.stored and age_s > ECHO_S
                if due:
                    self._metrics.repairs.labels(manifest["kind"]).inc()
            if not due:
                return False
        try:
            # Read again: the watch delivers only objects that have the operator's labels.
            found = await asyncio.to_thread(self._cluster.find, key[0], service.namespace, key[1])
            if found is not None and not may_change(found, service):
                state.sent[key] = SentChild(
                    digest, "", now_s, refused=conflict(found, service), foreign=True
                )
                return True
            uid = None if found is None else found["metadata"]["uid"]
            stored = await asyncio.to_thread(self._cluster.apply, manifest, uid)
        except Refused as exc:
            state.sent[key] = SentChild(digest, "", now_s, refused=exc.message)
        else:
            state.sent[key] = SentChild(digest, fingerprint(stored), now_s, body=stored)
        return True
