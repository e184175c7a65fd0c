"""The view of a request: what the queue service learns from comes with a prediction, if asked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from starlette.testclient import TestClient

from lengthwise_contract.prediction import Prediction
from lengthwise_contract.request_view import PARTS, RequestView
from lengthwise_predictor.app import create_app
from lengthwise_predictor.errors import ModelUnusable
from lengthwise_predictor.model import LengthModel
from lengthwise_predictor.settings import BUNDLED, PredictorSettings
from lengthwise_predictor.view import word_buckets

TEXT = "Write a short poem about the sea, and about the sea only."


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(PredictorSettings())) as client:
        yield client


@pytest.fixture(scope="module")
def model() -> LengthModel:
    return LengthModel(BUNDLED, provider="cpu")


def predict(client: TestClient, **body: Any) -> Prediction:
    answer = client.post("/v1/predict", json={"model": "some-llm", **body})
    assert answer.status_code == 200, answer.text
    return Prediction.model_validate(answer.json())


def test_a_prediction_carries_its_view_only_if_it_is_asked_for(client: TestClient) -> None:
    assert predict(client, prompt=TEXT).view is None
    got = predict(client, prompt=TEXT, view=True)
    assert got.view is not None
    view = RequestView.from_text(got.view)
    assert len(view.widths) == len(PARTS)
    numbers = np.frombuffer(view.numbers, "<f2")
    assert numbers[0] == pytest.approx(np.log(got.p50_tokens), abs=0.01)
    assert np.isfinite(numbers).all()


def test_a_batch_carries_views_where_they_are_asked_for(client: TestClient) -> None:
    inputs = [{"model": "m", "prompt": TEXT, "view": one} for one in (True, False, True)]
    got = client.post("/v1/predict/batch", json={"inputs": inputs}).json()["predictions"]
    assert ["view" in p for p in got] == [True, False, True]
    assert got[0]["view"] == got[2]["view"]


def test_the_words_of_a_view_are_the_tokens_and_pairs_that_the_model_read(
    model: LengthModel,
) -> None:
    view = model.predict(TEXT, "some-llm", view=True).view
    assert view is not None
    words = np.frombuffer(RequestView.from_text(view).words, "<u2").tolist()
    want = word_buckets(model.encode(TEXT, "*").ids, 30_522).tolist()
    assert words == sorted(want)
    assert len(words) > len(set(words))  # "the sea" twice


def test_a_view_is_of_no_llm_in_particular_and_names_its_model(model: LengthModel) -> None:
    known = model.predict(TEXT, "Qwen/Qwen2.5-7B-Instruct-1M", view=True)
    unknown = model.predict(TEXT, "some-llm", view=True)
    assert known.p50_tokens != unknown.p50_tokens
    assert known.view == unknown.view
    assert known.view is not None
    assert RequestView.from_text(known.view).basis == zlib.crc32(model.version.encode())


def test_a_long_system_prompt_does_not_change_what_is_predicted(client: TestClient) -> None:
    # Within an application whose system prompt fills the window, tau-b fell from 0.33 to 0.15.
    user = {"role": "user", "content": TEXT}
    system = {"role": "system", "content": "You are an assistant of a bank. Obey the rules. " * 40}
    want = predict(client, messages=[user], view=True)
    assert predict(client, messages=[system, user], view=True) == want


def test_the_longest_prompt_has_a_view_within_its_bounds(model: LengthModel) -> None:
    view = model.predict(
        "Explain " + "each word of this very long text " * 500, "*", view=True
    ).view
    assert view is not None
    assert len(RequestView.from_text(view).pack()) < 1300


def test_a_model_folder_without_a_view_stays_usable(tmp_path: Path) -> None:
    graph = onnx.load(str(BUNDLED / "model.onnx"))
    [output] = [o for o in graph.graph.output if o.name == "view"]
    graph.graph.output.remove(output)
    onnx.save(graph, str(tmp_path / "model.onnx"))
    card = json.loads((BUNDLED / "model.json").read_text())
    del card["view"]
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "tokenizer.json").symlink_to(BUNDLED / "tokenizer.json")
    old = LengthModel(tmp_path, provider="cpu")
    assert old.predict(TEXT, "m", view=True).view is None


def test_a_card_that_names_other_columns_than_the_graph_is_refused(tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).symlink_to(BUNDLED / name)
    card = json.loads((BUNDLED / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(card | {"view": [1, 3]}))
    with pytest.raises(ModelUnusable, match="export the model again"):
        LengthModel(tmp_path, provider="cpu")
