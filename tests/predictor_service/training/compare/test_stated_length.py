"""The length that a reply states, for replies of any kind."""

from __future__ import annotations

import pytest

pytest.importorskip("httpx")
pytest.importorskip("scipy")

from lengthwise_training.compare.stated_length import stated_tokens


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ("120", 120),
        ("Length: 1,200 tokens\nThe sea is", 1200),
        ("about 10 000 tokens", 10_000),
        ("~1.5k tokens.", 1500),
        ("100 words", 133),
        ("between 50 and 150 tokens", 100),
        ("50-100", 75),
        ("two hundred and fifty tokens", 250),
        ("one thousand two hundred", 1200),
        ("a dozen tokens", 12),
        ("2 paragraphs, so 300 tokens", 300),
        ("In 3 steps: 40 words", 53.2),
        ("I would say 150.", 150),
        ("**Length**: 80", 80),
        ("1000\n\nThe sea is", 1000),
        ("I cannot know that.", None),
        # These answer the prompt, and state no length.
        ("The first park was opened in 1955, and another", None),
        ("1. Steel: made of iron\n2. Copper: 10", None),
        ("A full piano has 88 keys.", None),
        ("", None),
        ("0", None),
        ("9" * 50, None),
        ("\x00\ufffd 🙂", None),
    ],
)
def test_a_length_is_read_from_any_reply(reply: str, want: float | None) -> None:
    assert stated_tokens(reply) == (pytest.approx(want) if want is not None else None)


@pytest.mark.timeout(20)  # a regular expression could take for ever
def test_a_long_hostile_reply_is_read_in_bounded_time() -> None:
    assert stated_tokens("one hundred and " * 20_000) is None
    assert stated_tokens("1,111" * 20_000 + " - ") == 1
