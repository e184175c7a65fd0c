"""The handlers that Kopf calls: `kopf run -m lengthwise_operator.handlers --standalone -A`.

Each LLMService has one daemon that reconciles it: at once when the service, one of its children or
its queue changed, and every half minute otherwise. So a service is never reconciled twice at the
same time, and a restart of the operator reconciles every service.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import kopf

from lengthwise_operator.clients.cluster import Cluster
from lengthwise_operator.clients.predictors import PredictorClient
from lengthwise_operator.clients.queue_service import QueueServiceClient
from lengthwise_operator.errors import BadSpec, OperatorError
from lengthwise_operator.llmservice.names import (
    FIELD_MANAGER,
    GROUP,
    MANAGED_BY_LABEL,
    PLURAL,
    SERVICE_LABEL,
    VERSION,
)
from lengthwise_operator.metrics import OperatorMetrics
from lengthwise_operator.observed import Body, IndexedObjects
from lengthwise_operator.planner import ServicePlan
from lengthwise_operator.queue_plan import overdue
from lengthwise_operator.reconciler import Reconciler
from lengthwise_operator.service_state import ServiceState
from lengthwise_operator.settings import OperatorSettings

log = logging.getLogger(__name__)

#: Children and pods that are watched: (group, plural) -> kind.
WATCHED = {
    ("apps", "deployments"): "Deployment",
    ("", "services"): "Service",
    ("", "pods"): "Pod",
    ("", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("policy", "poddisruptionbudgets"): "PodDisruptionBudget",
    ("networking.k8s.io", "networkpolicies"): "NetworkPolicy",
}
_MANAGED = {MANAGED_BY_LABEL: FIELD_MANAGER}

#: Pause between reconciliations during a rollout, a scaling delay or a deletion, s.
_BUSY_S = 5.0

#: First and longest pause after a failure, s.
_BACKOFF_S = (2.0, 60.0)

#: If the last poll of the queues is older than this, the liveness probe fails, s.
_POLL_STUCK_S = 120.0


class _Process:
    """Singleton. The state of this process; created in `start`."""

    def __init__(self, settings: OperatorSettings) -> None:
        self.settings = settings
        self.metrics = OperatorMetrics()
        key = settings.queue_api_key
        self.queue_service = QueueServiceClient(
            settings.queue_url, key.get_secret_value() if key else None, self.metrics
        )
        self.predictors = PredictorClient()
        self.reconciler = Reconciler(
            settings.installation(),
            Cluster(self.metrics),
            self.queue_service,
            self.predictors,
            self.metrics,
        )
        self.wakes: dict[tuple[str, str], asyncio.Event] = {}
        self.queue_of: dict[tuple[str, str], str] = {}
        self.states: dict[str, ServiceState] = {}
        self.polled_s = time.monotonic()
        self.poller: asyncio.Task[None] | None = None

    def wake(self, namespace: str, service: str) -> None:
        """Reconcile a service now."""
        event = self.wakes.get((namespace, service))
        if event is not None:
            event.set()

    async def poll(self) -> None:
        """Poll the queues until cancelled, and wake the services whose queue changed."""
        while True:
            changed: set[str] = set()
            try:
                changed = await self.reconciler.poll()
            except Exception:
                # The poller and its pod must not end with it: the cluster is reconciled without.
                log.exception("polling the queues failed")
            self.polled_s = time.monotonic()
            for key, queue in self.queue_of.items():
                if queue in changed:
                    self.wake(*key)
            await asyncio.sleep(self.settings.poll_seconds)


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure Kopf, and start to poll the queues."""
    own = OperatorSettings.model_validate({})
    logging.getLogger("lengthwise_operator").setLevel(own.log_level)
    logging.captureWarnings(True)  # as JSON, too, with --log-format=json
    # Kopf logs every handled event of every child.
    for verbose in ("httpx", "httpcore", "kubernetes", "urllib3", "kopf.objects"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    # Separate names, so that this operator and another Kopf operator do not share their records.
    settings.persistence.finalizer = "lengthwise.dev/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="lengthwise.dev")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix="lengthwise.dev", key="last-handled"
    )
    # Only events that this module posts, not what Kopf logs.
    settings.posting.loggers = False
    settings.posting.reporting_component = FIELD_MANAGER
    # Watches can become silent (kopf #698, #955): both sides end them, and new ones start.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 20
    settings.networking.connect_timeout = 10
    # Longest wait for a daemon to end, s, before the deletion of its service goes on. Without it
    # Kopf looks again only after the whole cancellation_backoff.
    settings.background.instant_exit_timeout = 10
    # With rights in some namespaces only, Kopf's scan for others is refused nine times, over 50 s.
    settings.scanning.disabled = bool(own.namespaces)
    # Without these labels the operator would receive every pod of the cluster.
    for group, plural in WATCHED:
        settings.watching.label_selectors[group, plural] = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
    process = _Process(own)
    if own.metrics_port:
        process.metrics.serve(own.metrics_port)
    await process.reconciler.poll()
    process.poller = asyncio.create_task(process.poll())
    memo.process = process


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop what `start` started. Engines, queues and requests are not affected."""
    process: _Process = memo.process
    if process.poller is not None:
        process.poller.cancel()
    await process.queue_service.aclose()
    await process.predictors.aclose()


@kopf.on.probe(id="queue_poll_age_seconds")
def alive(memo: kopf.Memo, **_: Any) -> int:
    """Report to --liveness how long ago the queues were polled, s.

    Raises:
        RuntimeError: Too long ago, or the poller has ended; Kopf answers with status 500.
    """
    process: _Process = memo.process
    age_s = time.monotonic() - process.polled_s
    if age_s > _POLL_STUCK_S or process.poller is None or process.poller.done():
        raise RuntimeError(f"the queues were last polled {age_s:.0f} s ago")
    return round(age_s)


def _index(group: str, plural: str, kind: str) -> None:
    """Keep the children of one kind in memory, and wake their service when one changes."""

    @kopf.index(group, plural, id=plural, labels=_MANAGED)
    def keep(body: kopf.Body, namespace: str | None, **_: Any) -> dict[tuple[str, str], Body]:
        child = {k: v for k, v in body.items() if k in ("kind", "metadata", "spec", "status")}
        # A list of objects does not repeat the kind in each of them.
        child["kind"] = child.get("kind") or kind
        return {(str(namespace), body["metadata"]["labels"].get(SERVICE_LABEL, "")): child}

    @kopf.on.event(group, plural, id=f"changed-{plural}", labels=_MANAGED)
    def changed(body: kopf.Body, namespace: str | None, memo: kopf.Memo, **_: Any) -> None:
        process: _Process = memo.process
        process.wake(str(namespace), body["metadata"]["labels"].get(SERVICE_LABEL, ""))


for (_group, _plural), _kind in WATCHED.items():
    _index(_group, _plural, _kind)


@kopf.index(GROUP, VERSION, PLURAL)
def queue_names(
    body: kopf.Body, name: str, namespace: str | None, uid: str, **_: Any
) -> dict[str, tuple[str, str, str]]:
    """Index the services by queue, to find two with the same queue."""
    queue = body["spec"].get("model", {}).get("name") or name
    return {queue: (body["metadata"]["creationTimestamp"], f"{namespace}/{name}", uid)}


@kopf.on.event(GROUP, VERSION, PLURAL)
def spec_changed(
    body: kopf.Body, name: str, namespace: str | None, uid: str, memo: kopf.Memo, **kwargs: Any
) -> None:
    """Wake the daemon, or drop the state of a deleted service."""
    process: _Process = memo.process
    if kwargs["type"] == "DELETED":
        process.states.pop(uid, None)
        queue = process.queue_of.pop((str(namespace), name), name)
        process.metrics.forget(str(namespace), queue, name)
        return
    process.queue_of[str(namespace), name] = body["spec"].get("model", {}).get("name") or name
    process.wake(str(namespace), name)


# A stopped daemon finishes its reconciliation first; `drain` starts its own only after that.
@kopf.daemon(GROUP, VERSION, PLURAL, cancellation_backoff=20, cancellation_timeout=5)
async def reconcile(
    body: kopf.Body,
    name: str,
    namespace: str | None,
    uid: str,
    memo: kopf.Memo,
    stopped: kopf.DaemonStopped,
    **indices: Any,
) -> None:
    """Reconcile one service until it is deleted or the operator ends."""
    process: _Process = memo.process
    key = (str(namespace), name)
    wake = process.wakes[key] = asyncio.Event()
    failures = 0
    while not stopped:
        wake.clear()
        pause_s = process.settings.resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spread
        try:
            plan = await _reconcile(body, uid, process, indices)
            failures = 0
            if _in_progress(plan):
                pause_s = _BUSY_S
        except BadSpec as exc:
            log.warning("bad spec", extra={"service": name, "problem": exc.message})
        except OperatorError as exc:
            failures += 1
            pause_s = min(_BACKOFF_S[0] * 2**failures, _BACKOFF_S[1])
            log.warning(
                "reconciliation failed",
                extra={"namespace": namespace, "service": name, "problem": exc.message},
            )
        await _wait_for_first(stopped.wait(pause_s), wake.wait(), timeout_s=pause_s)
    process.wakes.pop(key, None)


@kopf.on.delete(GROUP, VERSION, PLURAL, id="drain")
async def drain(body: kopf.Body, uid: str, memo: kopf.Memo, **indices: Any) -> None:
    """Keep a deleted service until its queue is served or the time limit is reached.

    Raises:
        kopf.TemporaryError: The service must be kept for now; Kopf calls this again.
    """
    process: _Process = memo.process
    try:
        plan = await _reconcile(body, uid, process, indices)
    except Exception as exc:
        # Nothing may keep an object for ever, not even a fault of the operator.
        if overdue(body, datetime.now(UTC)):
            log.warning("deleted without draining", exc_info=exc)
            return
        raise kopf.TemporaryError(str(exc), delay=_BUSY_S) from exc
    if not plan.gone:
        raise kopf.TemporaryError("queued jobs are being served", delay=_BUSY_S)


async def _reconcile(
    body: kopf.Body, uid: str, process: _Process, indices: Mapping[str, Any]
) -> ServicePlan:
    state = process.states.setdefault(uid, ServiceState())
    plan = await process.reconciler.reconcile(body, IndexedObjects(indices, WATCHED), state)
    for event in plan.events if plan.status is not None else ():
        kopf.event(body, type=event.type, reason=event.reason, message=event.message[:1000])
    return plan


def _in_progress(plan: ServicePlan) -> bool:
    if plan.scaling is not None and plan.scaling.reason != "Steady":
        return True
    return plan.status is not None or plan.waits


async def _wait_for_first(*waits: Any, timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
