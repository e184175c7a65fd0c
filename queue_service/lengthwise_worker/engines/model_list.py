"""Reads an engine's /v1/models: whether it lists the worker's model. Pure; for openai_http.py."""

from __future__ import annotations

from typing import Any

from lengthwise_worker.engines import wire
from lengthwise_worker.engines.base import Health

#: Names of other models that a message shows at most.
_SHOWN = 5


def health_from(body: bytes, model: str, *, must_list: bool) -> Health:
    """Judge an engine by its list of models.

    Args:
        body: The response to GET /v1/models.
        model: The name under which clients ask for the model; "": any.
        must_list: Whether an engine that does not list it is in trouble.
    """
    cards = _cards(wire.parse(body))
    if cards is None:
        return Health(problem="/v1/models of the engine lists no models.", certain=False)
    names = [name for card in cards if isinstance(name := card.get("id"), str)]
    own = next((card for card in cards if model in ("", card.get("id"))), None)
    if own is not None:
        return Health(max_model_len=_max_model_len(own))
    if not names:
        return Health(problem="/v1/models of the engine lists no models.", certain=False)
    return Health(problem=other_model(model, names)) if must_list else Health()


def other_model(model: str, names: list[str]) -> str:
    """Say that the engine serves other models."""
    others = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    return (
        f"The engine serves {others} and not {model!r}, which this worker is for. Start it with "
        f"--served-model-name {model}, or set LENGTHWISE_WORKER_QUEUE to the name that it serves."
    )


def _cards(listing: Any) -> list[dict[str, Any]] | None:
    found = listing.get("data") if isinstance(listing, dict) else listing
    if not isinstance(found, list):
        return None
    return [card for card in found if isinstance(card, dict)]


def _max_model_len(card: dict[str, Any]) -> int | None:
    """Return vLLM's `max_model_len`, or llama.cpp's `meta.n_ctx`, tokens."""
    meta = card.get("meta")
    found = card.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return found if isinstance(found, int) and found > 0 else None
