"""Reads and checks a file of measured lengths.

One JSON object per line, in a `.jsonl` or `.jsonl.gz` file: `prompt` or `messages`, `model`,
`output_tokens` (a number, or a list of independent samples), and optionally `source`, `cap`,
`censored`, `finish` (`length` is a cut), `degenerate`, `application`, `facts` (of the request
beside its text, as in `PredictRequest`). Called by `lengthwise evaluate`, `characterize`,
`export-chat` and, through `examples`, by `train`. The training of the bundled model reads folders
through `bundled.dataset`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_contract.prompts import clip, render_request
from lengthwise_contract.request_facts import request_facts

Array = NDArray[np.float64]

#: Names of the LLM and source of a row that names none.
UNNAMED_LLM, UNNAMED_SOURCE = "unknown", "own"

#: Largest accepted length, tokens.
_MOST_TOKENS = 1_000_000_000

#: A file with a larger share of unusable lines is refused: it is probably the wrong file.
MOST_BAD_LINES = 0.1


class BadLines(Exception):
    """The file cannot be used; the message names the file, the line and the fault."""


@dataclass(frozen=True)
class LengthRow:
    """The lengths of one LLM's answers to one prompt.

    Attributes:
        prompt: The text that the predictor gets, clipped as in service.
        llm: Name of the LLM (or `human`).
        source: Where the row is from.
        samples: Independent lengths, tokens, >= 0.
        censored: For each sample, whether a cap cut it: the real length is at least this.
        messages: The original chat, where the row has one.
        application: Name of the application that sent it, where the row has one.
        facts: The facts of the request beside its text, by the names of `PredictRequest`.
    """

    prompt: str
    llm: str
    source: str
    samples: tuple[int, ...]
    censored: tuple[bool, ...]
    messages: tuple[dict[str, Any], ...] | None = None
    application: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LengthFile:
    """The content of a file.

    Attributes:
        path: Its path.
        rows: Its usable rows.
        degenerate: Rows left out because they are marked degenerate: the LLM did not stop.
        bad: The fault of each unusable line, `line 17: ...`.
    """

    path: Path
    rows: list[LengthRow]
    degenerate: int = 0
    bad: list[str] = field(default_factory=list)


def read(
    path: Path,
    *,
    strict: bool = False,
    keep_degenerate: bool = False,
    application_field: str = "application",
) -> LengthFile:
    """Read a file; a few unusable lines are skipped and reported.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file.
        strict: Raise at the first unusable line.
        keep_degenerate: Keep rows marked `"degenerate": true`.
        application_field: The field that names a row's application.

    Raises:
        BadLines: The file does not exist, has no usable row, or has too many unusable lines (with
            `strict`, one).
    """
    rows: list[LengthRow] = []
    bad: list[str] = []
    degenerate = 0
    try:
        for number, line in _lines(path):
            try:
                raw = _object(line)
                row = row_of(raw, application_field=application_field)
            except ValueError as exc:
                bad.append(f"line {number}: {exc}")
                if strict:
                    raise BadLines(f"{path}, {bad[0]}") from exc
                continue
            if raw.get("degenerate") and not keep_degenerate:
                degenerate += 1
            else:
                rows.append(row)
    except (OSError, EOFError, zlib.error) as exc:
        raise BadLines(f"cannot read {path}: {exc}; give a .jsonl or .jsonl.gz file") from exc
    if not rows:
        why = f"; its first fault is {bad[0]}" if bad else "; it is empty"
        raise BadLines(f"{path} has no usable row of lengths{why}")
    if len(bad) > MOST_BAD_LINES * (len(rows) + degenerate + len(bad)):
        raise BadLines(f"{path} has {len(bad)} unusable lines; the first is {bad[0]}")
    return LengthFile(path, rows, degenerate, bad)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def _object(line: bytes) -> dict[str, Any]:
    # Decoded line by line, so that one byte of another encoding does not spoil the whole file.
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise ValueError(f"not UTF-8: {exc.reason} at byte {exc.start} of the line") from exc
    except (ValueError, RecursionError) as exc:  # RecursionError: brackets nested thousands deep
        raise ValueError(f"not JSON: {exc}") from exc
    if not isinstance(raw, dict):
        raise ValueError(f"a JSON object is required, not {type(raw).__name__}")
    return raw


def row_of(raw: dict[str, Any], *, application_field: str = "application") -> LengthRow:
    """Check one row.

    Raises:
        ValueError: A field is missing or of the wrong kind; the message names it.
    """
    messages = raw.get("messages")
    text = raw.get("prompt")
    if text is None:
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise ValueError("neither a `prompt` (text) nor `messages` (a list of objects)")
        text = render_request(messages)
    if not isinstance(text, str):
        raise ValueError(f"`prompt` is {type(text).__name__}; it must be text")
    if not text.strip():
        raise ValueError("the prompt is empty")
    if "output_tokens" not in raw:
        raise ValueError("no `output_tokens`, the measured length")
    given = raw["output_tokens"]
    samples = tuple(_tokens(t) for t in (given if isinstance(given, list) else [given]))
    if not samples:
        raise ValueError("`output_tokens` is an empty list")
    return LengthRow(
        prompt=clip(text),
        llm=_name(raw, "model", UNNAMED_LLM),
        source=_name(raw, "source", UNNAMED_SOURCE),
        samples=samples,
        censored=_censored(raw, samples),
        messages=tuple(messages) if isinstance(messages, list) else None,
        application=_name(raw, application_field, "") or None,
        facts=_facts(raw.get("facts")),
    )


def _facts(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"`facts` is {type(given).__name__}; it must be an object")
    return request_facts(given)


def _name(raw: dict[str, Any], key: str, default: str) -> str:
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or not value:
        raise ValueError(f"`{key}` is {value!r}; it must be a name")
    return value


def _tokens(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`output_tokens` holds {value!r}; it must hold whole numbers")
    if not 0 <= value <= _MOST_TOKENS or value != int(value):
        raise ValueError(
            f"`output_tokens` holds {str(value)[:20]}; it must hold whole numbers from 0 to "
            f"{_MOST_TOKENS}"
        )
    return int(value)


def _censored(raw: dict[str, Any], samples: Sequence[int]) -> tuple[bool, ...]:
    marks = raw.get("censored")
    if isinstance(marks, bool):
        return (marks,) * len(samples)
    if isinstance(marks, list):
        if len(marks) != len(samples):
            raise ValueError(f"`censored` has {len(marks)} marks for {len(samples)} samples")
        return tuple(bool(m) for m in marks)
    finish = raw.get("finish")
    if isinstance(finish, list) and len(finish) != len(samples):
        raise ValueError(f"`finish` has {len(finish)} reasons for {len(samples)} samples")
    if finish is not None:
        reasons = finish if isinstance(finish, list) else [finish] * len(samples)
        return tuple(reason == "length" for reason in reasons)
    cap = raw.get("cap")
    if isinstance(cap, int | float) and not isinstance(cap, bool) and cap > 0:
        return tuple(s >= cap for s in samples)
    return (False,) * len(samples)


class LengthTable:
    """Rows as arrays, each distinct prompt once; the input of every predictor of a comparison.

    Attributes:
        prompts: The distinct prompts.
        prompt_index: int64, (rows,), which prompt a row is about.
        llms: Names, (rows,).
        sources: Names, (rows,).
        samples: One float64 array of lengths a row, tokens.
        censored: One bool array a row, of the same shape.
    """

    def __init__(self, rows: Sequence[LengthRow]) -> None:
        """Lay out the rows, in their order."""
        places: dict[str, int] = {}
        index = [places.setdefault(r.prompt, len(places)) for r in rows]
        self.prompts: list[str] = list(places)
        self.prompt_index: NDArray[np.int64] = np.array(index, dtype=np.int64)
        self.llms: NDArray[np.str_] = np.array([r.llm for r in rows], dtype=np.str_)
        self.sources: NDArray[np.str_] = np.array([r.source for r in rows], dtype=np.str_)
        self.samples: list[Array] = [np.array(r.samples, dtype=np.float64) for r in rows]
        self.censored: list[NDArray[np.bool_]] = [np.array(r.censored) for r in rows]
        self.rows = list(rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def where(self, keep: NDArray[np.bool_]) -> LengthTable:
        """Keep only some rows; `keep`: bool, (rows,)."""
        return LengthTable([r for r, k in zip(self.rows, keep, strict=True) if k])

    def log_mean(self) -> Array:
        """Return the target of predictors: the mean of log(1 + tokens) of each row, float64."""
        return np.array([np.log1p(s).mean() for s in self.samples])

    def one_sample(self) -> NDArray[np.int64]:
        """Choose the sample of each row to score against, whatever table the row is in."""
        names = [f"{r.llm}\0{r.prompt}".encode("utf-8", "replace") for r in self.rows]
        return np.array(
            [zlib.crc32(name) % len(s) for name, s in zip(names, self.samples, strict=True)],
            dtype=np.int64,
        )


def without_prompts_of(train: LengthTable, data: LengthTable) -> LengthTable:
    """Drop the rows of `train` whose prompts are in `data`, so that they are not learned from."""
    scored = {p.strip() for p in data.prompts}
    return train.where(np.array([r.prompt.strip() not in scored for r in train.rows], dtype=bool))
