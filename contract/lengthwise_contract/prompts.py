"""Turn a chat into the one text that the length predictor reads.

Training, the predictor and the queue service must produce exactly the same text. Otherwise the
predictor is asked about a kind of text that it has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: The longest text that is sent to the predictor, characters; see `clip`.
MAX_PROMPT_CHARS = 16_384

#: The roles of messages that instruct the LLM for an application.
INSTRUCTION_ROLES = frozenset({"system", "developer"})


def message_text(content: Any) -> str:
    """Return the text of a message's `content`: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict)]
        return "\n".join(p for p in parts if isinstance(p, str))
    return ""


def render_prompt(messages: Sequence[Any]) -> str:
    """Render a chat as one text: a single message unchanged, several as `role: text` paragraphs.

    Args:
        messages: OpenAI chat messages; an entry without text is ignored.
    """
    turns = [
        (str(m.get("role", "user")), message_text(m.get("content")))
        for m in messages
        if isinstance(m, dict)
    ]
    turns = [(role, text) for role, text in turns if text]
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in turns)


def split_instructions(messages: Sequence[Any]) -> tuple[str, list[Any]]:
    """Split a chat into its leading system messages and the rest.

    Args:
        messages: OpenAI chat messages.

    Returns:
        The text of the leading messages of the roles `system` and `developer`, and the messages
        behind them.
    """
    leading = 0
    while leading < len(messages):
        message = messages[leading]
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in INSTRUCTION_ROLES:
            break
        leading += 1
    texts = [message_text(message.get("content")) for message in messages[:leading]]
    return "\n\n".join(text for text in texts if text), list(messages[leading:])


def render_request(messages: Sequence[Any]) -> str:
    """Render a chat as the predictor reads it: without the leading system messages.

    An application sends the same ones with every request. They would fill the window that the
    predictor reads, and hide what distinguishes the requests. A chat that has no other text is
    rendered whole.
    """
    instructions, rest = split_instructions(messages)
    return render_prompt(rest) or instructions


def clip(text: str, limit: int = MAX_PROMPT_CHARS) -> str:
    """Cut a text to `limit` characters, keeping both ends: the question is often first or last."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + text[-(limit - half) :]
