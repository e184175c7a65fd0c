"""Why a pod does not run: the first cause, in words that say what to do. Pure.

Everything is read off the pod's own status (a container's last words are in it, because its
terminationMessagePolicy is FallbackToLogsOnError), and off warnings about the pod for what the
status does not tell, such as a volume that cannot be mounted. No logs, no exec.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lengthwise_operator.llmservice.rules import GPU
from lengthwise_operator.observed import Body
from lengthwise_operator.service import COMPONENT_LABEL, time_of

#: A pod is asked about only when it has hung for so long, s.
HANGS_AFTER_S = 10

_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_VOLUME = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What keeps a pod from running. `reason` is one of conditions.EngineReason's."""

    reason: str
    message: str


def diagnose(pods: Sequence[Body], events: Sequence[Body]) -> Fault | None:
    """The gravest fault among the pods; None: none is seen (they may just be starting)."""
    faults = [fault for pod in pods if (fault := _of_pod(pod, events)) is not None]
    order = (
        "ModelNotFound",
        "ImagePullFailed",
        "ContainerConfigError",
        "VolumeNotMounted",
        "OutOfMemory",
        "CrashLooping",
        "WorkerFailing",
        "Unschedulable",
        "Evicted",
    )
    return min(faults, key=lambda fault: order.index(fault.reason), default=None)


def hanging(pods: Sequence[Body], now: datetime) -> list[str]:
    """UIDs of pods that have waited for long, and whose status does not say for what."""
    return [
        pod["metadata"]["uid"]
        for pod in pods
        if pod.get("status", {}).get("phase") == "Pending"
        and not pod["metadata"].get("deletionTimestamp")
        and (now - time_of(pod["metadata"]["creationTimestamp"])).total_seconds() > HANGS_AFTER_S
        and _of_pod(pod, ()) is None
    ]


def pods_of(pods: Iterable[Body], part: str) -> list[Body]:
    """Those of one component that are not on their way out."""
    return [
        pod
        for pod in pods
        if pod["metadata"].get("labels", {}).get(COMPONENT_LABEL) == part
        and not pod["metadata"].get("deletionTimestamp")
    ]


def _of_pod(pod: Body, events: Sequence[Body]) -> Fault | None:
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp"):
        return None
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _unschedulable(condition.get("message", ""))
    if status.get("phase") == "Failed" and status.get("reason") == "Evicted":
        return Fault(reason="Evicted", message=f"pod {name}: {status.get('message', 'evicted')}")
    for container in (
        *status.get("initContainerStatuses", ()),
        *status.get("containerStatuses", ()),
    ):
        fault = _of_container(name, container)
        if fault is not None:
            return fault
    for event in events:
        if event.get("involvedObject", {}).get("uid") == pod["metadata"]["uid"]:
            reason = event.get("reason", "")
            if reason in _VOLUME:
                return Fault(
                    reason="VolumeNotMounted", message=f"pod {name}: {event.get('message', '')}"
                )
            if reason == "FailedCreatePodSandBox":
                return Fault(
                    reason="ContainerConfigError",
                    message=f"pod {name}: {event.get('message', '')}",
                )
    return None


def _unschedulable(message: str) -> Fault:
    hint = ""
    if GPU in message:
        hint = (
            " No node has enough free GPUs: check that the GPU operator or device plugin runs, "
            "lower replicas or parallelism.tensor, or let rolloutStrategy free a GPU first "
            "(maxSurge 0, maxUnavailable 1)."
        )
    elif "persistentvolumeclaim" in message:
        hint = " Create the claim, or correct its name in model.uri or modelCache.existingClaim."
    elif "nsufficient" in message:
        hint = " Lower spec.resources.requests, or add nodes."
    elif "taint" in message or "match" in message:
        hint = " Check nodeSelector, affinity and tolerations."
    return Fault(reason="Unschedulable", message=f"{message.rstrip('. ')}.{hint}")


def _of_container(pod: str, container: Body) -> Fault | None:
    name, state = container.get("name", ""), container.get("state", {})
    waiting = state.get("waiting", {})
    reason = waiting.get("reason", "")
    if reason in _IMAGE:
        return Fault(
            reason="ImagePullFailed",
            message=f"image {container.get('image', '')} of container {name} cannot be pulled: "
            f"{waiting.get('message', reason)}",
        )
    if reason in _CONFIG:
        return Fault(
            reason="ContainerConfigError",
            message=f"container {name} cannot be created: {waiting.get('message', reason)}",
        )
    if container.get("ready") and not waiting:
        return None
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated") or {}
    # In a starting pod a container that once failed and now runs may yet succeed, but what it
    # said is the best that is known of why it is not ready.
    if not ended or ended.get("exitCode", 0) == 0:
        return None
    return _ended(name, container, ended)


def _ended(name: str, container: Body, ended: Body) -> Fault:
    times = container.get("restartCount", 0)
    if name == "check-model":
        said = " ".join(ended.get("message", "").split())[:500]
        return Fault(reason="ModelNotFound", message=said or "the model's files are not there")
    words = _last_words(ended.get("message", ""))
    if ended.get("reason") == "OOMKilled":
        return Fault(
            reason="OutOfMemory",
            message=f"container {name} was killed for using more memory than its limit; raise "
            "resources.limits.memory, or lower model.maxModelLen or engine.maxNumSeqs",
        )
    code = ended.get("exitCode")
    said = f": {words}" if words else ""
    return Fault(
        reason="WorkerFailing" if name == "worker" else "CrashLooping",
        message=f"container {name} ended with exit code {code}, {times} restarts{said}",
    )


def _last_words(log: str) -> str:
    """The lines that tell most: the last one that names an error, else the last."""
    lines = [line.strip() for line in log.strip().splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    said: Any = (errors or lines or [""])[-1]
    return str(said)[:500]
