"""One LLMService as the operator reads it, and the names that follow from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lengthwise_operator.installation import Installation
from lengthwise_operator.llmservice.names import (
    COMPONENT_LABEL,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    PREDICTOR,
    PREDICTOR_PORT,
    SERVICE_LABEL,
)
from lengthwise_operator.llmservice.spec import LLMServiceSpec


@dataclass(frozen=True, kw_only=True)
class LLMService:
    """One LLMService. Times are aware datetimes."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime
    deleted: datetime | None
    spec: LLMServiceSpec
    status: Mapping[str, Any] = field(default_factory=dict)
    #: While it is being deleted: the queue that its engine serves, whatever the spec says by now.
    served_queue: str = ""

    @property
    def queue(self) -> str:
        """The name of its queue, which is also the name of the served model."""
        return self.served_queue or self.spec.model.name or self.name

    @property
    def slots(self) -> int:
        """Jobs that one replica holds at once."""
        engine = self.spec.engine
        width = engine.max_num_seqs * engine.data_parallel_size
        return self.spec.queue.max_in_flight_per_replica or width

    def child(self, component: str) -> str:
        """Name of the children of one component."""
        return f"{self.name}-{component}"

    def selector(self, component: str) -> dict[str, str]:
        """Labels that select the pods of one component, and no others."""
        return {SERVICE_LABEL: self.name, COMPONENT_LABEL: component}

    def labels(self, component: str) -> dict[str, str]:
        """All labels of the children of one component."""
        return {
            **self.selector(component),
            # Not "lengthwise": a service with the name of the Helm release would then match the
            # chart's pods.
            "app.kubernetes.io/name": "llmservice",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/part-of": "lengthwise",
            MANAGED_BY_LABEL: FIELD_MANAGER,
        }

    def own_predictor_replicas(self, installation: Installation) -> int:
        """Predictor pods for this service alone; 0: the shared one, an external one, or none."""
        wanted = self.spec.predictor
        if wanted.url:
            return 0
        if wanted.replicas is not None:
            return wanted.replicas
        shared = wanted.model == "bundled" and installation.predictor_url
        return 0 if shared else 1

    def predictor_url(self, installation: Installation) -> str | None:
        """Base URL of this service's predictor; None: it has none."""
        wanted = self.spec.predictor
        if wanted.url:
            return wanted.url
        if self.own_predictor_replicas(installation):
            return f"http://{self.child(PREDICTOR)}.{self.namespace}.svc:{PREDICTOR_PORT}"
        if wanted.replicas == 0:
            return None
        return installation.predictor_url or None


def llmservice_of(body: Mapping[str, Any], spec: LLMServiceSpec) -> LLMService:
    """Build an LLMService from its object and its parsed spec."""
    meta = body["metadata"]
    return LLMService(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=meta["generation"],
        created=parse_time(meta["creationTimestamp"]),
        deleted=parse_time(meta["deletionTimestamp"]) if meta.get("deletionTimestamp") else None,
        spec=spec,
        status=body.get("status") or {},
    )


def parse_time(text: str) -> datetime:
    """Parse a time as Kubernetes writes it, such as 2026-01-31T12:00:00Z."""
    return datetime.fromisoformat(text)
