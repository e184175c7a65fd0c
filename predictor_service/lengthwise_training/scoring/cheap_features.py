"""About eighty counts of a text that are cheap to compute, for the bag of words.

Only the baselines use them. Serving has twenty of its own, `lengthwise_predictor.features`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lengthwise_predictor.features import text_features

Array = NDArray[np.float64]

#: Words whose presence may relate to the answer's length; the fit decides which do.
_WORDS = (
    *("write", "list", "explain", "describe", "summarize", "translate", "compare", "create"),
    *("generate", "give", "name", "what", "who", "when", "where", "why", "how", "which", "code"),
    *("function", "python", "java", "sql", "html", "essay", "story", "poem", "letter", "email"),
    *("article", "blog", "step", "steps", "example", "brief", "briefly", "short", "concise"),
    *("detailed", "long", "sentence", "sentences", "paragraph", "paragraphs", "word", "words"),
    *("json", "table", "answer", "choose", "classify", "rewrite", "edit", "identify", "calculate"),
)
_MARKS = ("\n\n", "?", "!", ":", "`", '"', "=", "#", "|", "-", "http")
_TOKEN = re.compile(r"[a-z]+")


def cheap_features(text: str) -> list[float]:
    """Return the counts of one text, each about 0 to 10."""
    words = _TOKEN.findall(text.lower())
    present = set(words)
    return [
        *map(float, text_features(text, len(words))),
        *(float(np.log1p(text.count(mark))) for mark in _MARKS),
        *(float(word in present) for word in _WORDS),
    ]


def feature_matrix(texts: Sequence[str]) -> Array:
    """Return the counts of some texts, float64, (texts, features)."""
    return np.array([cheap_features(t) for t in texts], dtype=np.float64)
