"""Find out why a pod does not run, and what to do about it. Pure.

The cause is read from the pod's own status. The end of a container's log is in it, because its
terminationMessagePolicy is FallbackToLogsOnError. Causes that the status lacks, such as a volume
that cannot be mounted, are read from the warnings about the pod. No logs are read, no command is
run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from lengthwise_operator.llmservice.names import COMPONENT_LABEL, GPU
from lengthwise_operator.llmservice.service import parse_time
from lengthwise_operator.observed import Body

#: Warnings about a pod are read only when it has been pending for this long, s.
STUCK_AFTER_S = 10

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
class PodFault:
    """The fault of a pod that does not run. `reason` is one of EngineReady's in `reasons.py`."""

    reason: str
    message: str


def diagnose(pods: Sequence[Body], events: Sequence[Body]) -> PodFault | None:
    """Return the gravest fault of the pods; None: no fault is visible (they may be starting)."""
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


def stuck_pods(pods: Sequence[Body], now: datetime) -> list[str]:
    """Return the UIDs of pods that are pending for long, without a cause in their status."""
    return [
        pod["metadata"]["uid"]
        for pod in pods
        if pod.get("status", {}).get("phase") == "Pending"
        and not pod["metadata"].get("deletionTimestamp")
        and (now - parse_time(pod["metadata"]["creationTimestamp"])).total_seconds() > STUCK_AFTER_S
        and _of_pod(pod, ()) is None
    ]


def pods_of(pods: Iterable[Body], component: str) -> list[Body]:
    """Select the pods of one component that are not being deleted."""
    return [
        pod
        for pod in pods
        if pod["metadata"].get("labels", {}).get(COMPONENT_LABEL) == component
        and not pod["metadata"].get("deletionTimestamp")
    ]


def _of_pod(pod: Body, events: Sequence[Body]) -> PodFault | None:
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp"):
        return None
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _unschedulable(condition.get("message", ""))
    if status.get("phase") == "Failed" and status.get("reason") == "Evicted":
        return PodFault(reason="Evicted", message=f"pod {name}: {status.get('message', 'evicted')}")
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
                return PodFault(
                    reason="VolumeNotMounted", message=f"pod {name}: {event.get('message', '')}"
                )
            if reason == "FailedCreatePodSandBox":
                return PodFault(
                    reason="ContainerConfigError",
                    message=f"pod {name}: {event.get('message', '')}",
                )
    return None


def _unschedulable(message: str) -> PodFault:
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
    return PodFault(reason="Unschedulable", message=f"{message.rstrip('. ')}.{hint}")


def _of_container(pod: str, container: Body) -> PodFault | None:
    name, state = container.get("name", ""), container.get("state", {})
    waiting = state.get("waiting", {})
    reason = waiting.get("reason", "")
    if reason in _IMAGE:
        return PodFault(
            reason="ImagePullFailed",
            message=f"image {container.get('image', '')} of container {name} cannot be pulled: "
            f"{waiting.get('message', reason)}",
        )
    if reason in _CONFIG:
        return PodFault(
            reason="ContainerConfigError",
            message=f"container {name} cannot be created: {waiting.get('message', reason)}",
        )
    if container.get("ready") and not waiting:
        return None
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated") or {}
    # A container that failed once and runs again may still succeed. Until it is ready, its last
    # failure is the best known cause.
    if not ended or ended.get("exitCode", 0) == 0:
        return None
    return _ended(name, container, ended)


def _ended(name: str, container: Body, ended: Body) -> PodFault:
    times = container.get("restartCount", 0)
    if name == "check-model":
        output = " ".join(ended.get("message", "").split())[:500]
        return PodFault(reason="ModelNotFound", message=output or "the model's files are missing")
    error = _last_error(ended.get("message", ""))
    if ended.get("reason") == "OOMKilled":
        return PodFault(
            reason="OutOfMemory",
            message=f"container {name} was killed for using more memory than its limit; raise "
            "resources.limits.memory, or lower model.maxModelLen or engine.maxNumSeqs",
        )
    code = ended.get("exitCode")
    detail = f": {error}" if error else ""
    return PodFault(
        reason="WorkerFailing" if name == "worker" else "CrashLooping",
        message=f"container {name} ended with exit code {code}, {times} restarts{detail}",
    )


def _last_error(log: str) -> str:
    """Return the last line of a log that contains an error, or else its last line."""
    lines = [line.strip() for line in log.strip().splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    last: str = (errors or lines or [""])[-1]
    return last[:500]
