"""The fast way to token ids: the same as the tokenizer's, or none."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from lengthwise_predictor.features import normalise
from lengthwise_predictor.settings import BUNDLED
from lengthwise_predictor.word_pieces import WordPieces


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))


@pytest.fixture(scope="module")
def pieces(tokenizer: Tokenizer) -> WordPieces:
    return WordPieces(tokenizer)


def slow(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=string.printable, max_size=300))
def test_plain_text_gets_the_tokenizers_ids(
    tokenizer: Tokenizer, pieces: WordPieces, text: str
) -> None:
    clean = normalise(text)
    assert pieces.ids(clean) == slow(tokenizer, clean)


@pytest.mark.parametrize(
    "text",
    [
        "Antidisestablishmentarianism, snake_case and CamelCase: f(x) = 3.14e-10;",
        "def f(a):\n\treturn [b**2 for b in a if b != 0]  # why?",
        "a" * 100 + " " + "a" * 101,
        "##ing ## [cls] [C LS]",
        "",
    ],
)
def test_odd_words_get_the_tokenizers_ids(
    tokenizer: Tokenizer, pieces: WordPieces, text: str
) -> None:
    assert pieces.ids(text) == slow(tokenizer, text)


@pytest.mark.parametrize(
    "text", ["na\u00efve", "\u4f60\u597d", "a [SEP] b", "x[MASK]", " ".join(["qxzj" * 20] * 30)]
)
def test_texts_that_need_the_tokenizer_or_are_faster_with_it_are_left_to_it(
    pieces: WordPieces, text: str
) -> None:
    assert pieces.ids(text) is None


def test_another_kind_of_tokenizer_gets_no_ids() -> None:
    assert WordPieces(Tokenizer(models.WordLevel({"a": 1}, unk_token="a"))).ids("a") is None
