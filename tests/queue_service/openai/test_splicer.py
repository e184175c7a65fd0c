"""Splicing a retried attempt into a stream whose beginning the client already has."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_queue.errors import AttemptRestarted
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.completions import COMPLETIONS
from lengthwise_queue.openai.splicer import Splicer


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish} | more
    return json.dumps({"id": "a", "created": 1, "choices": [choice]}).encode()


def words(*texts: str, field: str = "content", index: int = 0) -> list[bytes]:
    return [chunk({field: text}, index) for text in texts]


def texts(chunks: list[bytes], field: str = "content", index: int = 0) -> str:
    """The text that a client reads in the chunks that it was sent."""
    found = ""
    for data in chunks:
        for choice in json.loads(data)["choices"]:
            if choice["index"] == index:
                found += choice["delta"].get(field) or ""
    return found


def splice(*attempts: list[bytes]) -> list[bytes]:
    """The chunks that a client is sent of an answer in several attempts."""
    splicer = Splicer(CHAT, "j1")
    sent = []
    for number, attempt in enumerate(attempts):
        if number:
            splicer.new_attempt()
        sent += [rest for data in attempt if (rest := splicer.feed(data)) is not None]
    splicer.end()
    return sent


def cut(text: str, at: list[int]) -> list[bytes]:
    """The text as chunks, cut at some places."""
    places = [0, *sorted(min(place, len(text)) for place in at), len(text)]
    return words(*(text[a:b] for a, b in itertools.pairwise(places)))


PLACES = st.lists(st.integers(0, 40), max_size=8)


@given(
    text=st.text(alphabet="ab é\U0001f600\n", max_size=40),
    died=st.lists(st.tuples(st.integers(0, 40), PLACES), max_size=3),
    last=PLACES,
)
def test_attempts_that_agree_give_the_text_once_however_they_are_cut(
    text: str, died: list[tuple[int, list[int]]], last: list[int]
) -> None:
    attempts = [cut(text[:length], at) for length, at in died]
    final = [*cut(text, last), chunk({}, finish="stop")]
    sent = splice(*attempts, final)
    assert texts(sent) == text
    assert sum(b'"stop"' in data for data in sent) == 1


@given(text=st.text("ab", min_size=1, max_size=20), other=st.text("ab", max_size=20), at=PLACES)
def test_a_client_is_never_sent_a_mixture(text: str, other: str, at: list[int]) -> None:
    splicer = Splicer(CHAT, "j1")
    sent = [splicer.feed(data) for data in words(text)]
    splicer.new_attempt()
    agrees = other.startswith(text)
    try:
        sent += [splicer.feed(data) for data in [*cut(other, at), chunk({}, finish="stop")]]
        splicer.end()
    except AttemptRestarted:
        assert not agrees
    else:
        assert agrees
        assert texts([data for data in sent if data]) == other


def test_a_first_attempt_is_unchanged() -> None:
    odd = [b'{ "choices": [ ] }', b"not json", chunk({"content": "x"}), b'{"error": 1}']
    assert splice(odd) == odd


def test_an_attempt_after_nothing_was_sent_is_unchanged() -> None:
    assert splice([], words("Hi")) == words("Hi")


def test_the_new_attempt_keeps_the_identity_of_the_stream() -> None:
    again = json.dumps(
        {"id": "b", "created": 2, "choices": [{"index": 0, "delta": {"content": "Hi you"}}]}
    ).encode()
    last = json.loads(splice(words("Hi"), [again])[-1])
    assert (last["id"], last["created"]) == ("a", 1)
    assert last["choices"][0]["delta"] == {"content": " you"}


def test_each_choice_is_spliced_for_itself() -> None:
    first = [*words("one", index=0), *words("zw", index=1)]
    second = [*words("zwei", index=1), *words("one!", index=0)]
    sent = splice(first, second)
    assert (texts(sent, index=0), texts(sent, index=1)) == ("one!", "zwei")


def test_thoughts_and_words_are_spliced_in_their_order() -> None:
    thoughts = "reasoning_content"
    first = [*words("Let me", " see", field=thoughts), *words("It")]
    second = [*words("Let me see", field=thoughts), *words("It is")]
    sent = splice(first, second)
    assert texts(sent, "reasoning_content") == "Let me see"
    assert texts(sent) == "It is"


def test_the_role_is_sent_once() -> None:
    first = [chunk({"role": "assistant", "content": ""}), *words("Hi")]
    sent = splice(first, [*first, *words(" you")])
    assert sum(b"assistant" in data for data in sent) == 1


def test_a_finished_choice_is_not_finished_again() -> None:
    first = [*words("Hi"), chunk({}, finish="stop")]
    assert splice(first, first) == first


def test_usage_at_the_end_passes() -> None:
    usage = json.dumps({"id": "b", "choices": [], "usage": {"total_tokens": 5}}).encode()
    assert json.loads(splice(words("Hi"), [*words("Hi"), usage])[-1])["usage"] == {
        "total_tokens": 5
    }


CALL = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]}
PROBS = {"content": [{"token": "Hi", "logprob": -1}]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (words("Hello"), words("Help")),
        (words("Hello"), words("Goodbye")),
        (words("Hello"), [*words("Hel"), chunk({}, finish="stop")]),
        ([chunk(CALL)], [chunk(CALL)]),
        (words("Hello"), [chunk(CALL)]),
        (words("Hello"), [chunk({"content": "Hello you"}, logprobs=PROBS)]),
        (words("It", field="reasoning_content"), words("It")),
        ([*words("Hi"), chunk({}, finish="stop")], words("Hi you")),
        ([b"not json"], words("Hi")),
        (words("Hi"), [b"not json"]),
        (words("Hello"), words("Hel")),
    ],
    ids=[
        "other end",
        "other text",
        "finished too early",
        "tool calls",
        "a call for a text",
        "a token cut in two with its logprobs",
        "words where thoughts were",
        "continues after the end",
        "unreadable before",
        "unreadable after",
        "stops short",
    ],
)
def test_what_cannot_be_joined_ends_the_stream(first: list[bytes], second: list[bytes]) -> None:
    with pytest.raises(AttemptRestarted, match="/v1/jobs/j1"):
        splice(first, second)


def test_a_tool_call_after_the_repeated_words_is_sent_to_its_end() -> None:
    more = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    sent = splice(words("Hi"), [*words("Hi"), chunk(CALL), chunk(more)])
    assert [json.loads(data)["choices"][0]["delta"] for data in sent[1:]] == [CALL, more]


def test_logprobs_of_whole_new_tokens_pass() -> None:
    new = chunk({"content": " you"}, logprobs=PROBS)
    sent = splice(words("Hi"), [chunk({"content": "Hi"}, logprobs=PROBS), new])
    assert json.loads(sent[-1])["choices"][0]["logprobs"] == PROBS
    assert len(sent) == 2


def test_completions_are_spliced_too() -> None:
    def part(text: str, finish: str | None = None) -> bytes:
        choice = {"index": 0, "text": text, "finish_reason": finish}
        return json.dumps({"id": "a", "choices": [choice]}).encode()

    splicer = Splicer(COMPLETIONS, "j1")
    sent = [splicer.feed(part("Hel"))]
    splicer.new_attempt()
    sent += [splicer.feed(d) for d in (part("He"), part("llo"), part("", "stop"))]
    splicer.end()
    choices = [json.loads(data)["choices"][0] for data in sent if data]
    assert [(c["text"], c["finish_reason"]) for c in choices] == [
        ("Hel", None),
        ("lo", None),
        ("", "stop"),
    ]
