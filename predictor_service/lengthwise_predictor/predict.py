"""Predictions for a list of requests, grouped by the model that serves each LLM.

Called by the routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from fastapi import Request

from lengthwise_contract.prediction import Prediction, PredictRequest
from lengthwise_contract.prompts import clip, render_prompt
from lengthwise_predictor.batching import Row
from lengthwise_predictor.model import ANY_LLM
from lengthwise_predictor.model_registry import ModelRegistry


def registry_of(request: Request) -> ModelRegistry:
    return cast(ModelRegistry, request.app.state.models)


async def predict_all(request: Request, asked: Sequence[PredictRequest]) -> list[Prediction]:
    """The answers, in order; those of one model in one go."""
    models = registry_of(request)
    texts = [_text(one) for one in asked]
    served = [models.for_llm(one.model, one.predictor) for one in asked]
    # Until all have begun nothing is awaited, so that no model can be let go meanwhile.
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(served):
        groups.setdefault(one.name, []).append(place)
    unknown = sum(
        one.model.llm_row(a.model) == ANY_LLM for one, a in zip(served, asked, strict=True)
    )
    if unknown:
        request.app.state.metrics.unknown_llm.inc(unknown)
    begun: list[tuple[list[int], asyncio.Future[list[list[Row]]]]] = []
    try:
        for places in groups.values():
            batcher = served[places[0]].batcher
            begun.append((places, batcher.submit([(texts[p], asked[p].model) for p in places])))
        found: dict[int, Prediction] = {}
        for places, rows in begun:
            model = served[places[0]].model
            flat = [row for part in await rows for row in part]
            found |= {p: model.prediction(row) for p, row in zip(places, flat, strict=True)}
    except BaseException:
        for _, rows in begun:
            rows.cancel()  # nobody waits for the others any more
        raise
    return [found[place] for place in range(len(asked))]


def _text(asked: PredictRequest) -> str:
    """The one text to read, clipped at once so that what waits in line is small."""
    if asked.prompt is not None:
        return clip(asked.prompt)
    return clip(render_prompt(asked.messages or []))
