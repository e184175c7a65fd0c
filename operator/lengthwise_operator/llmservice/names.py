"""Names that the operator, the objects it makes and the CRD share. Pure."""

from __future__ import annotations

GROUP = "lengthwise.dev"
VERSION = "v1alpha1"
PLURAL = "llmservices"
KIND = "LLMService"
API_VERSION = f"{GROUP}/{VERSION}"

#: The field manager of server-side apply, the value of the managed-by label, and the event source.
FIELD_MANAGER = "lengthwise-operator"

SERVICE_LABEL = "lengthwise.dev/service"
COMPONENT_LABEL = "app.kubernetes.io/component"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"

#: The queue that an engine serves: on its Deployment, so that a changed model.name is detected.
QUEUE_ANNOTATION = "lengthwise.dev/queue"

#: The components of one service; each is the suffix of its children's names.
ENGINE, PREDICTOR, CACHE = "engine", "predictor", "model-cache"

#: Ports of the pods. Monitors select the ports by name.
ENGINE_PORT, WORKER_PORT, PREDICTOR_PORT = 8000, 8082, 8081

#: The resource that one GPU is.
GPU = "nvidia.com/gpu"
