"""Decide whether an object in the cluster is this service's own. Pure.

The operator never changes or deletes an object that it did not create, even if the object has the
name of a child: it may hold data. A user hands an object over with `ADOPT_ANNOTATION`.
"""

from __future__ import annotations

from lengthwise_operator.llmservice.names import FIELD_MANAGER, GROUP, KIND
from lengthwise_operator.llmservice.service import LLMService
from lengthwise_operator.observed import Body

#: On an existing object: the name of the LLMService that may take it over. From then on the object
#: is a child like any other, and is deleted with its service.
ADOPT_ANNOTATION = f"{GROUP}/adopt-by"


def controller_uid(child: Body) -> str | None:
    """Return the UID of the object's controller; None: it has none."""
    owner = _controller(child)
    return None if owner is None else str(owner["uid"])


def may_change(child: Body, service: LLMService) -> bool:
    """Whether an existing object is the service's own, or was handed over to it."""
    if controller_uid(child) == service.uid:
        managers = child["metadata"].get("managedFields") or ()
        return any(m.get("manager") == FIELD_MANAGER for m in managers)
    free = _controller(child) is None
    annotations = child["metadata"].get("annotations") or {}
    return free and annotations.get(ADOPT_ANNOTATION) == service.name


def conflict(child: Body, service: LLMService) -> str:
    """Write the message about an existing object that is not the service's own."""
    meta, owner = child["metadata"], _controller(child)
    name = f"{child['kind']} {meta['namespace']}/{meta['name']}"
    if owner is not None and owner["kind"] == KIND and owner["name"] == service.name:
        return (
            f"{name} belongs to an earlier LLMService of this name, which is being deleted; it is "
            "created anew when that one is gone"
        )
    if owner is not None:
        return (
            f"{name} exists and belongs to {owner['kind']} {owner['name']}, so it is left alone; "
            "give this LLMService another name"
        )
    return (
        f"{name} exists and was not created by this LLMService, so it is left alone; delete or "
        f"rename it, give this LLMService another name, or set the annotation {ADOPT_ANNOTATION}="
        f"{service.name} on it: then it becomes a part of the LLMService, and is deleted with it"
    )


def _controller(child: Body) -> Body | None:
    owners = child["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)
