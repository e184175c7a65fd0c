"""Files through the official client, on a real Valkey."""

from __future__ import annotations

import hashlib
import io
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
import redis

from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai import files as routes_files
from lengthwise_queue.openai.multipart import FormReader
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.keys import FileKeys

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}\n'


def keys_of(url: str, pattern: str) -> list[str]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return sorted(client.scan_iter(pattern))


def content_keys(url: str) -> list[str]:
    return keys_of(url, "lw:files:*:content")


def test_an_uploaded_file_can_be_listed_retrieved_downloaded_and_deleted(idle_front: Any) -> None:
    client = idle_front.openai()
    file = client.files.create(file=("lines.jsonl", LINES), purpose="batch")
    assert (file.object, file.bytes, file.filename) == ("file", len(LINES), "lines.jsonl")
    assert (file.purpose, file.status) == ("batch", "processed")
    assert file.expires_at == file.created_at + 30 * 86_400
    assert client.files.retrieve(file.id) == file
    assert list(client.files.list()) == [file]
    assert client.files.content(file.id).content == LINES
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)
    assert list(client.files.list()) == []
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="no such file"):
            call(file.id)
    assert content_keys(idle_front.redis_url) == []


def test_a_file_of_many_blocks_is_downloaded_unchanged(idle_front: Any) -> None:
    data = hashlib.shake_128(b"seed").digest(3 * 2**20 + 17)
    client = idle_front.openai()
    file = client.files.create(file=("big", io.BytesIO(data)), purpose="batch")
    with client.files.with_streaming_response.content(file.id) as answer:
        assert b"".join(answer.iter_bytes()) == data


def test_an_empty_file_is_a_file(idle_front: Any) -> None:
    client = idle_front.openai()
    file = client.files.create(file=("none", b""), purpose="batch")
    assert file.bytes == 0
    assert client.files.content(file.id).content == b""


def test_a_list_continues_after_its_cursor(idle_front: Any) -> None:
    client = idle_front.openai()
    made = [client.files.create(file=(f"f{i}", b"x"), purpose="batch").id for i in range(5)]
    assert [f.id for f in client.files.list(limit=2)] == made[::-1]  # the client turns the pages
    assert [f.id for f in client.files.list(limit=2, order="asc", after=made[1])] == made[2:]
    assert client.files.list(limit=2, order="asc", after=made[1]).has_more
    assert list(client.files.list(purpose="batch_output")) == []


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"data": {"purpose": "fine-tune"}, "files": {"file": ("f", b"x")}}, "purpose"),
        ({"files": {"file": ("f", b"x")}}, "purpose"),
        ({"data": {"purpose": "batch"}, "files": {"other": ("f", b"x")}}, "other"),
        ({"files": {"purpose": (None, b"batch")}}, "file"),
        (
            {
                "data": {"purpose": "batch", "expires_after[seconds]": "5"},
                "files": {"file": ("f", b"x")},
            },
            "expires_after[seconds]",
        ),
    ],
    ids=["another purpose", "no purpose", "another part", "no file", "too short a life"],
)
def test_a_wrong_form_is_a_400_that_names_the_part(
    idle_front: Any, form: dict[str, Any], param: str, until: Callable[..., Any]
) -> None:
    answer = idle_front.http.post("/v1/files", **form)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    until(lambda: not content_keys(idle_front.redis_url), "nothing of it stays")


def test_a_body_that_is_not_a_form_is_a_415(idle_front: Any) -> None:
    answer = idle_front.http.post("/v1/files", json={"purpose": "batch"})
    assert answer.status_code == 415


