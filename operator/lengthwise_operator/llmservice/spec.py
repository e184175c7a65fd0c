"""The LLMService resource as typed models: the source of the CRD and what the operator reads.

`crd.py` writes these models as a structural schema, so a field's description here is what
`kubectl explain` prints. Only what a schema can say of one field stands here; what concerns two
fields at once is in `rules.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

#: Default engine image. Pinned: an engine that changes by itself is an outage nobody asked for.
ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"

DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"
DNS_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

#: A Kubernetes object that the API server checks when it is used, not here.
Opaque = Annotated[dict[str, Any], Field(json_schema_extra={"opaque": True})]

#: `nvidia.com/gpu: 1` as well as `memory: 8Gi`.
Quantities = dict[str, int | str]

#: Bounded, because the API server refuses CEL rules over strings that have no bound.
_INT_OR_PERCENT: dict[str, Any] = {"pattern": "^[0-9]{1,3}%?$", "maxLength": 4}

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """A duration such as `1h30m`, in seconds.

    Raises:
        ValueError: It is not of that form.
    """
    if not re.fullmatch(DURATION, duration):
        raise ValueError(f"expected a duration such as 30s, 10m or 1h30m, got {duration!r}")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", duration)
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


class Part(BaseModel):
    """A part of the resource; camelCase outside, snake_case here.

    An unknown field is ignored: the API server has pruned it already, and an operator that is one
    version behind its CRD must go on working.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )


class ModelSpec(Part):
    """Which LLM is served, and where its weights are."""

    uri: str = Field(
        pattern=r"^(hf|pvc|path)://\S+$",
        max_length=512,
        description="Where the weights are. `hf://org/name`: the Hugging Face hub, downloaded into "
        "the model cache. `pvc://claim/folder`: a PersistentVolumeClaim of this namespace, mounted "
        "read-only. `path:///folder`: a path inside the engine's container, for weights that are "
        "baked into the image or mounted through podTemplate.",
    )
    name: str = Field(
        default="",
        max_length=256,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9._:@+-]+)*)?$",
        description="The name that clients send as `model`, and the name of the queue; unique in "
        "the installation. Empty: the name of this object.",
    )
    revision: str = Field(
        default="",
        max_length=256,
        description="Branch, tag or commit on the hub, for `hf://` only. Empty: its main branch.",
    )
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        description="Longest context, prompt and answer together, tokens. Left out: as long as the "
        "model's configuration allows, which may not fit into the GPU's memory.",
    )


class SecretKeyRef(Part):
    """One key of a Secret in this namespace."""

    name: str = Field(pattern=DNS_NAME, max_length=253, description="Name of the Secret.")
    key: str = Field(default="token", min_length=1, max_length=253, description="Key within it.")


class EnvVar(Part):
    """One environment variable of the engine's container."""

    name: str = Field(min_length=1, max_length=253, description="Name of the variable.")
    value: str | None = Field(default=None, description="Its value; or give valueFrom.")
    value_from: Opaque | None = Field(
        default=None, description="Where the value comes from, as in a Pod (secretKeyRef, ...)."
    )


class EngineSpec(Part):
    """How vLLM is started."""

    image: str = Field(
        default=ENGINE_IMAGE,
        min_length=1,
        description="Image whose entrypoint is `vllm serve`. Pin it: a tag that moves changes the "
        "engine at the next restart of a pod.",
    )
    args: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list,
        max_length=128,
        description="Further arguments of `vllm serve`, behind those that follow from this "
        "resource (model, served name, host, port, scheduling policy, max-num-seqs, tensor "
        "parallel size, context, revision), which must not be given here.",
    )
    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=128,
        json_schema_extra={"map_keys": ["name"]},
        description="Environment variables of the engine.",
    )
    env_from: list[Opaque] = Field(
        default_factory=list,
        max_length=32,
        description="ConfigMaps and Secrets whose keys become variables, as in a Pod.",
    )
    max_num_seqs: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Requests that the engine works on at once (vLLM's --max-num-seqs). More gives "
        "more tokens in all and fewer per request, and needs more memory.",
    )
    startup_timeout_seconds: int = Field(
        default=1800,
        ge=30,
        le=86400,
        description="How long a replica may take to download and load its model before it is "
        "restarted, s.",
    )


class Resources(Part):
    """Requests and limits of a container, as in a Pod."""

    limits: Quantities = Field(
        default_factory=dict,
        description="Most that the container may use, e.g. {nvidia.com/gpu: 1, memory: 32Gi}.",
    )
    requests: Quantities = Field(
        default_factory=dict, description="What is reserved for it. Left out: the limits."
    )


class Parallelism(Part):
    """How one replica is spread over GPUs."""

    tensor: int = Field(
        default=1,
        ge=1,
        le=64,
        description="GPUs of one replica. Sets --tensor-parallel-size, the limit on nvidia.com/gpu "
        "if resources has none, and a larger /dev/shm.",
    )


