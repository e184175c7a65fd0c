"""The id of a request reaches the engine with each call for its job."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.scripted_engine import ScriptedEngine, as_json

from lengthwise_store.jobs import Claim, Lease
from lengthwise_worker.engines.openai_http import OpenAIEngine

ANSWER = as_json({"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("request_id", "want"),
    [("trace-1", ["x-request-id: trace-1"]), ("", [])],
    ids=["with an id", "without"],
)
def test_the_engine_gets_the_id_of_the_request(request_id: str, want: list[str]) -> None:
    job = Claim(
        lease=Lease(job_id="j", nonce="n", attempt=1),
        endpoint="/v1/chat/completions",
        body=json.dumps({"model": "m", "messages": []}).encode(),
        due_ms=0,
        predicted_tokens=1,
        deadline_ms=2e12,
        request_id=request_id,
    )

    async def body() -> list[str]:
        async with ScriptedEngine(ANSWER).listening() as server:
            engine = OpenAIEngine(server.url, model="m")
            try:
                await engine.answer(job, lambda _: None)
            finally:
                await engine.aclose()
            return server.heads[0].lower().split("\r\n")

    assert [line for line in asyncio.run(body()) if line.startswith("x-request-id")] == want
