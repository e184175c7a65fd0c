"""The facts of an OpenAI request, beside its text, on which the length of its answer depends.

The queue service sends them to the predictor, and the rows of the training log carry them. The body
may be unchecked: a field of the wrong kind counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Fields that limit the thinking of a reasoning LLM, tokens, in the order in which they count:
#: engines have no common name.
_BUDGETS = (
    "thinking_budget_tokens",
    "thinking_token_budget",
    "thinking_budget",
    "max_thinking_tokens",
    "reasoning_budget",
)

#: Fields that name the adapter of an LLM.
_ADAPTERS = ("adapter", "adapter_id")

#: The most tools that are named, and the longest name, characters: a request may carry megabytes
#: of them, and a prediction has 20 ms.
_MOST_TOOLS, _LONGEST_NAME = 64, 64


def request_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a chat or completion request, by the names of `PredictRequest`.

    Args:
        body: The request's body.

    Returns:
        Only the facts that the body has. Of each tool its name, of a format its type: the schemas
        are long, and the names distinguish them.
    """
    found = {
        "tools": _tools(body.get("tools")),
        "tool_choice": _tool_choice(body.get("tool_choice")),
        "response_format": _response_format(body.get("response_format")),
        "reasoning_effort": _name(body.get("reasoning_effort")),
        "thinking_budget_tokens": _thinking_budget(body),
        "n": _count(body.get("n"), least=1),
        "max_tokens": _count(body.get("max_completion_tokens"), least=1)
        or _count(body.get("max_tokens"), least=1),
        "stop": _stop(body.get("stop")),
        "temperature": _temperature(body.get("temperature")),
        "adapter": next((name for key in _ADAPTERS if (name := _name(body.get(key)))), None),
    }
    return {name: value for name, value in found.items() if value is not None}


def _count(value: Any, *, least: int) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and least <= value < 2**31 else None


def _name(value: Any) -> str | None:
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def _temperature(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 100 else None


def _tools(value: Any) -> list[dict[str, Any]] | None:
    if not isinstance(value, list):
        return None
    functions = (tool.get("function") for tool in value if isinstance(tool, dict))
    names = (_name(one.get("name")) for one in functions if isinstance(one, dict))
    tools = [{"type": "function", "function": {"name": name}} for name in names if name]
    return tools[:_MOST_TOOLS] or None


def _tool_choice(value: Any) -> str | dict[str, Any] | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        name = _name(value["function"].get("name"))
        return {"type": "function", "function": {"name": name}} if name else None
    return _name(value)


def _response_format(value: Any) -> dict[str, Any] | None:
    kind = _name(value.get("type")) if isinstance(value, dict) else None
    return {"type": kind} if kind else None


def _stop(value: Any) -> str | list[str] | None:
    if isinstance(value, list):
        return [s[:_LONGEST_NAME] for s in value[:16] if isinstance(s, str) and s] or None
    return _name(value)


def _thinking_budget(body: Mapping[str, Any]) -> int | None:
    """Find the limit of an LLM's thinking, tokens; 0: it is turned off."""
    template = body.get("chat_template_kwargs")
    thinking = body.get("thinking")
    places: list[Mapping[str, Any]] = [body]
    if isinstance(template, Mapping):
        places.append(template)
        if template.get("enable_thinking") is False or template.get("thinking") is False:
            return 0
    for place in places:
        for name in _BUDGETS:
            if (budget := _count(place.get(name), least=0)) is not None:
                return budget
    if isinstance(thinking, Mapping):  # as Anthropic names it
        if thinking.get("type") == "disabled":
            return 0
        return _count(thinking.get("budget_tokens"), least=0)
    return None
