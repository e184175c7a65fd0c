"""The facts about a request body that admission needs. The OpenAI endpoints make it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lengthwise_queue.learning.request_text import RequestText
from lengthwise_queue.scheduling.length_bounds import NATURAL, LengthBounds


@dataclass(frozen=True, kw_only=True)
class ParsedRequest:
    """The facts about a valid request body on which admission, pricing and delivery depend.

    `prompts` has one entry for each prompt of the body: the texts that the engine will certainly
    read, or, for a prompt of token ids, the number of ids. `text` is what the predictor reads: of
    a chat without its leading system messages, whose text is `instructions`.
    """

    model: str
    stream: bool
    max_tokens: int | None  #: The client's cap on the length of one answer, tokens.
    answers: int  #: Number of answers requested: prompts x n.
    text: str | None  #: The text for the predictor, clipped; None: the body has no text.
    prompts: list[list[str] | int]
    prompt_param: str  #: `messages` or `prompt`.
    prompt_texts: Sequence[Any] = ()  #: Of a completion: the prompts as they are in the body.
    messages: Sequence[Mapping[str, Any]] | None = None  #: Of a chat; None: a completion.
    instructions: str = ""  #: The text of a chat's leading system messages.
    facts: Mapping[str, Any] = field(default_factory=dict)  #: From `request_facts`.
    bounds: LengthBounds = NATURAL  #: What the body makes certain about the length of one answer.

    def request_text(self) -> RequestText:
        """Return the parts on which the length of an answer is predicted."""
        return RequestText(
            text=self.text,
            instructions=self.instructions,
            messages=self.messages,
            prompts=self.prompt_texts,
            facts=self.facts,
            answers=self.answers,
        )
