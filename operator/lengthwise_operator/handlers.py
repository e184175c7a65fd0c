"""The operator as Kopf runs it: `kopf run -m lengthwise_operator.handlers --standalone -A`.

Each LLMService has one daemon, which looks at it again and again: at once when the service, one of
its children or its line changed, and every half minute otherwise. So a service is never handled
twice at a time, and a restart of the operator is a first look.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

import kopf

from lengthwise_operator.cluster import Cluster
from lengthwise_operator.errors import BadSpec, OperatorError, Refused, Unreachable
from lengthwise_operator.metrics import Metrics
from lengthwise_operator.observed import Body
from lengthwise_operator.planner import Plan
from lengthwise_operator.queues import Predictors, QueueService
from lengthwise_operator.reconciler import Rounds
from lengthwise_operator.service import FIELD_MANAGER, MANAGED_BY_LABEL, SERVICE_LABEL
from lengthwise_operator.service_state import Recall
from lengthwise_operator.settings import Settings

log = logging.getLogger(__name__)

GROUP, VERSION, PLURAL = "lengthwise.dev", "v1alpha1", "llmservices"

#: Children and pods that are watched: (group, plural).
WATCHED = (
    ("apps", "deployments"),
    ("", "services"),
    ("", "pods"),
    ("", "persistentvolumeclaims"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "networkpolicies"),
)
_OURS = {MANAGED_BY_LABEL: FIELD_MANAGER}

#: While something is under way (a rollout, a scaling delay, a deletion), the next look is after, s.
_BUSY_S = 5.0

#: After a failure, at first and at most, s.
_BACKOFF_S = (2.0, 60.0)

#: If the queues were not looked at for so long, the liveness probe fails, s.
_POLL_STUCK_S = 120.0


class _Process:
    """What this process holds; made in `start`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        key = settings.queue_api_key
        self.queues = QueueService(
            settings.queue_url, key.get_secret_value() if key else None, self.metrics
        )
        self.predictors = Predictors()
        self.rounds = Rounds(
            settings.installation(),
            Cluster(self.metrics),
            self.queues,
            self.predictors,
            self.metrics,
        )
        self.wakes: dict[tuple[str, str], asyncio.Event] = {}
        self.queue_of: dict[tuple[str, str], str] = {}
        self.recalls: dict[str, Recall] = {}
        self.polled_s = time.monotonic()
        self.poller: asyncio.Task[None] | None = None

    def wake(self, namespace: str, service: str) -> None:
        """Have a service looked at now."""
        event = self.wakes.get((namespace, service))
        if event is not None:
            event.set()

    async def poll(self) -> None:
        """Look at the queues for ever, and wake the services whose line changed."""
        while True:
            changed = await self.rounds.poll()
            self.polled_s = time.monotonic()
            for key, queue in self.queue_of.items():
                if queue in changed:
                    self.wake(*key)
            await asyncio.sleep(self.settings.poll_seconds)


