"""The bundled model: it loads, its output is bounded, and it has learned what length depends on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise_predictor.errors import ModelUnusable
from lengthwise_predictor.model import ANY_LLM, LengthModel
from lengthwise_predictor.settings import BUNDLED

SEEN = "Qwen/Qwen2.5-7B-Instruct-1M"
UNSEEN = "smollm2-135m"


@pytest.fixture(scope="module")
def model() -> LengthModel:
    return LengthModel(BUNDLED, provider="cpu")


def test_the_bundle_is_small_enough_for_the_wheel() -> None:
    assert sum(p.stat().st_size for p in BUNDLED.iterdir()) < 25 * 2**20


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=2000), llm=st.sampled_from([SEEN, UNSEEN, ""]))
def test_any_text_gets_ordered_finite_quantiles(model: LengthModel, text: str, llm: str) -> None:
    got = model.predict(text, llm)
    assert 1 <= got.p10_tokens <= got.p50_tokens <= got.p90_tokens < 1e7
    assert 1 <= got.mean_tokens < 1e7
    assert np.isfinite(got.rank_score)


def test_a_text_gets_the_same_prediction_alone_and_beside_longer_ones(model: LengthModel) -> None:
    texts = ["Hi", "word " * 40, "What is 3 + 4?\n" * 200]
    together = model.run([model.encode(t, SEEN) for t in texts])
    for text, row in zip(texts, together, strict=True):
        alone = model.run([model.encode(text, SEEN)])[0]
        assert np.abs(alone - row).max() < 1e-3  # padding has no effect


def test_the_network_returns_quantiles_in_order(model: LengthModel) -> None:
    rows = model.run([model.encode("ab " * n, UNSEEN) for n in range(64)])
    assert (rows[:, 0] <= rows[:, 1]).all()
    assert (rows[:, 1] <= rows[:, 2]).all()


def test_an_unknown_llm_has_wider_quantiles_than_a_known_one(model: LengthModel) -> None:
    texts = ["Describe the water cycle.", "Write a function that sorts a list.", "Who was Plato?"]
    seen = model.run([model.encode(t, SEEN) for t in texts])
    unseen = model.run([model.encode(t, UNSEEN) for t in texts])
    assert (unseen[:, 2] - unseen[:, 0]).mean() > (seen[:, 2] - seen[:, 0]).mean()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("google/gemma-3-12b-it", True),
        ("gemma-3-12b", True),
        ("smollm2-135m", False),
        ("*", False),
        ("", False),
    ],
)
def test_an_llm_is_known_by_any_of_its_spellings(
    model: LengthModel, name: str, known: bool
) -> None:
    assert (model.llm_row(name) != ANY_LLM) == known


@pytest.mark.parametrize("llm", [SEEN, UNSEEN])
def test_short_questions_rank_below_long_writing_tasks(model: LengthModel, llm: str) -> None:
    short = [
        "What is the capital of France?",
        "Is 17 a prime number?",
        "What is the opposite of hot?",
        "Who painted the Mona Lisa?",
        "How many days are in a leap year?",
        "Answer yes or no: is water wet?",
    ]
    long = [
        "Write a 1000-word essay about the causes of the First World War.",
        "Write a detailed short story about a lighthouse keeper who finds a message in a bottle.",
        "Explain in detail how photosynthesis works, with every step.",
        "Write a comprehensive guide to planning a two-week trip through Japan.",
        "Compare the economic systems of capitalism and socialism in depth.",
        "Create a complete business plan for a small bakery.",
    ]
    s = [model.predict(t, llm).rank_score for t in short]
    lo = [model.predict(t, llm).rank_score for t in long]
    right = np.mean([a < b for a in s for b in lo])
    assert right >= 0.9, (s, lo)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "model"))


@pytest.mark.parametrize("name", ["model.json", "model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelUnusable, match=name.replace(".", r"\.")):
        LengthModel(copy, provider="cpu")


@pytest.mark.parametrize("name", ["model.json", "model.onnx", "tokenizer.json"])
def test_a_broken_file_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"\x00 not what it should be")
    with pytest.raises(ModelUnusable, match=name.replace(".", r"\.")):
        LengthModel(copy, provider="cpu")


def test_a_model_trained_on_other_features_is_refused(copy: Path) -> None:
    card = json.loads((copy / "model.json").read_text())
    card["feature_names"] = card["feature_names"][::-1]
    (copy / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelUnusable, match="train it again"):
        LengthModel(copy, provider="cpu")


def test_a_card_without_a_field_is_refused_by_its_name(copy: Path) -> None:
    card = json.loads((copy / "model.json").read_text())
    del card["max_tokens"]
    (copy / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelUnusable, match="max_tokens"):
        LengthModel(copy, provider="cpu")


def test_cuda_without_cuda_is_refused_and_the_message_says_what_to_install() -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelUnusable, match="`gpu` extra"):
        LengthModel(BUNDLED, provider="cuda")
