"""Mutated uploads and batches: no 5xx, no fault in the log, and every batch ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.queue_service.batch_desk import ENDED, lines
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.queue_service.conftest import Front

pytestmark = pytest.mark.slow

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="expires_after[seconds]"\r\n\r\n3600\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n'
    b"Content-Type: application/jsonl\r\n\r\n{}\n\r\n--b--\r\n"
)
CONTENT_TYPES = [
    *("multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"'),
    *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=c"),
    *("application/json", "", "multipart/form-data; boundary=" + "b" * 80, "a/b; boundary=b"),
]

#: What takes the place of a part of valid bytes.
PIECES = st.sampled_from(
    [
        *(b"", b"\r\n", b"\n", b"--b", b"--b--", b'"', b"\x00", b"\xff\xfe", b";", b":", b"{"),
        *(b"]", b"NaN", b"1e999", b"null", b'"custom_id"', b"a" * 300, "é".encode()),
    ]
)


@st.composite
def mutated(draw: Any, valid: bytes) -> bytes:
    """Valid bytes with up to four parts replaced."""
    data = valid
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 20)))
        data = data[:at] + draw(PIECES) + data[end:]
    return data


@pytest.fixture(scope="module")
def desk_front(front_class: type[Front], valkey_port: int) -> Iterator[Front]:
    front = front_class(f"redis://127.0.0.1:{valkey_port}/4", max_body_bytes=2000)
    front.put_queue()
    front.worker.start()
    yield front
    front.close()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=mutated(FORM), content_type=st.sampled_from(CONTENT_TYPES))
def test_no_upload_is_a_5xx(desk_front: Front, body: bytes, content_type: str) -> None:
    answer = desk_front.http.post(
        "/v1/files", content=body, headers={"Content-Type": content_type} if content_type else {}
    )
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        file = answer.json()
        content = desk_front.http.get(f"/v1/files/{file['id']}/content").content
        assert len(content) == file["bytes"]
        assert desk_front.http.delete(f"/v1/files/{file['id']}").json()["deleted"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_batch_of_a_mutated_file_ends_without_a_fault(
    desk_front: Front, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    whole = [json.dumps(line).encode() + b"\n" for line in lines(desk_front.model, 3)]
    content = b"".join(data.draw(mutated(line)) for line in whole)
    http = desk_front.http
    made = http.post("/v1/files", files={"file": ("f", content)}, data={"purpose": "batch"})
    wanted = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = http.post("/v1/batches", json=wanted | {"input_file_id": made.json()["id"]})
    assert answer.status_code == 200, answer.text
    url = f"/v1/batches/{answer.json()['id']}"

    def ended() -> Any:
        batch = http.get(url).json()
        return batch if batch["status"] in ENDED else None

    batch = eventually(ended, "the batch ends", every_s=0.05)
    counts = batch["request_counts"]
    assert batch["status"] in ("completed", "failed")
    assert counts["completed"] + counts["failed"] == counts["total"]
    for name in ("output_file_id", "error_file_id"):
        if batch[name] is not None:
            for line in http.get(f"/v1/files/{batch[name]}/content").text.splitlines():
                json.loads(line, parse_constant=pytest.fail)
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == []


ROUTES = [
    ("GET", "/v1/files?{q}"),
    ("GET", "/v1/batches?{q}"),
    ("GET", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
    ("DELETE", "/v1/files/{id}"),
    ("GET", "/v1/batches/{id}"),
    ("POST", "/v1/batches/{id}/cancel"),
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(ROUTES),
    name=st.text(st.characters(exclude_characters="/?#", exclude_categories=["Cs"]), max_size=40),
    query=st.dictionaries(
        st.sampled_from(["after", "limit", "order", "purpose", "x"]), st.text(max_size=20)
    ),
)
def test_no_id_and_no_query_is_a_5xx(
    desk_front: Front, route: tuple[str, str], name: str, query: dict[str, str]
) -> None:
    method, path = route
    url = path.replace("?{q}", "").replace("{id}", quote(name or "x", safe=""))
    answer = desk_front.http.request(method, url, params=query if "{q}" in path else None)
    assert answer.status_code < 500, answer.text


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=mutated(
        b'{"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h", '
        b'"metadata": {"a": "b"}, '
        b'"output_expires_after": {"anchor": "created_at", "seconds": 9999}}'
    )
)
def test_no_request_for_a_batch_is_a_5xx(desk_front: Front, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = desk_front.http.post("/v1/batches", content=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"]
