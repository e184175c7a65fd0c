"""A predictor that returns lengths that were measured before. For `bench serve`.

It serves the predictor's API on a free port of this machine, so that the oracle's run uses the
whole product. The queue service must be able to reach this process: run the bench on the machine,
or in the cluster, of the queue service.
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
from lengthwise_contract.prompts import clip, render_request
from lengthwise_lab.loadtest.workload import TimedRequest

_VERSION = "oracle"


class OraclePredictor:
    """A server of known lengths. Use it as an async context manager; its port is open inside.

    Args:
        known: Requests and the tokens of their answers. For a text with several answers, the mean
            is returned.
    """

    def __init__(self, known: Sequence[tuple[TimedRequest, int]]) -> None:
        """Store the lengths. Nothing listens yet."""
        lengths: defaultdict[str, list[int]] = defaultdict(list)
        for request, tokens in known:
            lengths[_text(request)].append(tokens)
        self._tokens = {text: sum(seen) / len(seen) for text, seen in lengths.items()}
        # The median, for a text without a length: a request that failed before, for example.
        every = sorted(self._tokens.values())
        self._default = every[len(every) // 2] if every else 1.0
        self.url = ""

    def predict(self, text: str) -> Prediction:
        """Return the known length for all quantiles."""
        tokens = max(1.0, self._tokens.get(clip(text), self._default))
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
            return self.predict(render_request(request.messages or []) if text is None else text)

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
        return self  # The port is open: a call before uvicorn is ready waits in the backlog.

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port. Requests in progress are finished."""
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    """A server that does not handle signals, because Ctrl-C belongs to the command."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def _text(request: TimedRequest) -> str:
    """Return the text that the queue service sends to the predictor for this request."""
    return clip(render_request(request.body["messages"]))
