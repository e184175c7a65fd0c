"""Numbers that JSON or a double cannot express, sent by an engine: what a client gets is JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from lengthwise_store.jobs import Claim, Outcome

if TYPE_CHECKING:
    from tests.queue_service.conftest import Front

#: Valid JSON whose value is no finite double; and what some engines write although it is no JSON.
ODD = b"[1e400,-1e400,NaN,-Infinity]"


async def odd(claim: Claim) -> AsyncIterator[bytes | Outcome]:
    """An answer with odd numbers, whole or streamed."""
    head = b'{"id":"c","object":"chat.completion","created":1,"model":"m","odd":' + ODD
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
    kind = "delta" if json.loads(claim.body).get("stream") else "message"
    choice[kind] = {"role": "assistant", "content": "Hi"}
    yield head + b',"choices":[' + json.dumps(choice).encode() + b"]}"


def strict(text: str) -> Any:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_job_with_odd_numbers_in_its_answer_can_be_read(front: Front, stream: bool) -> None:
    front.worker.script = odd
    job_id = front.submit(stream=stream)
    front.ended(job_id)
    answer = front.http.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200
    found = strict(answer.text)["response"]
    assert found["choices"][0]["message"]["content"] == "Hi"


def test_a_response_with_odd_numbers_is_json(front: Front) -> None:
    front.worker.script = odd
    answer = front.http.post("/v1/responses", json={"model": front.model, "input": "Hi"})
    assert answer.status_code == 200
    assert strict(answer.text)["output"][0]["content"][0]["text"] == "Hi"
