"""Text features: what is counted, what is cleaned, and which names mean the same LLM."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_predictor.features import (
    FEATURE_NAMES,
    canonical_llm,
    normalise,
    text_features,
    window,
)


def feature(text: str, name: str) -> float:
    return float(text_features(text, 10)[FEATURE_NAMES.index(name)])


@pytest.mark.slow
@given(st.text(max_size=400))
def test_every_text_has_finite_features_of_bounded_size(text: str) -> None:
    got = text_features(text, len(text))
    assert got.shape == (len(FEATURE_NAMES),)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= 15


@pytest.mark.parametrize(
    ("text", "name", "want"),
    [
        ("Write a 1000-word essay.", "log_asked_words", np.log1p(1000)),
        ("Write at least 300+ words.", "log_asked_words", np.log1p(300)),
        ("List 7 funny ideas.", "log_asked_items", np.log1p(7)),
        ("In 1999 there were 12.", "log_largest_number", np.log1p(1999)),
        ("Why?", "ends_with_question_mark", 1.0),
        ("Why? Tell me.", "ends_with_question_mark", 0.0),
        ("```a```", "log_code_fences", np.log1p(2)),
        ("- a\n- b\n3. c", "log_list_lines", np.log1p(3)),
        ("Éa", "non_ascii_share", 0.5),
    ],
)
def test_a_count_matches_its_name(text: str, name: str, want: float) -> None:
    assert feature(text, name) == pytest.approx(want)


@given(st.text())
def test_normalised_text_has_no_control_characters_and_does_not_change_again(text: str) -> None:
    got = normalise(text)
    assert not [c for c in got if ord(c) < 32 and c not in "\n\t"]
    assert normalise(got) == got
    got.encode("utf-8")


def test_ordinary_text_is_not_changed() -> None:
    text = string.ascii_letters + " ¿Qué? 量子\n\tx"
    assert normalise(text) == text


def test_a_lone_surrogate_becomes_a_character_that_utf8_can_hold() -> None:
    assert normalise("a\ud800b") == "a?b"


@given(st.lists(st.integers()), st.integers(min_value=4, max_value=64))
def test_a_window_keeps_both_ends(ids: list[int], limit: int) -> None:
    got = window(ids, limit)
    assert len(got) == min(len(ids), limit)
    tail = limit // 4
    assert got[: limit - tail] == ids[: limit - tail]
    assert got[-1:] == ids[-1:]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("google/gemma-3-4b-it", "Gemma-3-4b"),
        ("Qwen/Qwen2.5-14B-Instruct", " qwen2.5-14b-instruct "),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("hf/path/to/Phi-4-mini-instruct/", "Phi 4 mini"),
    ],
)
def test_spellings_of_one_llm_have_one_canonical_name(one: str, other: str) -> None:
    assert canonical_llm(one) == canonical_llm(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Qwen2.5-14B-Instruct", "Qwen2.5-32B-Instruct"),
        ("italic-7b", "alic-7b"),
        ("openai/davinci-t0-ft", "openai/davinci-superni-ft"),
    ],
)
def test_different_llms_have_different_canonical_names(one: str, other: str) -> None:
    assert canonical_llm(one) != canonical_llm(other)
