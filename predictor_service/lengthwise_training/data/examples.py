"""The rows of `lengthwise train`, as arrays and in folds.

`bundled.dataset` lays out the bundled model's records. Here, an answer that was cut at a cap is a
lower bound instead of a short answer, there is a fold to calibrate on, and dialogues can be left
out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise_training.data.rows import BadLines, LengthRow, LengthTable, read
from lengthwise_training.data.splits import NEAR_DUPLICATE_SOURCES, fold_of, near_duplicates

Rounds = Literal["single", "multi"]

#: Prompts are dealt into this many folds; 0 is the test set, 1 the validation set.
FOLDS = 5
TEST_FOLD, VALIDATION_FOLD = 0, 1


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
        """Return the number of rows."""
        return len(self.prompt_index)

    def rows_where(self, keep: NDArray[np.bool_]) -> Examples:
        """Keep only some rows, and the prompts that they need; `keep`: bool, (rows,)."""
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
        """Return every sample of every row, cut ones at their cap: float32, (samples,), tokens."""
        return self.tokens[self.known]

    def as_table(self) -> LengthTable:
        """Return the same rows as a table for scoring."""
        return LengthTable(
            [
                LengthRow(
                    prompt=self.prompts[prompt],
                    llm=self.llms[llm],
                    source=source,
                    samples=tuple(int(t) for t in tokens[known]),
                    censored=tuple(bool(c) for c in cut[known]),
                )
                for prompt, llm, source, tokens, known, cut in zip(
                    self.prompt_index,
                    self.llm_index,
                    self.sources,
                    self.tokens,
                    self.known,
                    self.cut,
                    strict=True,
                )
            ]
        )

    def fingerprint(self) -> str:
        """Return sixteen hex digits that identify the rows; a continued run compares them."""
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
) -> tuple[list[LengthRow], Counter[str]]:
    """Read the rows of a file, or of all files in a folder, and count what was left out.

    Args:
        path: `*.jsonl` or `*.jsonl.gz`, see `rows`.
        rounds: `multi` reads a dialogue as serving does, turn by turn; `single` keeps only rows
            without an earlier answer in them.
        llms: Keep these only; None keeps all.
        cap_tokens: Samples this long or longer count as cut, in every row, tokens.

    Raises:
        BadLines: A file is missing or of another kind, or no row is left; the message says which.
    """
    files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")]) if path.is_dir() else [path]
    kept: list[LengthRow] = []
    left_out = Counter[str]()
    for file in files:
        found = read(file)
        left_out.update({"marked degenerate": found.degenerate, "unusable": len(found.bad)})
        for row in found.rows:
            usable = usable_row(row, rounds=rounds, llms=llms, cap_tokens=cap_tokens)
            if isinstance(usable, str):
                left_out[usable] += 1
            else:
                kept.append(usable)
    left_out = +left_out  # without the zeros
    if not kept:
        raise BadLines(
            f"no row to learn from in {path} ({dict(left_out) or 'there is no such file in it'}); "
            'each line must be like {"prompt": "...", "model": "...", "output_tokens": [12, 15]}'
        )
    return kept, left_out


def usable_row(
    row: LengthRow,
    *,
    rounds: Rounds = "multi",
    llms: Sequence[str] | None = None,
    cap_tokens: int | None = None,
) -> LengthRow | str:
    """Return the row to learn from, or the reason why it is left out; see `read_rows`."""
    if rounds == "single" and any(m.get("role") == "assistant" for m in row.messages or ()):
        return "a later round of a dialogue"
    if llms is not None and row.llm not in llms:
        return "another LLM"
    pairs = [
        (t, c or (cap_tokens is not None and t >= cap_tokens))
        for t, c in zip(row.samples, row.censored, strict=True)
        if t > 0
    ]
    if not pairs:
        return "no answer"
    return replace(row, samples=tuple(t for t, _ in pairs), censored=tuple(c for _, c in pairs))


def layout(rows: Iterable[LengthRow], left_out: Counter[str] | None = None) -> Examples:
    """Lay out rows by distinct prompt and deal the folds; samples of a (prompt, LLM) are pooled."""
    pooled: dict[tuple[str, str, str], list[tuple[int, bool]]] = defaultdict(list)
    for row in rows:
        pooled[(row.prompt, row.llm, row.source)].extend(
            zip(row.samples, row.censored, strict=True)
        )
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
    """Draw a random part: `sample` rows to learn from, and at most `test_rows` of the test fold.

    Args:
        examples: All rows.
        sample: Rows outside the test fold; None keeps them all.
        test_rows: Rows of the test fold at most.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    keep = np.zeros(len(examples), dtype=bool)
    for members, most in (
        (np.flatnonzero(examples.folds == TEST_FOLD), test_rows),
        (np.flatnonzero(examples.folds != TEST_FOLD), sample or len(examples)),
    ):
        keep[rng.permutation(members)[:most]] = True
    return examples.rows_where(keep)
