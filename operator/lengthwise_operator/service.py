"""One LLMService as the operator sees it, and the names that follow from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lengthwise_operator.children.worker_redis import WorkerRedis
from lengthwise_operator.llmservice.spec import LLMServiceSpec

API_VERSION = "lengthwise.dev/v1alpha1"
KIND = "LLMService"

#: Whose fields these are, to server-side apply.
FIELD_MANAGER = "lengthwise-operator"

SERVICE_LABEL = "lengthwise.dev/service"
COMPONENT_LABEL = "app.kubernetes.io/component"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"

#: The queue that an engine serves: on its Deployment, so that a changed model.name is noticed.
QUEUE_ANNOTATION = "lengthwise.dev/queue"

ENGINE, PREDICTOR, CACHE = "engine", "predictor", "model-cache"

#: Ports of the pods; the names are what monitors select.
ENGINE_PORT, WORKER_PORT, PREDICTOR_PORT = 8000, 8082, 8081


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What all services of one installation share; from the operator's settings.

    Attributes:
        queue_url: Base URL of the queue service, inside the cluster.
        queue_deployment: namespace/name of the queue service's Deployment; "": not known.
        public_url: What users are told: base URL for OpenAI clients, with /v1.
        predictor_url: Base URL of the shared predictor; "": there is none.
        worker_image: Image of the sidecar.
        predictor_image: Image of predictors of their own.
        image_pull_policy: Of both.
        image_pull_secrets: Names, put on every pod.
        redis: How the workers reach Redis.
        metrics_namespace: Whose pods may scrape the engines; "": nobody's.
    """

    queue_url: str
    queue_deployment: str
    public_url: str
    predictor_url: str
    worker_image: str
    predictor_image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...]
    redis: WorkerRedis
    metrics_namespace: str


@dataclass(frozen=True, kw_only=True)
class Apis:
    """What this API server offers, where servers differ.

    Attributes:
        pdb_version: apiVersion of PodDisruptionBudget; "": it has none.
        pod_monitors: Whether PodMonitors of the Prometheus operator exist.
    """

    pdb_version: str
    pod_monitors: bool


@dataclass(frozen=True, kw_only=True)
class Service:
    """One LLMService. Times are aware datetimes."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime
    deleted: datetime | None
    spec: LLMServiceSpec
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def queue(self) -> str:
        """The name of its queue, which is the served model's."""
        return self.spec.model.name or self.name

    @property
    def slots(self) -> int:
        """Jobs that one replica holds at once."""
        return self.spec.queue.max_in_flight_per_replica or self.spec.engine.max_num_seqs

    def child(self, part: str) -> str:
        """Name of the child that does `part`."""
        return f"{self.name}-{part}"

    def selector(self, part: str) -> dict[str, str]:
        """Labels that select the pods of `part`, and nothing else."""
        return {SERVICE_LABEL: self.name, COMPONENT_LABEL: part}

    def labels(self, part: str) -> dict[str, str]:
        """All labels of the children of `part`."""
        return {
            **self.selector(part),
            # Not "lengthwise": a service named as the Helm release would match the chart's pods.
            "app.kubernetes.io/name": "llmservice",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/part-of": "lengthwise",
            MANAGED_BY_LABEL: FIELD_MANAGER,
        }

    def own_predictor_replicas(self, installation: Installation) -> int:
        """Pods of a predictor for this service alone; 0: the shared one, another's, or none."""
        wanted = self.spec.predictor
        if wanted.url:
            return 0
        if wanted.replicas is not None:
            return wanted.replicas
        shared = wanted.model == "bundled" and installation.predictor_url
        return 0 if shared else 1

    def predictor_url(self, installation: Installation) -> str | None:
        """Where this service's predictor listens; None: it has none."""
        wanted = self.spec.predictor
        if wanted.url:
            return wanted.url
        if self.own_predictor_replicas(installation):
            return f"http://{self.child(PREDICTOR)}.{self.namespace}.svc:{PREDICTOR_PORT}"
        if wanted.replicas == 0:
            return None
        return installation.predictor_url or None


def service_of(body: Mapping[str, Any], spec: LLMServiceSpec) -> Service:
    """An LLMService from its object and its spec, already read."""
    meta = body["metadata"]
    return Service(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=meta["generation"],
        created=time_of(meta["creationTimestamp"]),
        deleted=time_of(meta["deletionTimestamp"]) if meta.get("deletionTimestamp") else None,
        spec=spec,
        status=body.get("status") or {},
    )


def time_of(text: str) -> datetime:
    """A time of Kubernetes, such as 2026-01-31T12:00:00Z."""
    return datetime.fromisoformat(text)