class Toleration(Part):
    """Lets the pods onto tainted nodes, as in a Pod."""

    key: str | None = Field(default=None, description="The taint's key; left out: every key.")
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Equal (the default) or Exists."
    )
    value: str | None = Field(default=None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; left out: every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, description="With NoExecute: how long it is tolerated, s."
    )


class ModelCache(Part):
    """Where weights from the hub are kept, so that a restart does not download them again."""

    existing_claim: str = Field(
        default="",
        max_length=253,
        description="A PersistentVolumeClaim of this namespace to use. Empty: one is made, and is "
        "deleted together with this object.",
    )
    size: str = Field(default="50Gi", pattern=QUANTITY, description="Size of the claim made.")
    storage_class_name: str = Field(
        default="", description="Its storage class. Empty: the cluster's default."
    )
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]] = Field(
        default_factory=lambda: ["ReadWriteOnce"],  # type: ignore[arg-type]
        min_length=1,
        max_length=3,
        description="Its access modes. Replicas on several nodes need ReadWriteMany.",
    )


class Autoscaling(Part):
    """Replicas from the predicted work that waits, instead of a fixed number."""

    min_replicas: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Fewest replicas. 0: none while there is no work; the first job wakes one, and "
        "waits in the queue while the model loads.",
    )
    max_replicas: int = Field(default=4, ge=1, le=1000, description="Most replicas.")
    target_backlog_seconds: float = Field(
        default=30,
        ge=1,
        le=86400,
        description="Replicas are added until the waiting work would be served within this, s. "
        "The work is what the predictor expects, at the measured speed.",
    )
    scale_down_delay_seconds: int = Field(
        default=300,
        ge=0,
        le=86400,
        description="A replica goes only when it was not needed for this long, s.",
    )


class QueueClass(Part):
    """A service class of jobs: a fixed handicap in the order of service; it ages like all."""

    name: str = Field(
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="What a job names as its `class`.",
    )
    offset: str = Field(
        default="0s",
        pattern=DURATION,
        max_length=32,
        description="Added to the due time of its jobs: they stand as if accepted this much later.",
    )


class QueueSpec(Part):
    """The line in front of the engine. Changes act at once, without a restart."""

    policy: Literal["sjf", "fcfs", "shadow"] = Field(
        default="sjf",
        description="Who is next. sjf: short answers first, with credit for waiting. fcfs: first "
        "come, first served. shadow: predict and record, but serve first come, first served.",
    )
    overtake_factor: float = Field(
        default=3,
        ge=0,
        le=1000,
        description="k: no job is overtaken by one accepted more than k times its own predicted "
        "length later, but for overtakeWaitFactor. 0 is first come, first served; larger "
        "favours short answers more.",
    )
    overtake_wait_factor: float = Field(
        default=2,
        ge=0,
        le=100,
        description="In a long line, a long answer may instead be overtaken for up to this many "
        "times the wait that it found when it came, as far as the predictions have been right. "
        "0: overtakeFactor alone, which in a lasting overload is nearly first come, first served.",
    )
    max_depth: int = Field(
        default=10_000, ge=1, le=10_000_000, description="Jobs waiting above which 429 is answered."
    )
    max_in_flight_per_replica: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Jobs that one replica holds at once. 0: engine.maxNumSeqs, which keeps the "
        "engine full and its own, unordered line empty.",
    )
    request_ttl: str = Field(
        default="10m",
        alias="requestTTL",
        pattern=DURATION,
        max_length=32,
        description="A job not finished after this expires, unless it says otherwise itself.",
    )
    classes: list[QueueClass] = Field(
        default_factory=lambda: [
            QueueClass(name="interactive", offset="0s"),
            QueueClass(name="batch", offset="10m"),
        ],
        min_length=1,
        max_length=16,
        json_schema_extra={"map_keys": ["name"]},
        description="The service classes; the first is the default.",
    )
    record_rows: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Keep the last so many (request, length of the answer) in Redis for 7 days, to "
        "train a predictor on (`lengthwise collect --from-queue`). These are your users' prompts. "
        "0: none, and what was kept is deleted. The workers hear of a change within 10 s.",
    )


