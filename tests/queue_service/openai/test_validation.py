"""The bodies that are refused before they are queued, and those that pass."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from lengthwise_contract.jobs import EndpointPath
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.errors import BadRequest
from lengthwise_queue.openai.chat import CHAT
from lengthwise_queue.openai.completions import COMPLETIONS
from lengthwise_queue.openai.registry import ENDPOINTS

USER = [{"role": "user", "content": "Hello there"}]
CHAT_BODY: dict[str, Any] = {"model": "m", "messages": USER}
TEXT_BODY: dict[str, Any] = {"model": "m", "prompt": "Hello there"}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def chat(**fields: Any) -> ParsedRequest:
    return CHAT.parse(CHAT_BODY | fields)


def text(**fields: Any) -> ParsedRequest:
    return COMPLETIONS.parse(TEXT_BODY | fields)


def each(field: str, *values: Any) -> list[tuple[str, Any]]:
    return [(field, value) for value in values]


BAD_IN_BOTH: list[tuple[str, Any]] = [
    ("model", None),
    ("model", ""),
    ("model", 7),
    ("model", "m" * 257),
]

BAD_IN_CHAT: list[tuple[str, Any, str]] = [
    ("messages", None, "messages"),
    ("messages", "Hello", "messages"),
    ("messages", {}, "messages"),
    ("messages", [None], "messages[0]"),
    ("messages", ["Hello"], "messages[0]"),
]

BAD_IN_COMPLETIONS: list[tuple[str, Any]] = [("prompt", None)]

#: vLLM 0.32 takes some of these and refuses others, llama.cpp takes more: it is theirs to say.
LEFT_TO_THE_ENGINE: list[tuple[str, Any]] = [
    *each("stream", "maybe", 7, []),
    ("stream_options", []),
    *each("temperature", "hot", -0.1, True, 2.5, 10**400),
    ("top_p", 1.5),
    *each("n", 0, -1, 1.0, True, 129, "2", 10**400),
    *each("max_tokens", 0, -1, 4096, 100.0, "5", True, 5.5, 2**31, 10**400, [], "x"),
    ("presence_penalty", 3),
    ("frequency_penalty", "much"),
    ("seed", 1.5),
    *each("stop", 1, ["a", 1], {"a": 1}),
    ("logit_bias", []),
    ("user", 1),
    ("logprobs", 3),
    ("top_logprobs", -1),
    *each("tools", {}, ["f"], []),
    ("tool_choice", 1),
    ("response_format", "json"),
    *each("max_completion_tokens", 0, -1, 1e3),
    ("best_of", 0),
    ("echo", "yes"),
    ("suffix", 1),
]

MESSAGES_LEFT_TO_THE_ENGINE: list[Any] = [
    [],
    [{"content": "x"}],
    [{"role": 1, "content": "x"}],
    [{"role": "", "content": "x"}],
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [*USER, {"role": "user", "content": 5}],
    [{"role": "user", "content": ["x"]}],
    [{"role": "user", "content": {"type": "text"}}],
]

PROMPTS_LEFT_TO_THE_ENGINE: list[Any] = [
    *("", [], 5, {}, ["a", ""], ["a", 1], [1, -1], [1, True], [1.0], [[]], [[1], "a"], [{}]),
]


def name(value: Any) -> str:
    return str(value)[:40] or "empty"


@pytest.mark.parametrize(("field", "value"), BAD_IN_BOTH, ids=name)
def test_a_wrong_field_is_refused_by_name_on_both_endpoints(field: str, value: Any) -> None:
    for endpoint in (chat, text):
        with pytest.raises(BadRequest) as caught:
            endpoint(**{field: value})
        assert caught.value.param == field
        assert f"`{field}`" in caught.value.message


@pytest.mark.parametrize(("field", "value", "param"), BAD_IN_CHAT, ids=name)
def test_a_wrong_chat_is_refused_by_name(field: str, value: Any, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(**{field: value})
    assert caught.value.param == param


@pytest.mark.parametrize(("field", "value"), BAD_IN_COMPLETIONS, ids=name)
def test_a_wrong_completion_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        text(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_has_the_code_of_a_missing_field(missing: str) -> None:
    with pytest.raises(BadRequest) as caught:
        CHAT.parse({k: v for k, v in CHAT_BODY.items() if k != missing})
    assert caught.value.code == "missing_required_parameter"


def test_a_refusal_never_quotes_text_of_the_request() -> None:
    for bad in ({"messages": "my secret"}, {"messages": ["secret"]}, {"model": ["secret"]}):
        with pytest.raises(BadRequest) as caught:
            chat(**bad)
        assert "secret" not in caught.value.message


@pytest.mark.parametrize(("field", "value"), LEFT_TO_THE_ENGINE, ids=name)
def test_what_an_engine_may_take_passes_on_both_endpoints(field: str, value: Any) -> None:
    for endpoint in (chat, text):
        found = endpoint(**{field: value})
        assert found.answers >= 1
        assert found.max_tokens is None or 1 <= found.max_tokens < 2**31


@pytest.mark.parametrize("messages", MESSAGES_LEFT_TO_THE_ENGINE, ids=name)
def test_messages_that_an_engine_may_take_pass(messages: Any) -> None:
    assert chat(messages=messages).messages == messages


@pytest.mark.parametrize("prompt", PROMPTS_LEFT_TO_THE_ENGINE, ids=name)
def test_a_prompt_that_an_engine_may_take_passes(prompt: Any) -> None:
    assert text(prompt=prompt).answers >= 1


@pytest.mark.parametrize(
    ("value", "want"),
    [(7, 7), (7.0, 7), ("7", 7), (0, 1), (-1, None), (7.5, None), (10**400, 2**31 - 1), ([], None)],
    ids=name,
)
def test_a_limit_is_read_as_an_engine_reads_it(value: Any, want: int | None) -> None:
    assert chat(max_tokens=value).max_tokens == want


@pytest.mark.parametrize(
    ("value", "want"),
    [(True, True), ("true", True), (1, True), ("no", False), (0, False), ("maybe", False)],
    ids=name,
)
def test_a_client_that_asks_for_a_stream_in_another_spelling_gets_one(
    value: Any, want: bool
) -> None:
    assert chat(stream=value).stream is want


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": None, "n": None, "max_tokens": None, "stream": None, "stop": None},
        {"temperature": 2.5},  # beyond OpenAI's 2, and fine for vLLM
        {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, PNG]}]},
        {"messages": [*USER, {"role": "assistant", "tool_calls": []}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"top_logprobs": -1},  # vLLM's "all"
    ],
    ids=name,
)
def test_a_body_that_an_engine_may_understand_passes(fields: dict[str, Any]) -> None:
    assert chat(**fields).model == "m"


def test_the_facts_about_a_chat() -> None:
    found = chat(stream=True, n=2, max_tokens=5, max_completion_tokens=9)
    assert (found.stream, found.answers) == (True, 2)
    assert found.max_tokens == 9
    assert found.text == "Hello there"
    assert (found.prompts, found.prompt_param) == ([["Hello there"]], "messages")


@pytest.mark.parametrize(
    ("prompt", "answers", "read", "prompts"),
    [
        ("a b", 2, "a b", [["a b"]]),
        (["a", "b"], 4, "a", [["a"], ["b"]]),
        ([1, 2, 3], 2, None, [3]),
        ([[1, 2], [3]], 4, None, [2, 1]),
    ],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_the_facts_about_a_completion(
    prompt: Any, answers: int, read: str | None, prompts: Any
) -> None:
    found = text(prompt=prompt, n=2, max_tokens=7)
    assert (found.answers, found.text, found.prompts) == (answers, read, prompts)
    assert found.max_tokens == 7


def test_embedded_prompts_of_vllm_pass() -> None:
    found = COMPLETIONS.parse({"model": "m", "prompt_embeds": "AAAA"})
    assert (found.prompts, found.answers, found.text) == ([], 1, None)


def test_an_image_without_text_gives_the_predictor_no_text() -> None:
    assert chat(messages=[{"role": "user", "content": [PNG]}]).text is None


def test_thoughts_of_earlier_answers_do_not_count_towards_the_prompt() -> None:
    # Templates cut them out, so they must not make a prompt too long.
    earlier = {"role": "assistant", "content": "<think>long thoughts</think>\n\nShort answer "}
    assert chat(messages=[*USER, earlier]).prompts == [["Hello there", "Short answer"]]


def test_every_path_of_the_contract_has_an_endpoint() -> None:
    assert {endpoint.path for endpoint in ENDPOINTS} == set(get_args(EndpointPath))


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"messages": {}}, "`messages` must be an array of objects, and is an object."),
        ({"messages": [None]}, "`messages[0]` must be an object, and is null."),
        ({"model": 1}, "`model` must be a string of 1 to 256 characters, and is 1."),
    ],
    ids=name,
)
def test_the_message_describes_what_the_model_of_the_body_allows(
    fields: dict[str, Any], want: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(**fields)
    assert caught.value.message == want
