"""Predictions for a list of requests, grouped by the model that serves each LLM.

Called by the routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from fastapi import Request

from lengthwise_contract.prediction import Prediction, PredictRequest
from lengthwise_contract.prompts import clip, render_request
from lengthwise_predictor.batching import Row
from lengthwise_predictor.model import ANY_LLM
from lengthwise_predictor.model_registry import ModelRegistry


def registry_of(request: Request) -> ModelRegistry:
    """Return the model registry of the request's application."""
    return cast(ModelRegistry, request.app.state.models)


async def predict_all(request: Request, requests: Sequence[PredictRequest]) -> list[Prediction]:
    """Predict for each request; the texts of one model go to its batcher together.

    Args:
        request: The HTTP request, which gives access to the models and the metrics.
        requests: What to predict.

    Returns:
        The predictions, in the order of `requests`.

    Raises:
        PredictorError: A model is missing, not ready or overloaded.
    """
    models = registry_of(request)
    texts = [_text(one) for one in requests]
    served = [models.for_llm(one.model, one.predictor) for one in requests]
    # Nothing is awaited before all are submitted, so no model can be replaced in between.
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(served):
        groups.setdefault(one.name, []).append(place)
    unknown = sum(
        one.model.llm_row(a.model) == ANY_LLM for one, a in zip(served, requests, strict=True)
    )
    if unknown:
        request.app.state.metrics.unknown_llm.inc(unknown)
    submitted: list[tuple[list[int], asyncio.Future[list[list[Row]]]]] = []
    try:
        for places in groups.values():
            batcher = served[places[0]].batcher
            submitted.append(
                (places, batcher.submit([(texts[p], requests[p].model) for p in places]))
            )
        found: dict[int, Prediction] = {}
        for places, rows in submitted:
            model = served[places[0]].model
            flat = [row for part in await rows for row in part]
            for place, row in zip(places, flat, strict=True):
                ids = row.ids if requests[place].view else None
                found[place] = model.prediction(row.numbers, ids_of_view=ids)
    except BaseException:
        for _, rows in submitted:
            rows.cancel()  # the request has failed: the other rows are not needed
        raise
    return [found[place] for place in range(len(requests))]


def _text(one: PredictRequest) -> str:
    """Return the text to read, clipped at once so that a waiting request takes little memory."""
    if one.prompt is not None:
        return clip(one.prompt)
    return clip(render_request(one.messages or []))