def test_a_form_that_is_cut_off_is_a_400_and_leaves_nothing(
    idle_front: Any, until: Callable[..., Any]
) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"0" * (
        2 * 2**20
    )
    answer = idle_front.http.post(
        "/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 400
    assert "cut off" in answer.json()["error"]["message"]
    until(lambda: not content_keys(idle_front.redis_url), "its blocks are gone")


def test_a_client_that_disconnects_during_an_upload_leaves_nothing(
    idle_front: Any, until: Callable[..., Any]
) -> None:
    url = httpx.URL(idle_front.url)
    with socket.create_connection((url.host, url.port)) as half:
        head = (
            "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        )
        half.sendall(head.encode() + b"0" * (3 * 2**20))
        until(lambda: content_keys(idle_front.redis_url), "its first blocks are stored")
        [key] = content_keys(idle_front.redis_url)
        with redis.Redis.from_url(idle_front.redis_url) as client:
            assert 0 < client.pttl(key) <= 600_000  # if the server dies now, they expire
        assert list(idle_front.openai().files.list()) == []
    until(lambda: not content_keys(idle_front.redis_url), "they are gone")


def test_a_file_over_the_limit_is_a_413(make_front: Callable[..., Any]) -> None:
    front = make_front(max_file_bytes=2**21)
    for size in (2**21 + 1, 2**23):  # detected while it is read, and from its headers
        with pytest.raises(openai.APIStatusError, match="MAX_FILE_BYTES") as caught:
            front.openai().files.create(file=("f", b"0" * size), purpose="batch")
        assert caught.value.status_code == 413
    front.openai().files.create(file=("f", b"0" * 2**21), purpose="batch")


def test_a_tenant_has_a_limit_on_all_its_files_and_deleting_makes_room(
    make_front: Callable[..., Any],
) -> None:
    front = make_front(tenant_file_bytes=3 * 2**20)
    client = front.openai()
    first = client.files.create(file=("f", b"0" * (2 * 2**20)), purpose="batch")
    with pytest.raises(openai.APIStatusError, match="Delete some") as caught:
        client.files.create(file=("g", b"0" * (2 * 2**20)), purpose="batch")
    assert caught.value.status_code == 413
    client.files.delete(first.id)
    client.files.create(file=("g", b"0" * (2 * 2**20)), purpose="batch")


@pytest.mark.slow
def test_an_expired_file_is_gone_and_makes_room(
    make_front: Callable[..., Any], until: Callable[..., Any]
) -> None:
    front = make_front(tenant_file_bytes=3 * 2**20, file_ttl_s=1)
    client = front.openai()
    client.files.create(file=("f", b"0" * (2 * 2**20)), purpose="batch")
    until(lambda: not content_keys(front.redis_url), "it expires")
    assert list(client.files.list()) == []
    client.files.create(file=("g", b"0" * (2 * 2**20)), purpose="batch")


def test_all_files_together_have_a_limit(make_front: Callable[..., Any]) -> None:
    front = make_front(total_file_bytes=2**20)
    with pytest.raises(openai.APIStatusError, match="All files together"):
        front.openai().files.create(file=("f", b"0" * 2**20), purpose="batch")


def test_every_key_of_files_has_a_ttl(idle_front: Any) -> None:
    idle_front.openai().files.create(file=("f", LINES), purpose="batch")
    with redis.Redis.from_url(idle_front.redis_url) as client:
        keys = keys_of(idle_front.redis_url, "lw:files:*")
        assert len(keys) == 6
        assert all(client.pttl(key) > 0 for key in keys)


def test_another_tenants_file_is_not_found(
    idle_front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = idle_front.openai()
    file = client.files.create(file=("f", LINES), purpose="batch")
    monkeypatch.setattr(routes_files, "tenant_of", lambda request: Tenant(name="another"))
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    assert list(client.files.list()) == []
    monkeypatch.undo()
    assert client.files.content(file.id).content == LINES


@pytest.mark.slow
@pytest.mark.parametrize("route", ["files", "batches", "responses"])
def test_a_write_that_is_not_as_durable_as_configured_is_not_acknowledged(
    make_front: Callable[..., Any], until: Callable[..., Any], route: str
) -> None:
    sure = make_front()  # no replica can confirm a write
    sure.put_queue()
    file = sure.openai().files.create(file=("f", LINES), purpose="batch")
    strict = make_front(durability="replica", durability_timeout_ms=100).openai()
    asks: dict[str, Callable[[], Any]] = {
        "files": lambda: strict.files.create(file=("f", LINES), purpose="batch"),
        "batches": lambda: strict.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        ),
        "responses": lambda: strict.responses.create(model=sure.model, input="Hi", background=True),
    }
    with pytest.raises(openai.InternalServerError, match="0 of 1 replicas") as caught:
        asks[route]()
    assert caught.value.status_code == 503
    if route == "batches":  # its client creates another
        [batch] = sure.openai().batches.list()
        until(
            lambda: sure.openai().batches.retrieve(batch.id).status in ("cancelled", "failed"),
            "it is withdrawn",
        )


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Long: " + b"a" * 5000,
        b"X" * 5000,
        b"\r\n".join(b"X-%d: a" % n for n in range(20)),
    ],
    ids=["a long value", "a name without an end", "many"],
)
def test_the_headers_of_a_part_are_limited(headers: bytes) -> None:
    # The reader gathers a header until it ends: without a limit, one request could fill the memory.
    reader = FormReader("multipart/form-data; boundary=x")
    reader.feed(b"--x\r\n")
    with pytest.raises(BadRequest):
        reader.feed(headers + b"\r\n\r\n")


def test_a_form_with_its_file_first_is_accepted(idle_front: Any) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n{}\r\n'
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    )
    answer = idle_front.http.post(
        "/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 200, answer.text
    content = idle_front.http.get(f"/v1/files/{answer.json()['id']}/content")
    assert json.loads(content.content) == {}


def test_a_damaged_record_hides_no_other_and_one_of_a_later_release_is_read(
    idle_front: Any,
) -> None:
    client = idle_front.openai()
    later, damaged, whole = (
        client.files.create(file=(f"{n}", b"{}"), purpose="batch") for n in range(3)
    )
    with redis.Redis.from_url(idle_front.redis_url) as store:
        record = json.loads(store.get(FileKeys.record(later.id)))
        store.set(FileKeys.record(later.id), json.dumps(record | {"colour": "red"}))
        store.set(FileKeys.record(damaged.id), "{")
    assert {file.id for file in client.files.list()} == {later.id, whole.id}
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(damaged.id)
