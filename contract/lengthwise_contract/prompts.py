"""How a chat becomes the one text that the length predictor reads.

Training, the predictor and the queue service must agree on this to the letter, or the model is
asked about text of a kind that it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Longest text that is handed to the predictor, characters; see `clip`.
MAX_PROMPT_CHARS = 16_384


def message_text(content: Any) -> str:
    """The text of one message's `content`: a string, or the text parts of a multimodal list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict)]
        return "\n".join(p for p in parts if isinstance(p, str))
    return ""


def render_prompt(messages: Sequence[Any]) -> str:
    """One text for a chat: a lone user message as it is, otherwise `role: text` paragraphs.

    Args:
        messages: OpenAI chat messages; what is not a message with text adds nothing.
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


def clip(text: str, limit: int = MAX_PROMPT_CHARS) -> str:
    """At most `limit` characters, both ends kept: what is asked stands first or last."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + text[-(limit - half) :]
