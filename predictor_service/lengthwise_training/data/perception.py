"""Self-perception: the LLM itself is asked how long its answer will be, and pays for that.

Two ways, after Zheng et al., "Response Length Perception and Sequence Scheduling", 2023; the
wordings are ours. What is parsed may be anything, so the parser expects anything. Called by
evaluate, for a row of its table.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from tqdm import tqdm

from lengthwise_training.compare.scores import Said
from lengthwise_training.data.chat_export import INSTRUCTION
from lengthwise_training.data.openai_asker import Asker, AskFailed
from lengthwise_training.data.rows import LengthTable


class Wording(StrEnum):
    """What is added to the prompt."""

    #: The estimate comes first, the answer after it: nothing is asked twice.
    PERCEIVE_THEN_ANSWER = "perceive then answer"
    #: Only the estimate: an extra call.
    LENGTH_ONLY = "length only"


_ASKED = {
    Wording.PERCEIVE_THEN_ANSWER: (
        "\n\nBegin with one line of the form `Length: N tokens`, your own estimate of how long "
        "your whole answer is going to be. Write the answer below that line."
    ),
    Wording.LENGTH_ONLY: INSTRUCTION,
}

#: Tokens that are read of the reply: an estimate that has not come by then does not come.
_READ = {Wording.PERCEIVE_THEN_ANSWER: 24, Wording.LENGTH_ONLY: 12}

#: Tokens for a word of English, of a paragraph and of a page, roughly.
_TOKENS_PER = {"word": 1.33, "sentence": 25.0, "paragraph": 110.0, "page": 600.0, "line": 15.0}

#: An estimate beyond this is no estimate, tokens.
_MOST = 1_000_000.0

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {name: value for value, name in enumerate(_ONES)}
_SMALL |= {name: 10 * (i + 2) for i, name in enumerate(_TENS)}
_LARGE = {"hundred": 100.0, "thousand": 1000.0, "dozen": 12.0}
_UNIT = r"(token|word|sentence|paragraph|page|line)s?"
_DIGITS = r"\d{1,3}(?:[,_ ]\d{3})+(?!\d)|\d+(?:\.\d+)?"
_NUMBER = rf"(?:{_DIGITS})\s?k?\b"
_WORDED = "|".join((*_SMALL, *_LARGE))
_SPELLED = rf"(?:(?:a|an)\s+)?(?:{_WORDED})(?:(?:\s+and)?[\s-]+(?:{_WORDED}))*"
_RANGE = re.compile(
    rf"({_NUMBER}|\b{_SPELLED}\b)\s*(?:-|–|—|\bto\b|\band\b|\bor\b)\s*({_NUMBER}|\b{_SPELLED}\b)"  # noqa: RUF001
    rf"(?:\s*{_UNIT}\b)?",
    re.IGNORECASE,
)
_SINGLE = re.compile(rf"({_NUMBER}|\b{_SPELLED}\b)(?:\s*{_UNIT}\b)?", re.IGNORECASE)

#: What stands before a number without a unit that is a length all the same.
_NAMED = re.compile(r"\b(?:length|tokens?|estimat\w+)\b[^.\d]{0,30}$", re.IGNORECASE)
_LETTER, _DIGIT = re.compile(r"[^\W\d_]"), re.compile(r"\d")

#: Words before such a number, at most, where nothing names it; and letters looked back at.
_FEW_WORDS, _NEAR = 4, 60


def stated_tokens(reply: str) -> float | None:
    """The length that a reply states, tokens; None where it states none.

    Tokens come before words, these before sentences, lines, paragraphs and pages, and a number
    without a unit last; the first of its kind counts, and of a range the middle. A number without a
    unit counts where it is called a length, or is nearly all that its line says: an LLM that
    answers the prompt instead writes years and numbered lists, and of 132 numbers in 300 replies of
    a small one 75 were such.
    """
    found: list[tuple[int, int, float]] = []
    taken: list[range] = []
    for match in _RANGE.finditer(reply):
        if match[3] is None and not _bare(reply, match):
            continue
        low, high = _value(match[1]), _value(match[2])
        if low is not None and high is not None and low <= high:
            found.append((_rank(match[3]), match.start(), (low + high) / 2 * _per(match[3])))
            taken.append(range(match.start(), match.end()))
    for match in _SINGLE.finditer(reply):
        if any(match.start() in span for span in taken):
            continue
        if match[2] is None and not _bare(reply, match):
            continue
        value = _value(match[1])
        if value is not None:
            found.append((_rank(match[2]), match.start(), value * _per(match[2])))
    usable = [f for f in found if math.isfinite(f[2]) and 0 < f[2] <= _MOST]
    return min(usable)[2] if usable else None


def _bare(reply: str, match: re.Match[str]) -> bool:
    """Whether a number without a unit is a length."""
    begin = reply.rfind("\n", 0, match.start()) + 1
    before = reply[max(begin, match.start() - _NEAR) : match.start()]
    if _NAMED.search(before):
        return True
    after = reply[match.end() : match.end() + _NEAR].partition("\n")[0]
    short = match.start() - begin <= _NEAR and len(before.split()) <= _FEW_WORDS
    return short and not _DIGIT.search(before) and not _LETTER.search(after)


def _rank(unit: str | None) -> int:
    return 3 if unit is None else {"token": 0, "word": 1}.get(unit.lower(), 2)


def _per(unit: str | None) -> float:
    return _TOKENS_PER.get(unit.lower(), 1.0) if unit else 1.0


def _value(text: str) -> float | None:
    plain = re.sub(r"(?<=\d)[,_ ](?=\d{3})", "", text.strip().lower())
    thousand = plain.endswith("k") and plain[0].isdigit()
    try:
        return float(plain.removesuffix("k").strip()) * (1000.0 if thousand else 1.0)
    except ValueError:
        pass
    total = part = 0.0
    for word in re.split(r"[\s-]+", plain):
        if word in _SMALL:
            part += _SMALL[word]
        elif word in _LARGE:
            part = max(part, 1.0) * _LARGE[word]
            if word == "thousand":
                total, part = total + part, 0.0
        elif word not in ("a", "an", "and"):
            return None
    return total + part


@dataclass
class Cost:
    """What the estimates cost the LLM.

    Attributes:
        asked: Prompts.
        stated: Of these, how many got a length that could be read.
        failed: Of these, how many were not answered.
        output_tokens: Written for the estimates.
        prompt_tokens: Read for them, as the endpoint counted; 0 where it did not.
        seconds: Spent, added over the requests.
    """

    asked: int = 0
    stated: int = 0
    failed: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """With the means a prompt."""
        many = max(self.asked, 1)
        return asdict(self) | {
            "tokens_per_prompt": self.output_tokens / many,
            "seconds_per_prompt": self.seconds / many,
        }


class Perceiver:
    """An LLM that is asked for its own lengths, as a predictor of a comparison."""

    def __init__(
        self, url: str, model: str, wording: Wording, *, api_key: str | None, concurrency: int
    ) -> None:
        """Nothing is asked yet."""
        self._url, self._model, self._wording = url, model, wording
        self._api_key, self._concurrency = api_key, concurrency
        self.cost = Cost()
        self.replies: list[str] = []  #: As they came, in the order of the prompts.

    def predict(self, table: LengthTable) -> Said:
        """Ask once for each prompt; where nothing can be read the median of the others stands.

        A scheduler must put such a request somewhere, so it counts: `cost.stated` says how many
        could be read.

        Raises:
            ValueError: The endpoint answers nothing at all.
        """
        stated = asyncio.run(self._all(table.prompts))
        known = [s for s in stated if s is not None]
        if self.cost.failed == self.cost.asked:
            raise ValueError(f"the LLM at {self._url} answered none of {self.cost.asked} requests")
        median = float(np.median(known)) if known else 1.0
        filled = np.array([median if s is None else s for s in stated])
        return Said(filled[table.prompt_index])

    async def _all(self, prompts: Sequence[str]) -> list[float | None]:
        bar = tqdm(total=len(prompts), desc=self._wording.value, disable=None)
        async with Asker(
            self._url, self._model, api_key=self._api_key, concurrency=self._concurrency
        ) as asker:

            async def one(prompt: str) -> tuple[str, float | None]:
                self.cost.asked += 1
                try:
                    answer = await asker.ask(
                        [{"role": "user", "content": prompt + _ASKED[self._wording]}],
                        max_tokens=_READ[self._wording],
                        temperature=0.0,
                    )
                except AskFailed:
                    self.cost.failed += 1
                    return "", None
                finally:
                    bar.update()
                self.cost.output_tokens += answer.output_tokens
                self.cost.prompt_tokens += answer.prompt_tokens or 0
                self.cost.seconds += answer.seconds
                said = stated_tokens(answer.text)
                self.cost.stated += said is not None
                return answer.text, said

            both = await asyncio.gather(*(one(p) for p in prompts))
        bar.close()
        self.replies = [text for text, _ in both]
        return [said for _, said in both]


def perceivers(
    url: str,
    model: str,
    wordings: Sequence[Wording],
    *,
    api_key: str | None = None,
    concurrency: int = 4,
) -> dict[str, Perceiver]:
    """One predictor for each wording, by its name in the table."""
    return {
        f"self-perception, {wording.value}": Perceiver(
            url, model, wording, api_key=api_key, concurrency=concurrency
        )
        for wording in wordings
    }
