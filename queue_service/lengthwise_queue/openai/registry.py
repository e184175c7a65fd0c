"""All OpenAI endpoints that the queue serves. A new endpoint is added here. Pure."""

from __future__ import annotations

from typing import Any

from lengthwise_contract.jobs import EndpointPath
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.completions import COMPLETIONS
from lengthwise_queue.openai.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint[Any], ...] = (CHAT, COMPLETIONS)

_BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}


def endpoint_at(path: EndpointPath) -> Endpoint[Any]:
    """Return the endpoint of a path."""
    return _BY_PATH[path]
