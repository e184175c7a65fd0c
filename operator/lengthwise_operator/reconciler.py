"""One look at one service: observe, decide, apply. And what is remembered between two looks.

Called by `handlers.py`. What the cluster holds comes from Kopf's indices, which its watches keep up
to date, so a look at a service that is as it should be costs no call of the API. A child is sent
only when the manifest changed, or when the child is not what it was after we last sent it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import ValidationError

from lengthwise_operator.children.engine import cache_claim, engine_deployment, worker_image
from lengthwise_operator.children.manifests import Manifest
from lengthwise_operator.cluster import Cluster
from lengthwise_operator.conditions import invalid, merged
from lengthwise_operator.diagnosis import hanging
from lengthwise_operator.errors import BadSpec, OperatorError, Refused, Unreachable
from lengthwise_operator.llmservice.spec import LLMServiceSpec
from lengthwise_operator.metrics import Metrics
from lengthwise_operator.observed import Body, ChildKey, Observed, QueueFacts
from lengthwise_operator.planner import Plan, decide
from lengthwise_operator.queue_rollout import QueueRollout
from lengthwise_operator.queues import Predictors, QueueService
from lengthwise_operator.service import (
    ENGINE,
    QUEUE_ANNOTATION,
    Apis,
    Installation,
    Service,
    service_of,
)
from lengthwise_operator.service_state import Recall, Sent, digest_of, fingerprint, newer

log = logging.getLogger(__name__)

#: A watch brings what we sent ourselves after a moment; until then the old object is no drift, s.
_ECHO_S = 3.0

#: What was refused is tried again after this, s: a quota may have been raised.
_REFUSED_AGAIN_S = 30.0

#: Children of which there is no watch are sent again so often, s.
_UNWATCHED_AGAIN_S = 300.0

#: What the API server offers is looked up again so often, s: monitors may be installed later.
_APIS_S = 300.0

#: A named claim, and warnings about hanging pods, are asked for so often, s.
_ASK_AGAIN_S = 10.0


class Children(Protocol):
    """What the watches know: objects by (namespace, name of the LLMService)."""

    def of(self, namespace: str, service: str) -> Iterable[Body]:
        """The children and pods of one service."""

    def rivals(self, queue: str) -> Iterable[tuple[str, str, str]]:
        """(created, "namespace/name", uid) of every LLMService with this queue."""


class Rounds:
    """Everything that a look needs, made once."""

    def __init__(
        self,
        installation: Installation,
        cluster: Cluster,
        queues: QueueService,
        predictors: Predictors,
        metrics: Metrics,
    ) -> None:
        """Nothing is called before `look`."""
        self.installation = installation
        self.metrics = metrics
        self._cluster = cluster
        self._queues = queues
        self._predictors = predictors
        self._apis: Apis | None = None
        self._apis_s = -1e9
        self._queue_rollout = QueueRollout(installation.queue_deployment, cluster)
        self._facts: dict[str, QueueFacts] = {}
        self._problem = "the queue service was not asked yet"

    async def poll(self) -> set[str]:
        """Ask the queue service about all queues; the names of those that changed."""
        before, problem = self._facts, self._problem
        try:
            self._facts, self._problem = await self._queues.read_all(), ""
        except OperatorError as exc:
            self._problem = exc.message
        if self._problem != problem:
            if self._problem:
                log.warning("queue service away", extra={"problem": self._problem})
            return set(self._facts) | set(before)
        names = set(self._facts) | set(before)
        return {n for n in names if _signs(self._facts.get(n)) != _signs(before.get(n))}

    async def look(self, body: Mapping[str, Any], watched: Children, recall: Recall) -> Plan:
        """Observe, decide, apply.

        Args:
            body: The LLMService as it is now.
            watched: What the watches know.
            recall: Of this service; changed.

        Returns:
            What was decided and done.

        Raises:
            BadSpec: The object cannot be read; its status says so.
            Refused, Unreachable: Something besides the children could not be done.
        """
        started_s = time.monotonic()
        service = await self._read(body)
        outcome = "failed"
        try:
            apis = await self._offered()
            observed = await self._observe(service, watched, recall)
            now, now_s = datetime.now(UTC), time.monotonic()
            plan = decide(
                service,
                observed,
                self.installation,
                apis,
                recall.memory,
                now=now,
                now_s=now_s,
            )
            changed = await self._act(service, plan, watched, recall)
            if changed:
                # The status of this generation speaks of what there is after what was done for
                # it. Otherwise a service would be Ready for a moment with the change not begun.
                observed = await self._observe(service, watched, recall)
                plan = decide(
                    service,
                    observed,
                    self.installation,
                    apis,
                    recall.memory,
                    now=now,
                    now_s=now_s,
                )
            changed |= await self._write_status(service, plan)
            outcome = "changed" if changed else "unchanged"
        finally:
            self.metrics.reconciles.labels(outcome).inc()
            self.metrics.reconcile_seconds.observe(time.monotonic() - started_s)
        recall.memory = plan.memory
        self._count(service, plan, observed)
        return plan

    # ------------------------------------------------------------------ observe

    async def _read(self, body: Mapping[str, Any]) -> Service:
        try:
            spec = LLMServiceSpec.model_validate(dict(body["spec"]))
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = f"spec.{where}: {first['msg']}"
            meta, status = body["metadata"], body.get("status") or {}
            said = merged(
                [invalid(message)],
                status.get("conditions", ()),
                meta["generation"],
                datetime.now(UTC),
            )
            if said != status.get("conditions"):
                new = {"conditions": said, "observedGeneration": meta["generation"]}
                await asyncio.to_thread(
                    self._cluster.write_status, meta["namespace"], meta["name"], new
                )
            raise BadSpec(message) from None
        return service_of(body, spec)

    async def _offered(self) -> Apis:
        if self._apis is None or time.monotonic() - self._apis_s > _APIS_S:
            self._apis_s = time.monotonic()
            self._apis = await asyncio.to_thread(self._cluster.apis)
        return self._apis

    async def _observe(self, service: Service, watched: Children, recall: Recall) -> Observed:
        objects = list(watched.of(service.namespace, service.name))
        kinds: dict[str, dict[str, Body]] = {}
        for found in objects:
            kinds.setdefault(found["kind"], {})[found["metadata"]["name"]] = found
        pods = list(kinds.pop("Pod", {}).values())
        claims = dict(kinds.get("PersistentVolumeClaim", {}))
        await self._ask(service, pods, recall)
        claims |= {name: claim for name, claim in recall.claims.items() if claim is not None}
        deployments = {
            name: newer(child, recall.sent.get(("Deployment", name)))
            for name, child in kinds.get("Deployment", {}).items()
        }
        for (kind, name), sent in recall.sent.items():
            echoing = time.monotonic() - sent.at_s < _ECHO_S
            if kind == "Deployment" and sent.done is not None and echoing:
                deployments.setdefault(name, sent.done)
        engine = deployments.get(service.child(ENGINE))
        served = None
        if engine is not None:
            served = engine["metadata"].get("annotations", {}).get(QUEUE_ANNOTATION)
        url = service.predictor_url(self.installation)
        # A template of the user's may name a worker of its own, so what is wanted is made to see.
        fresh = worker_image(engine_deployment(service, self.installation, 0))
        outdated = engine is not None and worker_image(engine) != fresh
        return Observed(
            deployments=deployments,
            claims=claims,
            others=[
                (kind, name)
                for kind, found in kinds.items()
                for name, child in found.items()
                if _owner(child) == service.uid
            ],
            pods=pods,
            events=recall.events,
            missing_claims=[name for name, claim in recall.claims.items() if claim is None],
            queue=None if self._problem else self._facts.get(service.queue),
            queue_problem=self._problem,
            predictor=await self._predictors.ask(url, service.queue) if url else None,
            refused=self._refusals(service, recall),
            rival=_rival(service, watched),
            served=served,
            queue_rolling=outdated and await self._queue_rollout.under_way(),
        )

    async def _ask(self, service: Service, pods: list[Body], recall: Recall) -> None:
        """What no watch brings: a claim that is not ours, and why pods hang."""
        if time.monotonic() - recall.asked_s < _ASK_AGAIN_S:
            return
        named = {cache_claim(service)} if service.spec.model_cache else set()
        named = {n for n in named if n and n != service.child("model-cache")}
        stuck = hanging(pods, datetime.now(UTC))
        if not named and not stuck:
            recall.claims, recall.events = {}, []
            return
        recall.asked_s = time.monotonic()
        recall.claims = {
            name: await asyncio.to_thread(self._cluster.claim, service.namespace, name)
            for name in named
            if name
        }
        recall.events = [
            event
            for uid in stuck[:3]
            for event in await asyncio.to_thread(self._cluster.warnings, service.namespace, uid)
        ]

    def _refusals(self, service: Service, recall: Recall) -> dict[ChildKey, str]:
        out = {key: sent.refused for key, sent in recall.sent.items() if sent.refused}
        if recall.queue_refused[1]:
            out["Queue", service.queue] = recall.queue_refused[1]
        if recall.command_refused:
            out["QueueCommand", service.queue] = recall.command_refused
        return out

    # ------------------------------------------------------------------ act

    async def _act(self, service: Service, plan: Plan, watched: Children, recall: Recall) -> bool:
        """Tell the queue and send the children; whether there was anything to do."""
        changed = await self._tell_queue(service, plan, recall)
        there = {
            (child["kind"], child["metadata"]["name"]): child
            for child in watched.of(service.namespace, service.name)
        }
        for manifest in plan.apply:
            changed |= await self._apply(manifest, there, recall)
        for kind, name in plan.delete:
            await asyncio.to_thread(self._cluster.delete, kind, service.namespace, name)
            recall.sent.pop((kind, name), None)
            changed = True
        return changed

    async def _write_status(self, service: Service, plan: Plan) -> bool:
        if plan.status is None:
            return False
        # A merge takes away only what is named.
        gone = {k: None for k in service.status if k not in plan.status}
        new = {**gone, **plan.status}
        try:
            await asyncio.to_thread(
                self._cluster.write_status, service.namespace, service.name, new
            )
        except Refused as exc:
            # A status that is refused (the CRD is older than we are) must stop nothing else, least
            # of all a deletion.
            log.error("status refused", extra={"problem": exc.message})
        return True

    async def _tell_queue(self, service: Service, plan: Plan, recall: Recall) -> bool:
        said = False
        if plan.queue_settings is not None:
            digest = digest_of(plan.queue_settings)
            # The same words would be refused again; but not by the next release of the service,
            # which may be starting just now.
            due = time.monotonic() - recall.queue_refused_s > _REFUSED_AGAIN_S
            if recall.queue_refused[0] != digest or due:
                try:
                    self._facts[service.queue] = await self._queues.put(
                        service.queue, plan.queue_settings
                    )
                    recall.queue_refused = ("", "")
                except Refused as exc:
                    recall.queue_refused = (digest, exc.message)
                    recall.queue_refused_s = time.monotonic()
                except Unreachable as exc:
                    # The next look at the queues tells; the children need not wait for it.
                    log.warning("queue not told", extra={"problem": exc.message})
                said = True
        if plan.queue_command:
            try:
                await self._queues.command(service.queue, plan.queue_command)
                recall.command_refused = ""
            except Refused as exc:
                if recall.command_refused != exc.message:
                    log.warning("queue command refused", extra={"problem": exc.message})
                recall.command_refused = exc.message
            except Unreachable as exc:
                log.warning("queue not told", extra={"problem": exc.message})
            said = True
        return said

    async def _apply(
        self, manifest: Manifest, there: Mapping[ChildKey, Body], recall: Recall
    ) -> bool:
        """Send one child if it is not as it should be; whether it was sent."""
        key = (manifest["kind"], manifest["metadata"]["name"])
        digest, now_s, sent = digest_of(manifest), time.monotonic(), recall.sent.get(key)
        if sent is not None and sent.manifest == digest:
            age_s = now_s - sent.at_s
            if sent.refused:
                due = age_s > _REFUSED_AGAIN_S
            elif manifest["kind"] == "PodMonitor":
                due = age_s > _UNWATCHED_AGAIN_S
            else:
                child = there.get(key)
                seen = "" if child is None else fingerprint(child)
                due = seen != sent.seen and age_s > _ECHO_S
                if due:
                    self.metrics.repairs.labels(manifest["kind"]).inc()
            if not due:
                return False
        try:
            done = await asyncio.to_thread(self._cluster.apply, manifest)
        except Refused as exc:
            recall.sent[key] = Sent(digest, "", now_s, refused=exc.message)
        else:
            recall.sent[key] = Sent(digest, fingerprint(done), now_s, done=done)
        return True

    def _count(self, service: Service, plan: Plan, observed: Observed) -> None:
        labels = (service.namespace, service.queue, service.name)
        status = plan.status or service.status
        conditions = status.get("conditions", ())
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        self.metrics.ready.labels(*labels).set(ready)
        self.metrics.desired.labels(*labels).set(status.get("desiredReplicas") or 0)
        if observed.queue is not None:
            tokens, ms = observed.queue.backlog_tokens, observed.queue.ms_per_token
            self.metrics.work.labels(*labels).set(tokens * ms / 1000 / service.slots)
        last = service.status.get("desiredReplicas")
        if plan.scaling and last is not None and plan.scaling.replicas != last:
            self.metrics.decisions.labels(*labels, str(plan.scaling.reason)).inc()


def _owner(child: Body) -> str | None:
    owners = child["metadata"].get("ownerReferences") or ()
    return next((o["uid"] for o in owners if o.get("controller")), None)


def _rival(service: Service, watched: Children) -> str:
    """The oldest other service with this queue, if it is older; "" if there is none."""
    ours = (service.created.strftime("%Y-%m-%dT%H:%M:%SZ"), f"{service.namespace}/{service.name}")
    others = sorted(
        (created, name)
        for created, name, uid in watched.rivals(service.queue)
        if uid != service.uid
    )
    return others[0][1] if others and others[0] < ours else ""


def _signs(facts: QueueFacts | None) -> Any:
    """What of a queue is worth a look at its service at once."""
    if facts is None:
        return None
    return (
        facts.depth,
        facts.in_flight,
        facts.mode,
        facts.active_policy,
        facts.fallback_active,
        facts.settings,
    )
