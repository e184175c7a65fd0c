"""Self-perception: ask the LLM itself how long its answer will be, and count what that costs.

Two wordings, after Zheng et al., "Response Length Perception and Sequence Scheduling", 2023; the
texts are ours. Called by `lengthwise evaluate`, which shows each wording as one more predictor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from tqdm import tqdm

from lengthwise_training.compare.stated_length import stated_tokens
from lengthwise_training.data.chat_client import ChatClient, ChatRequestFailed
from lengthwise_training.data.chat_export import INSTRUCTION
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.scores import PredictedLengths


class Wording(StrEnum):
    """The text that is added to the prompt."""

    #: The estimate comes first, the answer after it: one call for both.
    PERCEIVE_THEN_ANSWER = "perceive then answer"
    #: Only the estimate: an extra call.
    LENGTH_ONLY = "length only"


_SUFFIX = {
    Wording.PERCEIVE_THEN_ANSWER: (
        "\n\nBegin with one line of the form `Length: N tokens`, your own estimate of how long "
        "your whole answer is going to be. Write the answer below that line."
    ),
    Wording.LENGTH_ONLY: INSTRUCTION,
}

#: Tokens that are read of the reply; a later estimate does not count.
_READ_TOKENS = {Wording.PERCEIVE_THEN_ANSWER: 24, Wording.LENGTH_ONLY: 12}


@dataclass
class PerceptionCost:
    """The cost of the estimates for the LLM.

    Attributes:
        prompts: Prompts that were sent.
        stated: How many of these got a length that could be read.
        failed: How many of these got no reply.
        output_tokens: Written for the estimates.
        prompt_tokens: Read for them, as the endpoint counted; 0 where it did not.
        seconds: Spent, added over the requests.
    """

    prompts: int = 0
    stated: int = 0
    failed: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the fields, and the means per prompt."""
        many = max(self.prompts, 1)
        return asdict(self) | {
            "tokens_per_prompt": self.output_tokens / many,
            "seconds_per_prompt": self.seconds / many,
        }


class SelfPerception:
    """An LLM that is asked for its own lengths, as a predictor of a comparison."""

    def __init__(
        self, url: str, model: str, wording: Wording, *, api_key: str | None, concurrency: int
    ) -> None:
        """Set up the predictor; no request is sent yet."""
        self._url, self._model, self._wording = url, model, wording
        self._api_key, self._concurrency = api_key, concurrency
        self.cost = PerceptionCost()
        self.replies: list[str] = []  #: Unchanged, in the order of the prompts.

    def predict(self, table: LengthTable) -> PredictedLengths:
        """Ask once for each prompt; where no length can be read, use the median of the others.

        A scheduler must place such a request too, so it counts; `cost.stated` is how many lengths
        could be read.

        Raises:
            ValueError: The endpoint answers no request.
        """
        stated = asyncio.run(self._all(table.prompts))
        known = [s for s in stated if s is not None]
        if self.cost.failed == self.cost.prompts:
            raise ValueError(
                f"the LLM at {self._url} answered none of {self.cost.prompts} requests"
            )
        median = float(np.median(known)) if known else 1.0
        filled = np.array([median if s is None else s for s in stated])
        return PredictedLengths(filled[table.prompt_index])

    async def _all(self, prompts: Sequence[str]) -> list[float | None]:
        bar = tqdm(total=len(prompts), desc=self._wording.value, disable=None)
        async with ChatClient(
            self._url, self._model, api_key=self._api_key, concurrency=self._concurrency
        ) as client:

            async def one(prompt: str) -> tuple[str, float | None]:
                self.cost.prompts += 1
                try:
                    reply = await client.complete(
                        [{"role": "user", "content": prompt + _SUFFIX[self._wording]}],
                        max_tokens=_READ_TOKENS[self._wording],
                        temperature=0.0,
                    )
                except ChatRequestFailed:
                    self.cost.failed += 1
                    return "", None
                finally:
                    bar.update()
                self.cost.output_tokens += reply.output_tokens
                self.cost.prompt_tokens += reply.prompt_tokens or 0
                self.cost.seconds += reply.seconds
                tokens = stated_tokens(reply.text)
                self.cost.stated += tokens is not None
                return reply.text, tokens

            both = await asyncio.gather(*(one(p) for p in prompts))
        bar.close()
        self.replies = [text for text, _ in both]
        return [tokens for _, tokens in both]


def self_perceptions(
    url: str,
    model: str,
    wordings: Sequence[Wording],
    *,
    api_key: str | None = None,
    concurrency: int = 4,
) -> dict[str, SelfPerception]:
    """Return one predictor for each wording, by its name in the table."""
    return {
        f"self-perception, {wording.value}": SelfPerception(
            url, model, wording, api_key=api_key, concurrency=concurrency
        )
        for wording in wordings
    }
