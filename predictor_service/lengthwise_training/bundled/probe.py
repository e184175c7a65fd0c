"""Ranks forty everyday prompts by predicted length, for a person to look at.

`python -m lengthwise_training.bundled.probe --model DIR` prints them, shortest first. No prompt is
in a training set, nothing is tuned on them, and their answers were not measured. The printed share
is that of pairs in the right order: a prompt that people would call short, and one that they would
call long.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lengthwise_predictor.model import LengthModel
from lengthwise_predictor.settings import BUNDLED

SHORT = (
    "What is the capital of France?",
    "What is 17 + 25?",
    "Who wrote Pride and Prejudice?",
    "Is the sun a star? Answer yes or no.",
    "What is the chemical symbol for gold?",
    "How many legs does a spider have?",
    "Translate 'good morning' into Spanish.",
    "What year did the Second World War end?",
    "Name the largest ocean.",
    "What is the opposite of cold?",
    "Which planet is closest to the sun?",
    "Give me one word that rhymes with cat.",
    "What colour do you get from blue and yellow?",
    "Who was the first person on the moon?",
    "What is the square root of 81?",
    "Is a tomato a fruit?",
    "Say hello.",
    "How do you spell 'necessary'?",
    "What is the currency of Japan?",
    "Reply with just the word OK.",
)
LONG = (
    "Write a 1000-word essay about the causes of the French Revolution.",
    "Write a short story about a dragon who is afraid of fire.",
    "Explain how the internet works, step by step, for a beginner.",
    "Create a detailed seven-day meal plan with recipes.",
    "Describe the history of the Roman Empire from its founding to its fall.",
    "Write a blog post about the benefits of learning a musical instrument.",
    "Compare Python and Java in detail, with examples of each.",
    "Plan a two-week trip through Italy with a schedule for each day.",
    "Explain quantum mechanics and its most important experiments.",
    "Write a cover letter for a job as a software engineer.",
    "Write a complete guide to growing tomatoes at home.",
    "List 20 ideas for a birthday party and explain each one.",
    "Discuss the advantages and disadvantages of nuclear power.",
    "Write a dialogue between a teacher and a student about climate change.",
    "Design a lesson plan for teaching fractions to ten-year-olds.",
    "Write a speech for a wedding, at least five paragraphs long.",
    "Explain how a car engine works and what each part does.",
    "Write a Python program for a tic-tac-toe game with comments.",
    "Summarise the plot of Romeo and Juliet act by act.",
    "Write a business plan for a small coffee shop.",
)


def ranked(model: LengthModel, llm: str) -> list[tuple[float, str, str]]:
    """Return (p50 in tokens, `short` or `long`, prompt), shortest first."""
    prompts = [("short", p) for p in SHORT] + [("long", p) for p in LONG]
    return sorted((model.predict(p, llm).p50_tokens, kind, p) for kind, p in prompts)


def in_order(ranks: Sequence[tuple[float, str, str]]) -> float:
    """Return the share of (short, long) pairs in that order, 0 to 1."""
    pairs = right = 0
    for short, kind, _ in ranks:
        for long, other, _ in ranks:
            if (kind, other) == ("short", "long"):
                pairs += 1
                right += short < long
    return right / pairs


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ranking."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED, help="folder with model.onnx")
    parser.add_argument("--llm", default="smollm2-135m", help="LLM to predict for")
    options = parser.parse_args(arguments)
    ranks = ranked(LengthModel(options.model, provider="cpu"), options.llm)
    for tokens, kind, prompt in ranks:
        print(f"{tokens:7.1f}  {kind:5}  {prompt}")  # noqa: T201
    print(f"\n{in_order(ranks):.1%} of short-long pairs in order")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
