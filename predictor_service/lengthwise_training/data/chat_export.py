"""Writes length records as chats, for tuning an LLM to state the length of its own answer.

It writes two formats that tuning programs (for LoRA, for example) read: OpenAI's chat JSONL, and
ShareGPT's conversations. Called by `lengthwise export-chat`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from lengthwise_training.data.rows import LengthRow

#: The request to the LLM, behind the prompt; the same in service.
INSTRUCTION = (
    "\n\nLeave this unanswered for now. How many tokens would your answer take? "
    "Reply with that number and nothing else."
)


class ChatFormat(StrEnum):
    """The format of a chat."""

    OPENAI = "openai"  #: `{"messages": [{"role", "content"}, ...]}`
    SHAREGPT = "sharegpt"  #: `{"conversations": [{"from", "value"}, ...]}`


class ChatLabel(StrEnum):
    """The sample that is taught."""

    MAX = "max"
    MEAN = "mean"
    PERCENTILE = "percentile"


@dataclass(frozen=True)
class ChatTarget:
    """The number that is taught.

    Attributes:
        label: Of a row's samples.
        percentile: 0 to 100, with `ChatLabel.PERCENTILE`.
        bin_tokens: Rounded up to a multiple of this; 1 leaves it unchanged.
    """

    label: ChatLabel = ChatLabel.MAX
    percentile: float = 80.0
    bin_tokens: int = 50

    def tokens(self, row: LengthRow) -> int:
        """Return the number for one row."""
        samples = np.array(row.samples, dtype=np.float64)
        if self.label is ChatLabel.MAX:
            value = samples.max()
        elif self.label is ChatLabel.MEAN:
            value = samples.mean()
        else:
            value = np.percentile(samples, self.percentile)
        return max(1, math.ceil(round(float(value), 6) / self.bin_tokens)) * self.bin_tokens


def chats(
    rows: Iterable[LengthRow], target: ChatTarget, form: ChatFormat, *, keep_censored: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield one chat for each row: its prompt with the instruction, and the length as the answer.

    Rows with a sample that was cut at the cap are left out: their label would be too short.

    Args:
        rows: To write.
        target: The number that is taught.
        form: The format.
        keep_censored: Keep those rows as well.
    """
    for row in rows:
        if any(row.censored) and not keep_censored:
            continue
        turns = _turns(row)
        role, text = turns[-1]
        turns[-1] = (role, text + INSTRUCTION)
        turns.append(("assistant", str(target.tokens(row))))
        if form is ChatFormat.OPENAI:
            yield {"messages": [{"role": r, "content": t} for r, t in turns]}
        else:
            names = {"user": "human", "assistant": "gpt"}
            yield {"conversations": [{"from": names.get(r, r), "value": t} for r, t in turns]}


def _turns(row: LengthRow) -> list[tuple[str, str]]:
    """Return the row's chat; its prompt, if the chat holds other than text or ends otherwise.

    A usable chat ends with the user.
    """
    if row.messages is None:
        return [("user", row.prompt)]
    turns = [(m.get("role"), m.get("content")) for m in row.messages]
    known = [(r, t) for r, t in turns if isinstance(r, str) and isinstance(t, str)]
    if len(known) < len(turns) or not known or known[-1][0] != "user":
        return [("user", row.prompt)]
    return known
