"""A predictor that knows the lengths, because they were measured before. For `bench serve`.

It speaks the predictor's protocol on a free port of this machine, so a queue asks it like any
other and the oracle's run goes through all of the product. The queue service must be able to reach
this process: run the bench on the machine, or in the cluster, of the queue service.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from lengthwise_contract.prediction import (
    PredictBatchRequest,
    PredictBatchResponse,
    Prediction,
    PredictRequest,
)
from lengthwise_contract.prompts import clip, render_prompt
from lengthwise_lab.loadtest.workload import TimedRequest

_VERSION = "oracle"


class OraclePredictor:
    """Answers with known lengths. An async context manager; its port is open inside.

    Args:
        known: Requests, and how many tokens their answers had. Where one text was asked several
            times, their mean is what is known of it.
    """

    def __init__(self, known: Sequence[tuple[TimedRequest, int]]) -> None:
        """Nothing listens yet."""
        lengths: defaultdict[str, list[int]] = defaultdict(list)
        for request, tokens in known:
            lengths[_text(request)].append(tokens)
        self._tokens = {text: sum(seen) / len(seen) for text, seen in lengths.items()}
        # What nobody knows is taken for the usual: of a request that failed before, say.
        every = sorted(self._tokens.values())
        self._otherwise = every[len(every) // 2] if every else 1.0
        self.url = ""

    def predict(self, text: str) -> Prediction:
        """A distribution as narrow as the type allows."""
        tokens = max(1.0, self._tokens.get(clip(text), self._otherwise))
        return Prediction(
            model_version=_VERSION,
            p10_tokens=tokens,
            p50_tokens=tokens,
            p90_tokens=tokens,
            mean_tokens=tokens,
            rank_score=tokens,
        )

    async def __aenter__(self) -> OraclePredictor:
        """Listen on a free port."""
        app = FastAPI()

        def one(request: PredictRequest) -> Prediction:
            text = request.prompt
            return self.predict(render_prompt(request.messages or []) if text is None else text)

        @app.post("/v1/predict/batch")
        async def batch(body: PredictBatchRequest) -> PredictBatchResponse:
            return PredictBatchResponse(predictions=[one(request) for request in body.inputs])

        @app.post("/v1/predict")
        async def single(body: PredictRequest) -> Prediction:
            return one(body)

        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        return self  # The port is open: who calls before uvicorn is ready waits in its backlog.

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port; what is being answered may end."""
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    """A guest in this process: Ctrl-C belongs to the host."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def _text(request: TimedRequest) -> str:
    """What the queue service will ask about this request."""
    return clip(render_prompt(request.body["messages"]))
