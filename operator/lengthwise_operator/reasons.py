"""Types and reasons of the conditions of an LLMService, each with what it means.

`conditions.py` says when which holds; docs/reference/operator.md prints these tables.
"""

from __future__ import annotations

from enum import StrEnum

from lengthwise_operator.autoscaling import ScalingReason


class ConditionType(StrEnum):
    """What a condition is about."""

    READY = "Ready"  #: All of the others are true.
    ENGINE = "EngineReady"  #: vLLM answers, or sleeps because there is no work.
    QUEUE = "QueueReady"  #: The queue takes jobs, with the settings of the spec.
    PREDICTOR = "PredictorReady"  #: Lengths are predicted. Without it traffic goes on.
    SCALING = "ScalingReady"  #: The number of replicas is what it should be.
    CACHE = "CacheReady"  #: The claim for downloads is there.


#: Condition -> reason -> (status, what it means and what to do).
REASONS: dict[ConditionType, dict[str, tuple[str, str]]] = {
    ConditionType.READY: {
        "Ready": ("True", "Requests are served."),
        "ScaledToZero": ("True", "No replica runs because there is no work; a job wakes one."),
        "InvalidSpec": ("False", "The spec breaks a rule; nothing is changed until it is mended."),
        "Deleting": ("False", "Being deleted: no new jobs, those in line are served first."),
        "(another's)": ("False", "The reason of the first condition that is not true."),
    },
    ConditionType.ENGINE: {
        "Available": ("True", "Every replica answers."),
        "ScaledToZero": ("True", "No replica is wanted."),
        "RollingOut": ("True", "Some replicas answer; others start or are replaced."),
        "Degraded": ("True", "Some replicas answer; another has the fault in the message."),
        "Starting": ("False", "The first replica downloads or loads its model."),
        "ModelNotFound": ("False", "There is no model at model.uri; the message lists the folder."),
        "ImagePullFailed": ("False", "An image cannot be pulled: name, tag or pull secret."),
        "ContainerConfigError": ("False", "A container cannot be made, e.g. a Secret is missing."),
        "VolumeNotMounted": ("False", "A volume cannot be mounted."),
        "OutOfMemory": ("False", "Killed for its memory limit."),
        "CrashLooping": ("False", "vLLM ends by itself; the message has its last error."),
        "WorkerFailing": ("False", "The worker beside vLLM ends; the message has its last error."),
        "Unschedulable": ("False", "No node fits: GPUs, memory, labels, taints, or a claim."),
        "Evicted": ("False", "The node put the pod out."),
        "PodsRefused": ("False", "The API server refuses the pods: a quota or an admission rule."),
        "ManifestRefused": ("False", "The API server refuses what the spec leads to."),
        "NotCreated": (
            "Unknown",
            "The Deployment is about to be made, unless another condition bars it.",
        ),
    },
    ConditionType.QUEUE: {
        "Accepting": ("True", "The queue takes jobs."),
        "Paused": ("False", "Somebody paused the queue; jobs wait."),
        "Draining": ("False", "New jobs are refused; those in line are served."),
        "NameTaken": ("False", "An older LLMService has the same model name: choose another."),
        "ModelNameChanged": ("False", "model.name was changed; jobs are under the old name."),
        "SettingsRefused": ("False", "The queue service refuses the settings."),
        "QueueServiceUnreachable": ("Unknown", "The operator cannot ask the queue service."),
        "NotCreated": ("Unknown", "The queue is about to be made."),
    },
    ConditionType.PREDICTOR: {
        "Available": ("True", "The predictor of this service answers."),
        "Shared": ("True", "The installation's predictor answers."),
        "External": ("True", "The predictor at predictor.url answers."),
        "Off": ("True", "None is wanted; jobs are ordered by the median length."),
        "ModelRefused": ("False", "The model in its folder cannot be loaded; another predicts."),
        "RankAccuracyLow": ("False", "Its order is not trusted; fcfs is served until it recovers."),
        "Starting": ("False", "Its first pod starts."),
        "Unreachable": ("False", "It does not answer; jobs get the median length."),
        "Failing": ("False", "Its pod does not run; the message says why."),
        "NotAsked": ("Unknown", "It was not asked yet."),
    },
    ConditionType.SCALING: {
        "Fixed": ("True", "spec.replicas says how many."),
        **{
            str(reason): ("True", text)
            for reason, text in {
                ScalingReason.STEADY: "As many as are needed.",
                ScalingReason.WOKEN: "A job came while there was no replica.",
                ScalingReason.BACKLOG: "More, because the waiting work is over the target.",
                ScalingReason.BOUNDS: "minReplicas or maxReplicas changed.",
                ScalingReason.LESS_WORK: "Fewer sufficed for the whole delay.",
                ScalingReason.IDLE: "None, because there was no work for the whole delay.",
                ScalingReason.STABILIZING: "Fewer would do, but not for long enough yet.",
            }.items()
        },
        str(ScalingReason.NO_SIGNAL): ("Unknown", "No numbers from the queue; nothing changes."),
    },
    ConditionType.CACHE: {
        "NotRequested": ("True", "No cache; weights are downloaded by each pod or read in place."),
        "Bound": ("True", "The claim has its volume."),
        "WaitingForFirstPod": ("True", "The claim gets its volume with the first pod."),
        "Pending": ("False", "The claim has no volume yet."),
        "ClaimNotFound": ("False", "modelCache.existingClaim does not exist."),
        "Lost": ("False", "The claim has lost its volume."),
        "ManifestRefused": ("False", "The API server refuses the claim."),
        "NotCreated": ("Unknown", "The claim is about to be made."),
    },
}

#: Reasons of a condition that is not true for a good cause: no event of type Warning.
EXPECTED = frozenset({"Starting", "NotCreated", "NotAsked", "Draining", "Deleting", "Pending"})