class PredictorSpec(Part):
    """What predicts the length of answers."""

    model: str = Field(
        default="bundled",
        pattern=r"^(bundled|pvc://\S+)$",
        max_length=512,
        description="`bundled`: the model that ships with Lengthwise. `pvc://claim/folder`: one "
        "of your own (model.onnx, tokenizer.json, model.json), always in pods of its own.",
    )
    url: str = Field(
        default="",
        max_length=512,
        pattern=r"^(https?://\S+)?$",
        description="A predictor that you run yourself and that speaks POST /v1/predict/batch; "
        "nothing is then started here. Empty: see model.",
    )
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Pods of a predictor for this service alone. Left out: the installation's "
        "shared one serves `bundled` if there is one, else 1. 0: no predictor; jobs are ordered "
        "by the median length.",
    )
    resources: Resources = Field(
        default_factory=Resources, description="Of each of those pods; one core is plenty."
    )
    min_rank_accuracy: float = Field(
        default=0.6,
        ge=0,
        le=0.99,
        description="While fewer pairs of the last answers than this were predicted in the right "
        "order, the queue serves first come, first served. A coin has 0.5, a perfect predictor 1; "
        "below 0.5: it never does.",
    )
    drift_window: str = Field(
        default="1h",
        pattern=DURATION,
        max_length=32,
        description="Answers older than this tell nothing of the predictor as it is now; 1m to "
        "720h, such as 1h30m. 0s: the last 256 do, whatever their age.",
    )
    reload_every: str = Field(
        default="5s",
        pattern=DURATION,
        max_length=32,
        description="How often a predictor of its own looks whether its model's folder has "
        "changed, to take it up without a restart; at most 24h. 0s: never.",
    )


class RolloutStrategy(Part):
    """How a change of image or arguments replaces the replicas."""

    max_unavailable: int | str = Field(
        default=0,
        json_schema_extra=_INT_OR_PERCENT,
        description="Replicas that may be missing meanwhile, a number or a percentage.",
    )
    max_surge: int | str = Field(
        default=1,
        json_schema_extra=_INT_OR_PERCENT,
        description="Replicas beyond the number wanted; each needs its GPUs. With no GPU to "
        "spare, give 0 here and 1 in maxUnavailable.",
    )


class Drain(Part):
    """How a replica, or the whole service, ends without losing work."""

    pre_stop_seconds: int = Field(
        default=15,
        ge=0,
        le=3600,
        description="How long the engine waits for the worker beside it to finish its answers "
        "before it is told to stop, s. It goes on at once when the worker has none left.",
    )
    shutdown_timeout_seconds: int = Field(
        default=45,
        ge=0,
        le=3600,
        description="How long the engine may go on with answers after that (vLLM's "
        "--shutdown-timeout), s. What is not finished by then goes back into the line.",
    )
    delete_timeout_seconds: int = Field(
        default=600,
        ge=0,
        le=86400,
        description="When this object is deleted, how long the jobs in line may still be served "
        "before everything is removed, s. New jobs are refused at once. 0: remove at once.",
    )


class LLMServiceSpec(Part):
    """What is wanted."""

    model: ModelSpec = Field(description="Which LLM is served, and where its weights are.")
    hf_token_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="A token for models that the hub does not give to everybody; passed to the "
        "engine as HF_TOKEN, and read by nobody else.",
    )
    engine: EngineSpec = Field(default_factory=EngineSpec, description="How vLLM is started.")
    resources: Resources = Field(
        default_factory=Resources, description="Of the engine's container in each replica."
    )
    parallelism: Parallelism = Field(
        default_factory=Parallelism, description="How one replica is spread over GPUs."
    )
    shared_memory_size: str | None = Field(
        default=None,
        pattern=QUANTITY,
        description="Size of /dev/shm, which counts as memory of the pod. Left out: 2Gi, or 8Gi "
        "with tensor parallelism. 0: as the container runtime has it (64Mi).",
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="Labels of the nodes that the engine may run on."
    )
    tolerations: list[Toleration] = Field(
        default_factory=list, max_length=64, description="Taints that the engine's pods tolerate."
    )
    affinity: Opaque = Field(
        default_factory=dict, description="Affinity of the engine's pods, as in a Pod."
    )
    runtime_class_name: str = Field(
        default="", description="RuntimeClass of the engine's pods, e.g. nvidia. Empty: default."
    )
    priority_class_name: str = Field(
        default="", description="PriorityClass of the engine's pods. Empty: default."
    )
    model_cache: ModelCache | None = Field(
        default=None,
        description="Keeps weights from the hub over restarts. Left out: each pod downloads anew.",
    )
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Engine replicas; `kubectl scale` sets it. Left out: 1. Not together with "
        "autoscaling.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None, description="Replicas from the predicted work. Not together with replicas."
    )
    queue: QueueSpec = Field(
        default_factory=QueueSpec, description="The line in front of the engine."
    )
    predictor: PredictorSpec = Field(
        default_factory=PredictorSpec, description="What predicts the length of answers."
    )
    rollout_strategy: RolloutStrategy = Field(
        default_factory=RolloutStrategy, description="How a change replaces the replicas."
    )
    drain: Drain = Field(
        default_factory=Drain, description="How a replica, or the service, ends without loss."
    )
    pod_template: Opaque = Field(
        default_factory=dict,
        description="Escape hatch: a pod template (metadata.labels, metadata.annotations, spec) "
        "merged over the engine's. Containers are merged by name; the engine's is `main`. "
        "docs/reference/llmservice.md says what is merged how.",
    )
