"""Types and reasons of the conditions of an LLMService, each with its meaning.

`conditions.py` computes which holds; docs/reference/operator.md prints these tables.
"""

from __future__ import annotations

from enum import StrEnum

from lengthwise_operator.autoscaling import ScalingReason


class ConditionType(StrEnum):
    """The type of a condition."""

    READY = "Ready"  #: All of the others are true.
    ENGINE = "EngineReady"  #: A replica of vLLM is ready, or none is wanted.
    QUEUE = "QueueReady"  #: The queue accepts jobs, with the settings of the spec.
    PREDICTOR = "PredictorReady"  #: Lengths are predicted. Requests are served without it, too.
    SCALING = "ScalingReady"  #: The desired number of replicas is known.
    CACHE = "CacheReady"  #: The claim for downloads exists and has a volume.


#: Condition -> reason -> (status, what it means and what to do).
REASONS: dict[ConditionType, dict[str, tuple[str, str]]] = {
    ConditionType.READY: {
        "Ready": ("True", "Requests are served."),
        "ScaledToZero": ("True", "No replica runs because there is no work; a job starts one."),
        "InvalidSpec": ("False", "The spec breaks a rule; nothing is changed until it is fixed."),
        "Deleting": ("False", "Being deleted: new jobs are refused, queued jobs are served first."),
        "(another's)": ("False", "The reason of the first condition that is not true."),
    },
    ConditionType.ENGINE: {
        "Available": ("True", "Every replica is ready."),
        "ScaledToZero": ("True", "No replica is wanted."),
        "RollingOut": ("True", "Some replicas are ready; others start or are replaced."),
        "Degraded": ("True", "Some replicas are ready; another has the fault in the message."),
        "EngineFailing": (
            "False",
            "No worker gets answers from its engine or from engine.url; the message has the cause.",
        ),
        "Starting": ("False", "The first replica downloads or loads its model."),
        "ModelNotFound": ("False", "There is no model at model.uri; the message lists the folder."),
        "ImagePullFailed": ("False", "An image cannot be pulled: name, tag or pull secret."),
        "ContainerConfigError": (
            "False",
            "A container cannot start, e.g. a Secret is missing.",
        ),
        "VolumeNotMounted": ("False", "A volume cannot be mounted."),
        "OutOfMemory": ("False", "A container was killed because it reached its memory limit."),
        "CrashLooping": ("False", "vLLM exits; the message has its last error."),
        "WorkerFailing": ("False", "The worker beside vLLM exits; the message has its last error."),
        "Unschedulable": ("False", "No node fits: GPUs, memory, labels, taints, or a claim."),
        "Evicted": ("False", "The node evicted the pod."),
        "PodsRefused": ("False", "The API server refuses the pods: a quota or an admission rule."),
        "ManifestRefused": (
            "False",
            "The API server refuses the Deployment of this spec, or another part of the engine.",
        ),
        "NameConflict": (
            "False",
            "An object that is not this service's has the name of the engine; it is left alone.",
        ),
        "NotCreated": (
            "Unknown",
            "The Deployment will be created, unless another condition prevents it.",
        ),
    },
    ConditionType.QUEUE: {
        "Accepting": ("True", "The queue accepts jobs."),
        "Paused": ("False", "The queue was paused through its API; jobs wait."),
        "Draining": ("False", "New jobs are refused; queued jobs are served."),
        "NameTaken": ("False", "An older LLMService has the same model name: choose another."),
        "ModelNameChanged": (
            "False",
            "model.name changed; queued jobs are under the old name.",
        ),
        "SettingsRefused": ("False", "The queue service refuses the settings."),
        "QueueServiceUnreachable": ("Unknown", "The operator cannot reach the queue service."),
        "NotCreated": ("Unknown", "The queue will be created."),
    },
    ConditionType.PREDICTOR: {
        "Available": ("True", "The predictor of this service is ready."),
        "Shared": ("True", "The installation's predictor is ready."),
        "External": ("True", "The predictor at predictor.url is ready."),
        "Off": ("True", "None is wanted; every job counts as of median length."),
        "ModelRefused": (
            "False",
            "The model in its folder cannot be loaded; another predicts.",
        ),
        "RankAccuracyLow": (
            "False",
            "The predictions are degraded; fcfs until they recover.",
        ),
        "Starting": ("False", "Its first pod starts."),
        "Unreachable": (
            "False",
            "It does not answer; every job counts as of median length.",
        ),
        "NameConflict": ("False", "An object that is not this service's has its name."),
        "Failing": ("False", "Its pod does not run; the message has the cause."),
        "NotAsked": ("Unknown", "It was not asked yet."),
    },
    ConditionType.SCALING: {
        "Fixed": ("True", "spec.replicas sets the number."),
        **{
            str(reason): ("True", text)
            for reason, text in {
                ScalingReason.STEADY: "The number is what is needed.",
                ScalingReason.WOKEN: "A job arrived while there was no replica.",
                ScalingReason.BACKLOG: "Scaled up, because the backlog is above the target.",
                ScalingReason.BOUNDS: "minReplicas or maxReplicas changed.",
                ScalingReason.LESS_WORK: "Scaled down: fewer were enough for the whole delay.",
                ScalingReason.IDLE: "Scaled to zero: there was no work for the whole delay.",
                ScalingReason.STABILIZING: "Fewer are enough now, but not for the whole delay yet.",
            }.items()
        },
        str(ScalingReason.NO_SIGNAL): (
            "Unknown",
            "The queue service reports no numbers; no change.",
        ),
    },
    ConditionType.CACHE: {
        "NotRequested": (
            "True",
            "No cache: each pod downloads the weights or reads them in place.",
        ),
        "Bound": ("True", "The claim has its volume."),
        "WaitingForFirstPod": ("True", "The claim gets its volume with the first pod."),
        "Pending": ("False", "The claim has no volume yet."),
        "ClaimNotFound": ("False", "modelCache.existingClaim does not exist."),
        "Lost": ("False", "The claim has lost its volume."),
        "ManifestRefused": ("False", "The API server refuses the claim."),
        "NameConflict": ("False", "A claim that is not this service's has the name of its cache."),
        "NotCreated": ("Unknown", "The claim will be created."),
    },
}

#: Reasons for which a condition is expected not to be true: their events are Normal, not Warning.
EXPECTED = frozenset({"Starting", "NotCreated", "NotAsked", "Draining", "Deleting", "Pending"})