class _Watched:
    """The indices as `rounds.Children`."""

    def __init__(self, indices: Mapping[str, Any]) -> None:
        self._indices = indices

    def of(self, namespace: str, service: str) -> Iterable[Body]:
        for index in (self._indices[plural] for _, plural in WATCHED):
            yield from index.get((namespace, service), ())

    def rivals(self, queue: str) -> Iterable[tuple[str, str, str]]:
        return list(self._indices["queue_names"].get(queue, ()))


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Set Kopf up, and begin to look at the queues."""
    ours = Settings.model_validate({})
    logging.getLogger("lengthwise_operator").setLevel(ours.log_level)
    logging.captureWarnings(True)  # else they are no JSON among the lines of --log-format=json
    # Kopf tells of every event of every child that it was handled.
    for loud in ("httpx", "httpcore", "kubernetes", "urllib3", "kopf.objects"):
        logging.getLogger(loud).setLevel(logging.WARNING)
    # Our own names: another Kopf operator must not take our objects for its own, nor we its.
    settings.persistence.finalizer = "lengthwise.dev/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="lengthwise.dev")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix="lengthwise.dev", key="last-handled"
    )
    # Only what we post ourselves becomes an event, not what Kopf logs.
    settings.posting.loggers = False
    settings.posting.reporting_component = FIELD_MANAGER
    # Watches that go silent (kopf #698, #955): end them from both sides, and begin anew.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 20
    settings.networking.connect_timeout = 10
    # With rights in some namespaces alone, Kopf's look for others is refused nine times, over 50 s.
    settings.scanning.disabled = bool(ours.namespaces)
    # Without these the operator would be sent every pod of the cluster.
    for group, plural in WATCHED:
        settings.watching.label_selectors[group, plural] = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
    process = _Process(ours)
    if ours.metrics_port:
        process.metrics.serve(ours.metrics_port)
    await process.rounds.poll()
    process.poller = asyncio.create_task(process.poll())
    memo.process = process


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """End what `start` began. Engines, queues and traffic do not notice."""
    process: _Process = memo.process
    if process.poller is not None:
        process.poller.cancel()
    await process.queues.aclose()
    await process.predictors.aclose()


@kopf.on.probe(id="queue_poll_age_seconds")
def alive(memo: kopf.Memo, **_: Any) -> int:
    """For --liveness: how long ago the queues were looked at.

    Raises:
        RuntimeError: For too long, or the looking has ended; Kopf answers 500.
    """
    process: _Process = memo.process
    age_s = time.monotonic() - process.polled_s
    if age_s > _POLL_STUCK_S or process.poller is None or process.poller.done():
        raise RuntimeError(f"the queues were last looked at {age_s:.0f} s ago")
    return round(age_s)


def _index(group: str, plural: str) -> None:
    """Keep the children of one kind in memory, and wake their service when one changes."""

    @kopf.index(group, plural, id=plural, labels=_OURS)
    def keep(body: kopf.Body, namespace: str | None, **_: Any) -> dict[tuple[str, str], Body]:
        kind = {"kind": body.get("kind") or _KINDS[plural]}
        raw = {**kind, **{k: v for k, v in body.items() if k in ("metadata", "spec", "status")}}
        return {(str(namespace), body["metadata"]["labels"].get(SERVICE_LABEL, "")): raw}

    @kopf.on.event(group, plural, id=f"changed-{plural}", labels=_OURS)
    def changed(body: kopf.Body, namespace: str | None, memo: kopf.Memo, **_: Any) -> None:
        process: _Process = memo.process
        process.wake(str(namespace), body["metadata"]["labels"].get(SERVICE_LABEL, ""))


_KINDS = {
    "deployments": "Deployment",
    "services": "Service",
    "pods": "Pod",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "networkpolicies": "NetworkPolicy",
}

for _group, _plural in WATCHED:
    _index(_group, _plural)


@kopf.index(GROUP, VERSION, PLURAL)
def queue_names(
    body: kopf.Body, name: str, namespace: str | None, uid: str, **_: Any
) -> dict[str, tuple[str, str, str]]:
    """Which services have which queue, to find two with the same."""
    queue = body["spec"].get("model", {}).get("name") or name
    return {queue: (body["metadata"]["creationTimestamp"], f"{namespace}/{name}", uid)}


@kopf.on.event(GROUP, VERSION, PLURAL)
def spec_changed(
    body: kopf.Body, name: str, namespace: str | None, uid: str, memo: kopf.Memo, **kwargs: Any
) -> None:
    """Wake the daemon; or forget the service when it is gone."""
    process: _Process = memo.process
    if kwargs["type"] == "DELETED":
        process.recalls.pop(uid, None)
        queue = process.queue_of.pop((str(namespace), name), name)
        process.metrics.forget(str(namespace), queue, name)
        return
    process.queue_of[str(namespace), name] = body["spec"].get("model", {}).get("name") or name
    process.wake(str(namespace), name)


# Told to stop it ends its look first; only then may the drain begin with its own.
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
    """Look at one service until it is deleted or the operator ends."""
    process: _Process = memo.process
    key = (str(namespace), name)
    wake = process.wakes[key] = asyncio.Event()
    failures = 0
    while not stopped:
        wake.clear()
        pause_s = process.settings.resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spread
        try:
            plan = await _look(body, uid, process, indices)
            failures = 0
            if _under_way(plan):
                pause_s = _BUSY_S
        except BadSpec as exc:
            log.warning("bad spec", extra={"service": name, "problem": exc.message})
        except OperatorError as exc:
            failures += 1
            pause_s = min(_BACKOFF_S[0] * 2**failures, _BACKOFF_S[1])
            log.warning(
                "look failed",
                extra={"namespace": namespace, "service": name, "problem": exc.message},
            )
        await _first(stopped.wait(pause_s), wake.wait(), timeout_s=pause_s)
    process.wakes.pop(key, None)


@kopf.on.delete(GROUP, VERSION, PLURAL, id="drain")
async def drain(body: kopf.Body, uid: str, memo: kopf.Memo, **indices: Any) -> None:
    """Keep the service until its line is served or the limit is reached; then let it go.

    Raises:
        kopf.TemporaryError: Not yet.
    """
    process: _Process = memo.process
    try:
        plan = await _look(body, uid, process, indices)
    except BadSpec:
        return  # it never had an engine
    except (Refused, Unreachable) as exc:
        raise kopf.TemporaryError(exc.message, delay=_BUSY_S) from exc
    if not plan.gone:
        raise kopf.TemporaryError("jobs in line are being served", delay=_BUSY_S)


async def _look(body: kopf.Body, uid: str, process: _Process, indices: Mapping[str, Any]) -> Plan:
    recall = process.recalls.setdefault(uid, Recall())
    plan = await process.rounds.look(body, _Watched(indices), recall)
    for event in plan.events if plan.status is not None else ():
        kopf.event(body, type=event.type, reason=event.reason, message=event.message[:1000])
    return plan


def _under_way(plan: Plan) -> bool:
    if plan.scaling is not None and plan.scaling.reason != "Steady":
        return True
    return plan.status is not None or plan.waits


async def _first(*waits: Any, timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
