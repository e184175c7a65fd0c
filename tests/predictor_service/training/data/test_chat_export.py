"""Lengths written as chats."""

from __future__ import annotations

import pytest

pytest.importorskip("scipy")

from lengthwise_training.data.chat_export import (
    INSTRUCTION,
    ChatFormat,
    ChatLabel,
    ChatTarget,
    chats,
)
from lengthwise_training.data.rows import LengthRow


def row(prompt: str, *samples: int, cut: bool = False, llm: str = "m") -> LengthRow:
    return LengthRow(prompt, llm, "s", samples, tuple(cut for _ in samples))


@pytest.mark.parametrize(
    ("target", "want"),
    [
        (ChatTarget(ChatLabel.MAX, bin_tokens=50), 100),
        (ChatTarget(ChatLabel.MAX, bin_tokens=1), 60),
        (ChatTarget(ChatLabel.MEAN, bin_tokens=10), 40),
        (ChatTarget(ChatLabel.PERCENTILE, percentile=50.0, bin_tokens=1), 40),
    ],
    ids=str,
)
def test_the_label_of_the_samples_is_rounded_up_to_its_bin(target: ChatTarget, want: int) -> None:
    assert target.tokens(row("p", 20, 40, 60)) == want


def test_a_chat_asks_for_the_length_and_answers_it() -> None:
    turns = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"})
    chat = LengthRow("system: be brief\n\nuser: hi", "m", "s", (7,), (False,), turns)
    rows = [chat, row("long", 512, cut=True)]
    [openai] = chats(rows, ChatTarget(), ChatFormat.OPENAI)
    assert openai["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi" + INSTRUCTION},
        {"role": "assistant", "content": "50"},
    ]
    [sharegpt] = chats(rows, ChatTarget(), ChatFormat.SHAREGPT)
    assert [t["from"] for t in sharegpt["conversations"]] == ["system", "human", "gpt"]
    assert len(list(chats(rows, ChatTarget(), ChatFormat.OPENAI, keep_censored=True))) == 2
