"""Responses that continue one another, and responses that are not stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
import redis

Front = Any  # tests/queue_service/conftest.py

#: Longer than what the service adds around a turn, bytes.
TURN = 3_000


@pytest.fixture
def narrow(make_front: Callable[..., Front]) -> Front:
    """A queue service whose bodies may have 20,000 bytes, and its worker."""
    front = make_front(max_body_bytes=20_000)
    front.put_queue()
    front.worker.start()
    return front


def stored_bytes(front: Front) -> int:
    """The size of all that is stored of responses."""
    with redis.Redis.from_url(front.redis_url) as client:
        return sum(client.strlen(key) for key in client.keys("lw:responses:*"))


def test_a_conversation_that_grows_over_the_body_limit_is_a_413_that_says_so(narrow: Front) -> None:
    # The engine got 144 kB where 20 kB were the limit: only the last turn was measured.
    client, grown, made = narrow.openai(), [], None

    def turn() -> Any:
        previous = None if made is None else made.id
        return client.responses.create(
            model=narrow.model, input="x" * TURN, previous_response_id=previous
        )

    for _ in range(6):
        made = turn()
        grown.append(stored_bytes(narrow))
    with pytest.raises(openai.APIStatusError) as caught:
        turn()
    assert caught.value.status_code == 413
    assert (caught.value.code, caught.value.param) == ("body_too_large", "previous_response_id")
    assert "new conversation" in caught.value.message
    assert len(narrow.worker.bodies) == 6
    assert max(map(len, narrow.worker.bodies)) <= 20_000
    # Each turn is stored once with its record, and once for the responses after it.
    assert grown[-1] < len(grown) * 3 * TURN


def test_a_refused_response_is_counted_as_invalid(narrow: Front) -> None:
    counted = {"service": "", "outcome": "invalid"}
    before = narrow.metric("requests_total", **counted)
    body = {"model": narrow.model, "input": "x" * 20_000}
    assert narrow.http.post("/v1/responses", json=body).status_code == 413
    assert narrow.http.post("/v1/responses", json={"model": narrow.model}).status_code == 400
    assert narrow.metric("requests_total", **counted) == before + 2


def test_a_conversation_continues_after_its_first_response_was_deleted_and_branches(
    front: Front,
) -> None:
    client = front.openai()
    first = client.responses.create(model=front.model, input="One")
    second = client.responses.create(model=front.model, input="Two", previous_response_id=first.id)
    client.responses.delete(first.id)
    for text in ("Three", "Drei"):
        client.responses.create(model=front.model, input=text, previous_response_id=second.id)
        sent = json.loads(front.worker.bodies[-1])["messages"]
        assert [m["content"] for m in sent] == ["One", "Hello, you", "Two", "Hello, you", text]


def test_the_turns_of_a_conversation_live_as_long_as_its_last_response(front: Front) -> None:
    client = front.openai()
    first = client.responses.create(model=front.model, input="One")
    second = client.responses.create(model=front.model, input="Two", previous_response_id=first.id)
    with redis.Redis.from_url(front.redis_url) as valkey:
        [turn] = valkey.keys("lw:responses:*:turn")
        valkey.pexpire(turn, 5_000)
        third = client.responses.create(
            model=front.model, input="Three", previous_response_id=second.id
        )
        record = f"lw:responses:{{{third.id}}}"
        assert valkey.pttl(turn) >= valkey.pttl(record) > 5_000
        valkey.delete(turn)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=front.model, input="Four", previous_response_id=third.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_record_of_another_release_is_not_found_and_no_500(front: Front) -> None:
    client = front.openai()
    made = client.responses.create(model=front.model, input="One")
    with redis.Redis.from_url(front.redis_url) as valkey:
        key = f"lw:responses:{{{made.id}}}"
        record = json.loads(valkey.get(key) or "")
        valkey.set(key, json.dumps(record | {"of_a_newer_release": 1}))
        assert client.responses.retrieve(made.id).output_text == "Hello, you"
        del record["earlier"]
        valkey.set(key, json.dumps(record))
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_response_that_is_not_stored_can_be_repeated_under_its_key(
    front: Front, stream: bool
) -> None:
    # 200, 404, 404: the repetitions looked for a record that there is not.
    body = {"model": front.model, "input": "Hi", "store": False, "stream": stream}
    answers = [
        front.http.post("/v1/responses", json=body, headers={"Idempotency-Key": "k"})
        for _ in range(3)
    ]
    assert [one.status_code for one in answers] == [200, 200, 200]
    assert len({one.headers["x-lengthwise-job-id"] for one in answers}) == 1
    assert len({one.content.replace(b": waiting\n", b"") for one in answers}) == 1
    assert len(front.worker.bodies) == 1


@pytest.mark.parametrize(
    "other", [{"store": True}, {"metadata": {"a": "b"}}], ids=["stored", "metadata"]
)
def test_a_key_belongs_to_the_request_as_the_client_sent_it(
    front: Front, other: dict[str, Any]
) -> None:
    # Both become the same chat, so the second was once taken for a repetition of the first.
    body = {"model": front.model, "input": "Hi", "store": False}
    headers = {"Idempotency-Key": "k"}
    assert front.http.post("/v1/responses", json=body, headers=headers).status_code == 200
    again = front.http.post("/v1/responses", json=body | other, headers=headers)
    assert again.status_code == 422
    assert again.json()["error"]["code"] == "idempotency_key_reused"
