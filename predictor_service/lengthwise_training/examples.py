"""Reads length rows for `lengthwise train` and keeps apart what ended and what was cut.

Beside dataset.py, which lays out the bundled model's records: here an answer that was cut at a cap
is not a short answer but a lower bound, several folds are kept apart, and a row may be a dialogue.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.prompts import clip, render_prompt
from lengthwise_training.dataset import (
    NEAR_DUPLICATE_SOURCES,
    Dataset,
    fold_of,
    near_duplicates,
)

Rounds = Literal["single", "multi"]

#: Prompts are dealt into this many folds; 0 is the test set (as in dataset.py), 1 the validation.
FOLDS = 5
TEST_FOLD, VALIDATION_FOLD = 0, 1

#: Keys that may name the cap a row was sampled with, tokens.
_CAPS = ("cap", "cap_tokens", "max_tokens")


@dataclass(frozen=True)
class Row:
    """The lengths that one LLM gave for one prompt.

    Attributes:
        prompt: What the predictor would be asked, clipped as in service.
        llm: Name of the LLM that answered.
        source: Where the row is from.
        tokens: Independent samples of the length, tokens, each > 0.
        cut: For each sample, whether a cap ended it, so that it would have been longer.
    """

    prompt: str
    llm: str
    source: str
    tokens: tuple[int, ...]
    cut: tuple[bool, ...]


@dataclass(frozen=True)
class Examples:
    """Rows with each distinct prompt once.

    Attributes:
        prompts: The distinct prompts.
        llms: The LLMs, sorted.
        sources: Source of each row.
        prompt_index: int64, (rows,), which prompt each row is about.
        llm_index: int64, (rows,), which LLM answered.
        tokens: float32, (rows, n), lengths, tokens; 1 where there is no sample.
        known: bool, (rows, n), where there is a sample.
        cut: bool, (rows, n), where a cap ended it.
        folds: int64, (rows,), 0 to `FOLDS` - 1, by prompt; near-duplicates share one.
        left_out: Rows that were not used, by reason.
    """

    prompts: list[str]
    llms: list[str]
    sources: list[str]
    prompt_index: NDArray[np.int64]
    llm_index: NDArray[np.int64]
    tokens: NDArray[np.float32]
    known: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    folds: NDArray[np.int64]
    left_out: dict[str, int]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.prompt_index)

    def rows_where(self, keep: NDArray[np.bool_]) -> Examples:
        """Only some rows, and the prompts that they need; `keep`: bool, (rows,)."""
        used, prompt_index = np.unique(self.prompt_index[keep], return_inverse=True)
        return replace(
            self,
            prompts=[self.prompts[i] for i in used],
            sources=[s for s, k in zip(self.sources, keep, strict=True) if k],
            prompt_index=prompt_index.astype(np.int64),
            llm_index=self.llm_index[keep],
            tokens=self.tokens[keep],
            known=self.known[keep],
            cut=self.cut[keep],
            folds=self.folds[keep],
        )

    def lengths(self) -> NDArray[np.float32]:
        """Every sample of every row, cut ones at their cap: float32, (samples,), tokens."""
        return self.tokens[self.known]

    def as_dataset(self) -> Dataset:
        """The same rows as evaluate and baseline read them; rows with fewer samples repeat them."""
        width = self.tokens.shape[1]
        samples = [np.resize(t[k], width) for t, k in zip(self.tokens, self.known, strict=True)]
        prompt_sources = [""] * len(self.prompts)
        for prompt, source in zip(self.prompt_index, self.sources, strict=True):
            prompt_sources[prompt] = source
        return Dataset(
            prompts=self.prompts,
            sources=prompt_sources,
            groups=self.prompts,
            llms=self.llms,
            prompt_index=self.prompt_index,
            llm_index=self.llm_index,
            samples=np.array(samples, dtype=np.float32).reshape(len(self), width),
            row_sources=self.sources,
        )

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any row does; tells a resumed run its data."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(prompt.encode("utf-8", "replace") + b"\0")
        for llm in self.llms:
            digest.update(llm.encode() + b"\0")
        for array in (self.prompt_index, self.llm_index, self.tokens, self.cut, self.folds):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def read_rows(
    path: Path,
    *,
    rounds: Rounds = "multi",
    llms: Sequence[str] | None = None,
    cap_tokens: int | None = None,
) -> tuple[list[Row], Counter[str]]:
    """All usable rows of a JSONL file (or of all such files in a folder), and what was left out.

    Args:
        path: `*.jsonl` or `*.jsonl.gz`: `{prompt or messages, model, output_tokens, source?,
            finish?, censored?, cap?}`; `output_tokens` is a number or a list of samples, `finish`
            (`length` is a cut) and `censored` (true is one) a value for all or a list alike.
        rounds: `multi` reads a dialogue as serving does, turn by turn; `single` keeps only rows
            without an earlier answer in them.
        llms: Keep these only; None keeps all.
        cap_tokens: Samples this long or longer were cut, whatever the row says, tokens.

    Raises:
        FileNotFoundError: There is no such file, or no usable row in it.
    """
    files = [path] if path.is_file() else [*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")]
    rows, left_out = [], Counter[str]()
    for file in sorted(files):
        for record in _json_lines(file):
            row = parse_row(record, rounds=rounds, cap_tokens=cap_tokens)
            if isinstance(row, str):
                left_out[row] += 1
            elif llms is not None and row.llm not in llms:
                left_out["another LLM"] += 1
            else:
                rows.append(row)
    if not rows:
        raise FileNotFoundError(
            f"no usable row in {path} ({dict(left_out) or 'it is empty or missing'}); each line "
            'must be like {"prompt": "...", "model": "...", "output_tokens": [12, 15]}'
        )
    return rows, left_out


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def parse_row(
    record: dict[str, Any], *, rounds: Rounds = "multi", cap_tokens: int | None = None
) -> Row | str:
    """One record as a `Row`, or the reason why it is none; see `read_rows`."""
    if record.get("degenerate"):
        return "marked degenerate"
    text, messages = record.get("prompt"), record.get("messages")
    if text is None and isinstance(messages, list):
        if rounds == "single" and any(
            isinstance(m, dict) and m.get("role") == "assistant" for m in messages
        ):
            return "a later round of a dialogue"
        text = render_prompt(messages)
    if not isinstance(text, str) or not text.strip():
        return "no prompt"
    tokens, llm = record.get("output_tokens"), record.get("model")
    if llm is None or tokens is None:
        return "no model or no output_tokens"
    samples = tokens if isinstance(tokens, list) else [tokens]
    cut = _cut(record, samples, cap_tokens)
    if cut is None:
        return "finish or censored is not as long as output_tokens"
    pairs = [(int(t), c) for t, c in zip(samples, cut, strict=True) if t > 0]
    if not pairs:
        return "no answer"
    return Row(
        prompt=clip(text),
        llm=str(llm),
        source=str(record.get("source", "own")),
        tokens=tuple(t for t, _ in pairs),
        cut=tuple(c for _, c in pairs),
    )


def _cut(record: dict[str, Any], samples: list[Any], cap_tokens: int | None) -> list[bool] | None:
    """Whether each sample was cut, by any of the marks that say so; None if they do not fit."""
    cap = cap_tokens or next((record[c] for c in _CAPS if record.get(c)), None)
    out = [cap is not None and t >= cap for t in samples]
    for name, bad in (("finish", "length"), ("censored", True)):
        marks = record.get(name)
        if not isinstance(marks, list):
            marks = [marks] * len(samples)
        if len(marks) != len(samples):
            return None
        out = [o or m == bad for o, m in zip(out, marks, strict=True)]
    return out


def layout(rows: Iterable[Row], left_out: Counter[str] | None = None) -> Examples:
    """Lay out rows by distinct prompt and deal the folds; samples of a (prompt, LLM) are pooled."""
    pooled: dict[tuple[str, str, str], list[tuple[int, bool]]] = defaultdict(list)
    for row in rows:
        pooled[(row.prompt, row.llm, row.source)].extend(zip(row.tokens, row.cut, strict=True))
    prompts: dict[str, int] = {}
    groups: list[str] = []
    duplicates: dict[str, list[str]] = defaultdict(list)
    for prompt, _, source in pooled:
        if prompt not in prompts:
            prompts[prompt] = len(prompts)
            groups.append(prompt)
            if source in NEAR_DUPLICATE_SOURCES:
                duplicates[source].append(prompt)
    for texts in duplicates.values():
        for text, leader in zip(texts, near_duplicates(texts), strict=True):
            groups[prompts[text]] = leader
    folds = np.array([fold_of(g, FOLDS) for g in groups], dtype=np.int64)
    llms = sorted({llm for _, llm, _ in pooled})
    width = max(len(s) for s in pooled.values())
    tokens = np.ones((len(pooled), width), dtype=np.float32)
    known, cut = np.zeros(tokens.shape, dtype=bool), np.zeros(tokens.shape, dtype=bool)
    for i, samples in enumerate(pooled.values()):
        tokens[i, : len(samples)] = [t for t, _ in samples]
        cut[i, : len(samples)] = [c for _, c in samples]
        known[i, : len(samples)] = True
    prompt_index = np.array([prompts[p] for p, _, _ in pooled], dtype=np.int64)
    return Examples(
        prompts=list(prompts),
        llms=llms,
        sources=[source for _, _, source in pooled],
        prompt_index=prompt_index,
        llm_index=np.array([llms.index(m) for _, m, _ in pooled], dtype=np.int64),
        tokens=tokens,
        known=known,
        cut=cut,
        folds=folds[prompt_index],
        left_out=dict(left_out or {}),
    )


def draw(examples: Examples, *, sample: int | None, test_rows: int, seed: int) -> Examples:
    """A random part: `sample` rows to learn from, and at most `test_rows` of the test fold.

    Args:
        examples: All rows.
        sample: Rows outside the test fold; None keeps them all.
        test_rows: Rows of the test fold at most.
        seed: Of the choice.
    """
    rng = np.random.default_rng(seed)
    keep = np.zeros(len(examples), dtype=bool)
    for members, most in (
        (np.flatnonzero(examples.folds == TEST_FOLD), test_rows),
        (np.flatnonzero(examples.folds != TEST_FOLD), sample or len(examples)),
    ):
        keep[rng.permutation(members)[:most]] = True
    return examples.rows_where(keep)
