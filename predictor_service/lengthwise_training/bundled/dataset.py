"""Reads the length records of the bundled model, and lays them out for training.

A record is one JSON object per line, in `*.jsonl` or `*.jsonl.gz`: `prompt` (or `messages`),
`model`, `output_tokens` (an int, or a list of independent samples), and optionally `source`. Called
by `train`, `evaluate` and `unseen`. `lengthwise train` uses `data.examples` instead, which also
keeps track of answers that were cut at a cap.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.prompts import clip, render_request
from lengthwise_training.data.sources import REDISTRIBUTABLE_SOURCES
from lengthwise_training.data.splits import NEAR_DUPLICATE_SOURCES, fold_of, near_duplicates

#: Base models, which do not stop before the cap: their lengths are those of the cap.
EXCLUDED_LLMS = ("openai/davinci",)


@dataclass(frozen=True)
class LengthRecord:
    """The lengths of one LLM's answers to one prompt.

    Attributes:
        prompt: The predictor's input, clipped as in service.
        llm: Name of the LLM (or `human`) that answered.
        source: Where the record is from.
        output_tokens: Independent samples of the length, tokens, each > 0.
    """

    prompt: str
    llm: str
    source: str
    output_tokens: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """Records with each distinct prompt once, so that it is encoded once for all its LLMs.

    Attributes:
        prompts: The distinct prompts.
        sources: Source of each prompt.
        groups: A name for each prompt; near-duplicates share one.
        llms: The LLMs, sorted.
        prompt_index: int64, (rows,), which prompt each row is about.
        llm_index: int64, (rows,), which LLM answered.
        samples: float32, (rows, n), output tokens; a row with fewer than n samples repeats them.
        row_sources: Source of each row.
    """

    prompts: list[str]
    sources: list[str]
    groups: list[str]
    llms: list[str]
    prompt_index: NDArray[np.int64]
    llm_index: NDArray[np.int64]
    samples: NDArray[np.float32]
    row_sources: list[str]

    def rows_where(self, keep: NDArray[np.bool_]) -> Dataset:
        """Keep only some rows, and all prompts and LLMs; `keep`: bool, (rows,)."""
        return Dataset(
            prompts=self.prompts,
            sources=self.sources,
            groups=self.groups,
            llms=self.llms,
            prompt_index=self.prompt_index[keep],
            llm_index=self.llm_index[keep],
            samples=self.samples[keep],
            row_sources=[s for s, k in zip(self.row_sources, keep, strict=True) if k],
        )


def read_records(
    directory: Path,
    *,
    sources: Sequence[str] | None = REDISTRIBUTABLE_SOURCES,
    excluded_llms: Sequence[str] = EXCLUDED_LLMS,
) -> list[LengthRecord]:
    """Read all usable records under a folder.

    Rows that upstream marked `degenerate` (a sample that did not stop before the cap) are left out.

    Args:
        directory: Holds `*.jsonl` and `*.jsonl.gz`; files of other records are skipped.
        sources: Which sources to keep; None keeps all, and a record without one is `own`.
        excluded_llms: LLMs to leave out.

    Raises:
        FileNotFoundError: There is no usable record.
    """
    records = []
    for path in sorted([*directory.glob("*.jsonl"), *directory.glob("*.jsonl.gz")]):
        for row in _json_lines(path):
            record = _record(row)
            if record is None or record.llm in excluded_llms:
                continue
            if sources is None or record.source in sources:
                records.append(record)
    if not records:
        raise FileNotFoundError(
            f"no usable length record in {directory}: it must hold *.jsonl or *.jsonl.gz files "
            f"with `prompt`, `model`, `output_tokens` and a source among {sources or 'any'}"
        )
    return records


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _record(row: dict[str, Any]) -> LengthRecord | None:
    if "output_tokens" not in row or "model" not in row or row.get("degenerate"):
        return None
    text = row.get("prompt")
    if text is None and "messages" in row:
        text = render_request(row["messages"])
    if not isinstance(text, str) or not text.strip():
        return None
    tokens = row["output_tokens"]
    samples = tuple(int(t) for t in (tokens if isinstance(tokens, list) else [tokens]) if t > 0)
    if not samples:
        return None
    return LengthRecord(clip(text), str(row["model"]), str(row.get("source", "own")), samples)


def build_dataset(records: Iterable[LengthRecord]) -> Dataset:
    """Lay out records by distinct prompt; samples of the same (prompt, LLM) are pooled."""
    pooled: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for r in records:
        pooled[(r.prompt, r.llm, r.source)].extend(r.output_tokens)
    prompts: dict[str, int] = {}
    prompt_sources: list[str] = []
    for prompt, _, source in pooled:
        if prompt not in prompts:
            prompts[prompt] = len(prompts)
            prompt_sources.append(source)
    llms = sorted({llm for _, llm, _ in pooled})
    llm_ids = {llm: i for i, llm in enumerate(llms)}
    width = min(10, max(len(s) for s in pooled.values()))
    return Dataset(
        prompts=list(prompts),
        sources=prompt_sources,
        groups=_groups(list(prompts), prompt_sources),
        llms=llms,
        prompt_index=np.array([prompts[p] for p, _, _ in pooled], dtype=np.int64),
        llm_index=np.array([llm_ids[m] for _, m, _ in pooled], dtype=np.int64),
        samples=np.array([np.resize(s, width) for s in pooled.values()], dtype=np.float32),
        row_sources=[source for _, _, source in pooled],
    )


def validation_rows(dataset: Dataset, *, folds: int = 5) -> NDArray[np.bool_]:
    """Choose the rows for validation: bool, (rows,); about 1 in `folds`, by prompt, never by row.

    A prompt's fold is a hash of its group, so the split does not change when records are added. The
    last decimal digit of the hash is not used: the separate test set was cut by it.
    """
    held = np.array([fold_of(g, folds) == 0 for g in dataset.groups])
    return np.asarray(held[dataset.prompt_index])


def _groups(prompts: list[str], sources: list[str]) -> list[str]:
    """Return each prompt's group: itself, or the smallest text among its near-duplicates."""
    groups = list(prompts)
    for source in NEAR_DUPLICATE_SOURCES:
        members = [i for i, s in enumerate(sources) if s == source]
        for i, leader in zip(members, near_duplicates([prompts[i] for i in members]), strict=True):
            groups[i] = leader
    return groups
