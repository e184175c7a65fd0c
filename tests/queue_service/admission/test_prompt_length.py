"""Prompts that are too long for the model, with and without its tokenizer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.admission.prompt_length import INLINE_BYTES, MAX_BYTES_PER_TOKEN, PromptLength
from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.completions import COMPLETIONS


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A real tokenizer file: one token a word."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return str(path)


def measure(content: Any, field: str = "messages", **settings: Any) -> BadRequest | None:
    if field == "messages":
        body = {"messages": [{"role": "user", "content": text} for text in content]}
        parsed = CHAT.parse({"model": "m"} | body)
    else:
        parsed = COMPLETIONS.parse({"model": "m", "prompt": content})
    try:
        asyncio.run(PromptLength().check(QueueSettings(**settings), parsed))
    except BadRequest as exc:
        return exc
    return None


def refused(error: BadRequest | None) -> bool:
    assert error is None or error.code == "context_length_exceeded"
    return error is not None


@pytest.mark.parametrize("words", [99, 100], ids=["fits", "does not"])
@pytest.mark.parametrize("word", ["a", "a" * INLINE_BYTES], ids=["short", "in a thread"])
def test_with_a_tokenizer_the_count_is_exact(tokenizer: str, words: int, word: str) -> None:
    texts = [" ".join([word] * words)]
    error = measure(texts, max_model_len=100, tokenizer=tokenizer)
    assert refused(error) == (words == 100)
    if error is not None:
        assert error.param == "messages"
        assert "has 100 tokens" in error.message


def test_messages_count_together(tokenizer: str) -> None:
    settings: dict[str, Any] = {"max_model_len": 100, "tokenizer": tokenizer}
    assert refused(measure(["a " * 60, "a " * 60], **settings))
    assert not refused(measure(["a " * 60, "a " * 30], **settings))


def test_without_a_tokenizer_only_what_is_certainly_too_long_is_refused() -> None:
    limit = 100 * MAX_BYTES_PER_TOKEN
    assert not refused(measure(["x" * (limit - 1)], max_model_len=100))
    assert refused(measure(["x" * limit], max_model_len=100))


def test_without_a_limit_nothing_is_refused() -> None:
    assert not refused(measure(["x" * 1_000_000]))


def test_token_ids_are_counted_one_by_one() -> None:
    assert refused(measure([1] * 100, field="prompt", max_model_len=100))
    assert not refused(measure([1] * 99, field="prompt", max_model_len=100))


def test_each_prompt_of_a_list_counts_alone(tokenizer: str) -> None:
    settings: dict[str, Any] = {"max_model_len": 100, "tokenizer": tokenizer, "field": "prompt"}
    assert not refused(measure(["a " * 60, "a " * 60], **settings))
    error = measure(["a", "a " * 100], **settings)
    assert error is not None
    assert error.param == "prompt"


def test_without_the_tokenizer_file_the_engine_decides(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.json")
    assert not refused(measure(["a " * 200], max_model_len=100, tokenizer=gone))


def test_a_prompt_that_cannot_be_too_long_is_not_counted(tmp_path: Path) -> None:
    # This is a folder and cannot be loaded, so the test shows whether it was opened.
    settings = QueueSettings(max_model_len=100, tokenizer=str(tmp_path))
    lengths = PromptLength()
    for text, opened in (("a" * 99, False), ("a" * 100, True)):
        parsed = COMPLETIONS.parse({"model": "m", "prompt": text})
        asyncio.run(lengths.check(settings, parsed))
        assert (str(tmp_path) in lengths._tokenizers) == opened


def test_a_file_that_is_not_a_tokenizer_is_refused_when_it_is_set(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        asyncio.run(PromptLength().load(str(path)))


def test_a_prompt_that_is_too_long_is_never_queued(idle_front: Any, tokenizer: str) -> None:
    idle_front.put_queue(max_model_len=50, tokenizer=tokenizer)
    messages = [{"role": "user", "content": "a " * 50}]
    answer = idle_front.http.post("/v1/chat/completions", json=idle_front.chat(messages=messages))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert idle_front.http.get(f"/v1/queues/{idle_front.model}").json()["accepted"] == 0


def test_a_limit_above_the_context_is_the_engines_to_judge(idle_front: Any) -> None:
    # llama.cpp generates what fits; vLLM refuses it, and the client gets vLLM's own 400.
    idle_front.put_queue(max_model_len=50)
    assert idle_front.submit(max_tokens=51)
