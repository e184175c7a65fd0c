"""What lengths look like, against distributions whose answer is known; and lengths as chats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from lengthwise_training.data.characterize import hill, profile, variance_parts, write_profiles
from lengthwise_training.data.chat_export import (
    INSTRUCTION,
    ChatFormat,
    ChatLabel,
    ChatTarget,
    chats,
)
from lengthwise_training.data.rows import LengthRow, LengthTable


def row(prompt: str, *samples: int, cut: bool = False, llm: str = "m") -> LengthRow:
    return LengthRow(prompt, llm, "s", samples, tuple(cut for _ in samples))


def test_the_parts_of_the_variance_are_found_again() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(1000.0, 100.0, 2000)
    samples = [c + rng.normal(0.0, 50.0, int(rng.integers(2, 8))) for c in centres]
    parts = variance_parts(samples, lambda s: s)
    assert parts is not None
    assert parts == pytest.approx((50.0, 100.0, 0.8), rel=0.05)
    assert variance_parts([np.array([5.0])] * 9, lambda s: s) is None


def test_a_pareto_tail_is_found_again() -> None:
    lengths = 10.0 * (1.0 + np.random.default_rng(0).pareto(2.5, 50_000))
    assert hill(lengths) == pytest.approx(2.5, rel=0.1)
    assert hill(lengths[:100]) is None


def test_a_profile_counts_what_is_there() -> None:
    rows = [row("a" * (i + 1), 10 * (i + 1), 10 * (i + 1)) for i in range(9)]
    got = profile(LengthTable([*rows, row("b", 100, cut=True)]))
    assert (got.rows, got.prompts, got.samples, got.largest) == (10, 10, 19, 100)
    assert got.censored == pytest.approx(1 / 19)
    assert got.quantiles["p50"] == 50
    assert got.icc == pytest.approx(1.0)
    assert sum(got.histogram) == 19


def test_tables_and_pictures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row(f"p{i}", i + 1, i + 2, llm=llm) for i in range(30) for llm in "xy"]
    found = write_profiles(LengthTable(rows), tmp_path)
    assert set(found["llm"]) == {"x", "y"}
    assert json.loads((tmp_path / "lengths.json").read_text()) == found
    assert "| x | 30 |" in (tmp_path / "lengths.md").read_text()
    for name in ("lengths_by_llm.png", "lengths_by_source.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


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
