"""Made-up lengths that follow from the prompt's topic, as files that `lengthwise train` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOPICS = {"poem": 40, "essay": 900, "capital": 8, "function": 250, "recipe": 400, "name": 4}


def _write_rows(path: Path, *, count: int = 130, cap: int | None = None) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        topic = list(TOPICS)[i % len(TOPICS)]
        prompt = f"Please give me a {topic} for number {i}, and take care of {rng.integers(99)}."
        for llm, factor in (("lab/terse-1b", 1.0), ("lab/chatty-1b", 2.0)):
            drawn = rng.lognormal(np.log(TOPICS[topic] * factor), 0.2, 3)
            samples = np.maximum(1, drawn).astype(int)
            row: dict[str, Any] = {"prompt": prompt, "model": llm}
            if cap is not None:
                row["cap"] = cap
                samples = np.minimum(samples, cap)
            lines.append(json.dumps({**row, "output_tokens": samples.tolist()}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Writes JSONL rows of two LLMs, one twice as wordy: (path, count=, cap=) to the path."""
    return _write_rows
