"""What an engine reports beside the totals of its tokens comes through jobs and responses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from lengthwise_store.jobs import Claim, Outcome, OutcomeKind

DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


async def thinks(claim: Claim) -> AsyncIterator[bytes | Outcome]:
    """An engine that thinks, and counts; its usage reaches the store as the worker stores it."""
    for delta in ({"reasoning_content": "Hm."}, {"content": "Yes"}):
        yield json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()
    yield Outcome(
        kind=OutcomeKind.OK,
        prompt_tokens=3,
        output_tokens=7,
        service_ms=70.0,
        usage_details=json.dumps(DETAILS),
    )


def test_a_response_has_the_engines_counts_of_cached_and_reasoning_tokens(front: Any) -> None:
    # They were always 0: of a stream's usage, only the totals were kept.
    front.worker.script = thinks
    client = front.openai()
    response = client.responses.create(model=front.model, input="Hi")
    *_, last = client.responses.create(model=front.model, input="Hi", stream=True)
    for got in (response, last.response, client.responses.retrieve(response.id)):
        assert got.usage.input_tokens_details.cached_tokens == 2
        assert got.usage.output_tokens_details.reasoning_tokens == 5
        assert (got.usage.input_tokens, got.usage.output_tokens) == (3, 7)
        assert got.output_text == "Yes"


def test_a_job_has_the_whole_usage_and_the_reasoning(front: Any) -> None:
    front.worker.script = thinks
    body = {"model": front.model, "messages": [{"role": "user", "content": "Hi"}]}
    job = front.http.post("/v1/jobs", json={"body": body}).json()
    with front.http.stream("GET", f"/v1/jobs/{job['id']}/stream") as stream:
        stream.read()
    answer = front.http.get(f"/v1/jobs/{job['id']}").json()["response"]
    totals = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    assert answer["usage"] == totals | DETAILS
    assert answer["choices"][0]["message"]["reasoning_content"] == "Hm."
