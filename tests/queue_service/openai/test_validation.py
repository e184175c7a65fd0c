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


BAD_IN_BOTH: list[tuple[str, Any]] = [
    ("model", None),
    ("model", ""),
    ("model", 7),
    ("model", "m" * 257),
    ("stream", "true"),
    ("stream", 1),
    ("stream_options", []),
    ("temperature", "hot"),
    ("temperature", -0.1),
    ("temperature", True),
    ("temperature", float("inf")),
    ("temperature", 10**400),  # too large for a float: this was a 500 once
    ("top_p", 1.5),
    ("n", 0),
    ("n", -1),
    ("n", 1.0),
    ("n", True),
    ("n", 129),
    ("max_tokens", 0),
    ("max_tokens", -5),
    ("max_tokens", 5.0),
    ("max_tokens", "5"),
    ("max_tokens", True),
    ("max_tokens", 2**31),
    ("presence_penalty", 3),
    ("frequency_penalty", "much"),
    ("seed", 1.5),
    ("stop", 1),
    ("stop", ["a", 1]),
    ("logit_bias", []),
    ("user", 1),
]

BAD_IN_CHAT: list[tuple[str, Any, str]] = [
    ("messages", None, "messages"),
    ("messages", [], "messages"),
    ("messages", "Hello", "messages"),
    ("messages", {}, "messages"),
    ("messages", [None], "messages[0]"),
    ("messages", ["Hello"], "messages[0]"),
    ("messages", [{"content": "x"}], "messages[0].role"),
    ("messages", [{"role": 1, "content": "x"}], "messages[0].role"),
    ("messages", [{"role": "user"}], "messages[0].content"),
    ("messages", [{"role": "user", "content": None}], "messages[0].content"),
    ("messages", [*USER, {"role": "user", "content": 5}], "messages[1].content"),
    ("messages", [{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
    ("max_completion_tokens", 0, "max_completion_tokens"),
    ("max_completion_tokens", 1e3, "max_completion_tokens"),
    ("logprobs", 3, "logprobs"),
    ("top_logprobs", "3", "top_logprobs"),
    ("tools", {}, "tools"),
    ("tools", ["f"], "tools"),
    ("tool_choice", 1, "tool_choice"),
    ("response_format", "json", "response_format"),
]

BAD_IN_COMPLETIONS: list[tuple[str, Any]] = [
    ("prompt", None),
    ("prompt", ""),
    ("prompt", []),
    ("prompt", 5),
    ("prompt", {}),
    ("prompt", ["a", ""]),
    ("prompt", ["a", 1]),
    ("prompt", [1, -1]),
    ("prompt", [1, True]),
    ("prompt", [[]]),
    ("prompt", [[1], "a"]),
    ("best_of", 0),
    ("echo", "yes"),
    ("logprobs", True),
    ("suffix", 1),
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
    for bad in (
        {"temperature": "my secret"},
        {"messages": "my secret"},
        {"stop": {"my": "secret"}},
    ):
        with pytest.raises(BadRequest) as caught:
            chat(**bad)
        assert "secret" not in caught.value.message


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
    assert (found.max_tokens, found.max_tokens_param) == (9, "max_completion_tokens")
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
    assert (found.max_tokens, found.max_tokens_param) == (7, "max_tokens")


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
        ({"n": 129}, "`n` must be an integer from 1 to 128, and is 129."),
        ({"temperature": -1}, "`temperature` must be a number of at least 0, and is -1."),
        ({"stream": "yes"}, "`stream` must be true or false, and is a string."),
        ({"stop": ["a", 1]}, "`stop` must be a string or an array of strings, and is an array."),
        (
            {"messages": []},
            "`messages` must be a non-empty array of objects, and is an empty array.",
        ),
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
