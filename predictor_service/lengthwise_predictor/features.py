"""Features that the model reads beside the tokens: counts that a tokenizer blurs.

Serving and training both call this, so that their inputs cannot differ. No rule here decides what
is long or short; the model learns that.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Names of the columns of `text_features`, in order; a model is bound to them.
FEATURE_NAMES = (
    "log_chars",
    "log_words",
    "log_lines",
    "log_tokens",
    "chars_per_word",
    "digit_share",
    "upper_share",
    "punctuation_share",
    "non_ascii_share",
    "log_question_marks",
    "ends_with_question_mark",
    "log_code_fences",
    "log_code_marks",
    "log_list_lines",
    "log_sentences",
    "log_largest_number",
    "log_asked_words",
    "log_asked_items",
    "last_line_share",
    "unique_word_share",
)

_DIGITS = string.digits.encode()
_CAPITALS = string.ascii_uppercase.encode()
_PUNCTUATION = string.punctuation.encode()
_BRACKETS = b"{}();=<>[]"
_CODE_WORDS = frozenset({"def", "import", "return"})
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
# `^\s*` counts the same, but also scans over line ends: 16,384 of them took 3 s.
_LIST_LINE = re.compile(r"^[^\S\n]*(?:[-*\u2022]|\d{1,3}[.)])\s", re.MULTILINE)
_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"(?<![\w.])\d{1,6}(?![\w.]*\d)")
_REQUESTED_WORDS = re.compile(r"(\d{1,6})\+?[\s-]*words?\b", re.IGNORECASE)
_REQUESTED_ITEMS = re.compile(
    r"(\d{1,4})\+?[\s-]+(?:\w+[\s-]+)?(?:sentences?|paragraphs?|sections?|bullets?|items?|points?|"
    r"steps?|ideas?|examples?|tips?|reasons?|lines?|ways?|questions?|pages?)\b",
    re.IGNORECASE,
)


def text_features(text: str, token_count: int) -> NDArray[np.float32]:
    """Return counts and shares of one text, roughly in -1 to 10.

    Args:
        text: A prompt, already clipped, so that this takes bounded time.
        token_count: Its number of tokens, before they are cut to the network's window.

    Returns:
        float32, (len(FEATURE_NAMES),).
    """
    chars = len(text)
    words = _WORD.findall(text.lower())
    per_char = 1.0 / max(chars, 1)
    lines = text.split("\n")
    plain = text.encode("ascii", "ignore")
    # \d is any script's digit; most texts have none, and then a third of the time is saved.
    digits = _DIGIT.search(text) is not None
    numbers = _NUMBER.findall(text) if digits else ()
    requested_words = _REQUESTED_WORDS.findall(text) if digits else ()
    requested_items = _REQUESTED_ITEMS.findall(text) if digits else ()
    return np.array(
        [
            math.log1p(chars),
            math.log1p(len(words)),
            math.log1p(len(lines)),
            math.log1p(token_count),
            min(chars / max(len(words), 1), 30.0) / 5.0,
            _count(plain, _DIGITS) * per_char,
            _count(plain, _CAPITALS) * per_char,
            _count(plain, _PUNCTUATION) * per_char,
            (chars - len(plain)) * per_char,
            math.log1p(text.count("?")),
            float(text.rstrip().endswith("?")),
            math.log1p(text.count("```")),
            math.log1p(_count(plain, _BRACKETS) + sum(map(_CODE_WORDS.__contains__, words))),
            math.log1p(len(_LIST_LINE.findall(text))),
            math.log1p(len(_SENTENCE_END.findall(text))),
            math.log1p(_largest(numbers)),
            math.log1p(_largest(requested_words)),
            math.log1p(_largest(requested_items)),
            len(lines[-1]) * per_char,
            len(set(words)) / max(len(words), 1),
        ],
        dtype=np.float32,
    )


def _count(text: bytes, kinds: bytes) -> int:
    return len(text) - len(text.translate(None, kinds))


def _largest(numbers: Sequence[str]) -> float:
    return float(max((int(n) for n in numbers), default=0))


def normalise(text: str) -> str:
    """Remove what no tokenizer should read: NUL and other control characters.

    Tabs and line ends stay. Lone surrogates, which JSON can carry and UTF-8 cannot, become U+FFFD.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) != "Cc" else " "
        for c in text.replace("\r\n", "\n")
    )


def window(ids: Sequence[int], limit: int) -> list[int]:
    """Keep at most `limit` token ids: three quarters from the start, a quarter from the end."""
    if len(ids) <= limit:
        return list(ids)
    tail = limit // 4
    return [*ids[: limit - tail], *ids[-tail:]]


def canonical_llm(name: str) -> str:
    """Return one spelling for all names of an LLM: no owner, lower case, no `-instruct`.

    `meta-llama/Llama-3.1-8B-Instruct` and `llama-3.1-8b-instruct` are the same LLM.
    """
    last = name.strip().rstrip("/").rsplit("/", 1)[-1].lower()
    last = re.sub(r"[\s_:]+", "-", last)
    return re.sub(r"-(instruct|it|chat)(?=-|$)", "", last)
