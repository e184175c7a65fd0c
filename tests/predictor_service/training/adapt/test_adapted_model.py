"""An adapted model: serving loads it, and it has learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")

from lengthwise_predictor.model import LengthModel
from lengthwise_predictor.settings import BUNDLED
from lengthwise_predictor.view import word_buckets
from lengthwise_training.adapt.adapted_model import write_adapted_model
from lengthwise_training.adapt.adapted_predictor import AdaptedPredictor
from lengthwise_training.adapt.view_extractor import NoKernelView, ViewExtractor
from lengthwise_training.adapt.word_table import fit_words
from lengthwise_training.compare.served_model import ServedModel
from lengthwise_training.data.rows import LengthRow, LengthTable
from lengthwise_training.scoring.scores import score

#: Length by colour, which no model guesses; the second LLM's answers are three times as long.
COLOURS = {"red": 20, "green": 60, "blue": 200, "yellow": 600}


def rows(count: int, first: int = 0) -> LengthTable:
    rng = np.random.default_rng(first)
    out = []
    for i in range(first, first + count):
        colour, base = list(COLOURS.items())[i % 4]
        prompt = f"paint the {colour} door number {i} please"
        for llm, tokens in (("org/plain-7b", base), ("org/long-7b", 3 * base)):
            noisy = tuple(int(tokens * f) for f in rng.uniform(0.8, 1.25, 4))
            out.append(LengthRow(prompt, llm, "s", noisy, (False,) * 4))
    return LengthTable(out)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    card = write_adapted_model(rows(160), BUNDLED, folder)
    assert card["metrics"]["tau_b"] > 0.3
    return folder


def test_serving_loads_it_and_it_knows_the_llms_in_any_spelling(adapted: Path) -> None:
    model = LengthModel(adapted, provider="cpu")
    assert model.version.endswith("+adapted")
    assert model.llm_row("long-7b-instruct") == model.llm_row("org/long-7b") != 0
    red = model.predict("paint the red door please", "org/plain-7b").p50_tokens
    assert model.predict("paint the yellow door please", "org/plain-7b").p50_tokens > 3 * red
    assert model.predict("paint the red door please", "org/long-7b").p50_tokens > 2 * red


def test_it_ranks_prompts_that_it_has_not_seen_for_each_llm(adapted: Path) -> None:
    test = rows(40, first=200)
    got = score(test, ServedModel(adapted).predict(test))
    plain = score(test, ServedModel(BUNDLED).predict(test))
    assert got is not None
    assert plain is not None
    assert got.tau_b is not None
    assert plain.tau_b is not None
    assert got.tau_b > 0.6 > plain.tau_b + 0.3
    assert got.coverage is not None
    assert got.coverage > 0.6


@pytest.mark.slow
def test_the_file_predicts_what_was_fitted(adapted: Path) -> None:
    """`write_adapted_model` checks this itself; here on prompts that it did not check."""
    test = rows(8, first=300)
    fit = AdaptedPredictor(ViewExtractor(BUNDLED, LengthModel(BUNDLED, provider="cpu")), rows(160))
    fitted = fit.predict(test).p50
    served = ServedModel(adapted).predict(test).p50
    assert np.corrcoef(np.log(fitted), np.log(served))[0, 1] > 0.99


@pytest.mark.parametrize(
    "text",
    ["", "a", "\x00", "é" * 20_000, "x y " * 5000],
    ids=["empty", "one letter", "control", "accents", "long"],
)
def test_any_text_is_answered(adapted: Path, text: str) -> None:
    answer = LengthModel(adapted, provider="cpu").predict(text, "?")
    assert 1 <= answer.p10_tokens <= answer.p50_tokens <= answer.p90_tokens < 100_000


def test_an_adapted_model_cannot_be_adapted_again(adapted: Path, tmp_path: Path) -> None:
    """It keeps the view, but not the part that names it: adapting starts from the original."""
    with pytest.raises(NoKernelView):
        write_adapted_model(rows(40), adapted, tmp_path / "again")


def test_words_add_up_over_tokens_and_pairs() -> None:
    assert word_buckets([5, 6], 100).tolist() == [5, 6, 100 + (5 * 31_337 + 6 * 7) % 32_768]
    ids = [[1, 2], [1, 3], [1, 2], [1, 3]]
    fit = fit_words(ids, np.arange(4), np.array([1.0, -1.0, 1.0, -1.0]), vocabulary=10)
    deviation = fit.deviation(ids)
    assert deviation[0] > 0 > deviation[1]
    assert deviation[0] == deviation[2]
