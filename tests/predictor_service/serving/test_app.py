"""The service over HTTP with the bundled model, as the queue service and its operator use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lengthwise_contract.prediction import Prediction
from lengthwise_predictor.app import create_app
from lengthwise_predictor.errors import ModelUnusable
from lengthwise_predictor.settings import PredictorSettings

SEEN = "meta-llama/Llama-3.1-8B-Instruct"
LONG = (
    "What are the advantages of growing your own vegetables?",
    "Explain why the sky is blue.",
    "How should I prepare for a job interview?",
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(PredictorSettings(max_body_bytes=3_000_000))) as client:
        yield client


def predict(client: TestClient, prompt: str, model: str = SEEN) -> Prediction:
    answer = client.post("/v1/predict", json={"model": model, "prompt": prompt})
    assert answer.status_code == 200, answer.text
    return Prediction.model_validate(answer.json())


def test_a_prompt_gets_ordered_positive_quantiles(client: TestClient) -> None:
    got = predict(client, "Explain how a heat pump works.")
    assert 0 < got.p10_tokens <= got.p50_tokens <= got.p90_tokens
    assert got.p10_tokens < got.p90_tokens
    assert got.model_version == client.get("/v1/model").json()["version"]


def test_a_chat_of_one_message_is_predicted_as_its_prompt(client: TestClient) -> None:
    text = "Give me three names for a cat."
    chat = client.post(
        "/v1/predict", json={"model": SEEN, "messages": [{"role": "user", "content": text}]}
    )
    assert Prediction.model_validate(chat.json()) == predict(client, text)


def test_a_batch_is_answered_in_order_and_as_one_by_one(client: TestClient) -> None:
    prompts = ["Hi.", "Write a long story about a whale. " * 20, "2+2?", "def f(x):\n    return"]
    body = {"inputs": [{"model": SEEN, "prompt": p} for p in prompts]}
    answer = client.post("/v1/predict/batch", json=body)
    assert answer.status_code == 200
    got = [Prediction.model_validate(p) for p in answer.json()["predictions"]]
    want = [predict(client, p) for p in prompts]
    for g, w in zip(got, want, strict=True):
        assert g.p50_tokens == pytest.approx(w.p50_tokens, rel=1e-3)
        assert g.rank_score == pytest.approx(w.rank_score, abs=1e-3)
    assert len({g.p50_tokens for g in got}) == len(prompts)


def test_a_batch_larger_than_a_forward_pass_is_answered_whole(client: TestClient) -> None:
    body = {"inputs": [{"model": SEEN, "prompt": "word " * i} for i in range(1, 101)]}
    got = client.post("/v1/predict/batch", json=body).json()["predictions"]
    assert len(got) == 100
    want = predict(client, "word " * 77)
    assert got[76]["p50_tokens"] == pytest.approx(want.p50_tokens, rel=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "\x00\x01\x1b[31m\x7f",
        "a" * 1_000_000,
        "word " * 200_000,
        "\ud800 lone surrogate",
        "量子力学を三つの文で説明してください。",
        "اشرح نظرية النسبية",
        "👩‍👩‍👧‍👦" * 1000,
        "e\u0301" * 5000,
        "\u202e\u200b\ufeff",
        "(" * 20_000,
        "1" * 20_000,
        "<|im_start|>[PAD][PAD][MASK]",
    ],
    ids=[
        "empty", "blank", "control", "a megabyte of one word", "a megabyte of words", "surrogate",
        "japanese", "arabic", "emoji", "combining", "invisible", "brackets", "digits", "special",
    ],
)  # fmt: skip
def test_any_text_is_answered(client: TestClient, text: str) -> None:
    raw = json.dumps({"model": SEEN, "prompt": text})  # with escapes, which can carry surrogates
    answer = client.post("/v1/predict", content=raw)
    # JSON's grammar allows a lone surrogate; the parser refuses it, which is a valid response.
    if answer.status_code == 400:
        assert "surrogate" in text
        return
    got = Prediction.model_validate(answer.json())
    assert 0 < got.p10_tokens <= got.p50_tokens <= got.p90_tokens < 1e7


def test_an_unknown_llm_is_answered_and_counted(client: TestClient) -> None:
    before = metric(client, "lengthwise_predictor_unknown_llm_total")
    got = predict(client, "What is a monad?", model="someone/brand-new-llm")
    assert got.p50_tokens > 0
    assert metric(client, "lengthwise_predictor_unknown_llm_total") == before + 1


def test_the_wordier_of_two_llms_is_predicted_longer(client: TestClient) -> None:
    def total(model: str) -> float:
        return sum(predict(client, prompt, model).p50_tokens for prompt in LONG)

    # To open questions, gemma-3 gives several times the words of Mistral 7B.
    assert total("google/gemma-3-4b-it") > 1.5 * total("mistralai/Mistral-7B-Instruct-v0.3")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"model": SEEN}, None, "exactly one of"),
        ({"model": SEEN, "prompt": "x", "messages": []}, None, "exactly one of"),
        ({"prompt": "x"}, "model", "required"),
        ({"model": "", "prompt": "x"}, "model", "at least 1"),
        ({"model": SEEN, "prompt": 7}, "prompt", "string"),
        ({"model": SEEN, "prompt": "x", "tokens": 1}, "tokens", "not permitted"),
    ],
    ids=["neither", "both", "no model", "empty model", "a number", "unknown field"],
)
def test_a_wrong_body_is_refused_and_the_message_says_what_to_change(
    client: TestClient, body: dict[str, Any], param: str | None, message: str
) -> None:
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"\xff\xfe"], ids=repr)
def test_a_body_that_is_not_json_is_refused(client: TestClient, raw: bytes) -> None:
    answer = client.post("/v1/predict", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("count", [0, 1025])
def test_a_batch_of_a_wrong_size_is_refused(client: TestClient, count: int) -> None:
    body = {"inputs": [{"model": SEEN, "prompt": "x"}] * count}
    answer = client.post("/v1/predict/batch", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "inputs"


def test_a_body_over_the_limit_is_refused_and_the_setting_is_named(client: TestClient) -> None:
    answer = client.post("/v1/predict", json={"model": SEEN, "prompt": "x" * 3_000_001})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert "LENGTHWISE_PREDICTOR_MAX_BODY_BYTES" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/predict", 405)]
)
def test_a_wrong_path_or_method_gets_the_list_of_routes(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert "POST /v1/predict" in answer.json()["error"]["message"]


def test_the_service_is_ready_only_while_the_model_is_loaded() -> None:
    app = create_app(PredictorSettings())
    cold = TestClient(app)  # its lifespan has not started
    for path in ("/readyz", "/v1/model"):
        assert cold.get(path).status_code == 503
    early = cold.post("/v1/predict", json={"model": SEEN, "prompt": "x"})
    assert early.status_code == 503
    assert early.json()["error"]["code"] == "not_ready"
    assert early.headers["retry-after"] == "1"
    assert cold.get("/healthz").status_code == 200
    with TestClient(app) as warm:
        assert warm.get("/readyz").status_code == 200
        assert predict(warm, "x").p50_tokens > 0
    assert cold.get("/readyz").status_code == 503


def test_the_card_reports_what_is_loaded_and_what_was_measured(client: TestClient) -> None:
    card = client.get("/v1/model").json()
    assert card["provider"] == "CPUExecutionProvider"
    assert SEEN in card["llms"]
    assert 0 < card["metrics"]["tau_b"] < 1
    assert {s["source"] for s in card["training_data"]} >= {"castillo/Mbpp", "dolly15k-part"}


def test_metrics_count_requests_by_status(client: TestClient) -> None:
    ok = 'lengthwise_predictor_requests_total{path="/v1/predict",status="200"}'
    bad = 'lengthwise_predictor_requests_total{path="/v1/predict",status="400"}'
    before = metric(client, ok), metric(client, bad)
    predict(client, "x")
    client.post("/v1/predict", json={})
    assert (metric(client, ok), metric(client, bad)) == (before[0] + 1, before[1] + 1)


@pytest.mark.slow
def test_two_apps_in_one_process_count_separately(client: TestClient) -> None:
    predict(client, "x")
    with TestClient(create_app(PredictorSettings())) as other:
        assert metric(other, "lengthwise_predictor_batch_size_count") == 0
    assert metric(client, "lengthwise_predictor_batch_size_count") > 0


def test_a_folder_without_a_model_ends_the_start_and_names_the_file(tmp_path: Path) -> None:
    app = create_app(PredictorSettings(model_dir=tmp_path))
    with pytest.raises(ModelUnusable, match=r"model\.json"), TestClient(app):
        pass


def metric(client: TestClient, name: str) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0
