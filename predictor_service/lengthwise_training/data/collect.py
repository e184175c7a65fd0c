"""Samples answers of an LLM and writes down how long they are: what everything else is fitted on.

A line of the output is one prompt with all its samples, written at once and synced, so that a kill
loses only prompts that were under way: started again, those are asked again and no others.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lengthwise_training.data.openai_asker import Answer, Asker, AskFailed


class CollectFailed(Exception):
    """A file cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Question:
    """A prompt to sample.

    Attributes:
        id: A hash of its text or chat.
        given: `{"prompt": ...}` or `{"messages": [...]}`, as it stood in the file.
        source: Where it is from.
    """

    id: str
    given: dict[str, Any]
    source: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat to ask."""
        if "messages" in self.given:
            return list(self.given["messages"])
        return [{"role": "user", "content": self.given["prompt"]}]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; kept with every row.

    Attributes:
        samples: Answers a prompt.
        max_tokens: Cap of an answer, tokens; one that reaches it is censored.
        temperature: Of the sampling; None: the endpoint's default.
        seed: Sample i is asked with seed + i; None: no seed is sent.
    """

    samples: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass
class Progress:
    """How far it is; `failed` holds what went wrong, by prompt id."""

    total: int = 0
    already: int = 0
    done: int = 0
    censored: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def question(given: dict[str, Any], source: str) -> Question:
    """Name a prompt by its content.

    Raises:
        ValueError: It is neither a `prompt` nor `messages`.
    """
    kept: dict[str, Any]
    if isinstance(given.get("prompt"), str) and given["prompt"].strip():
        kept = {"prompt": given["prompt"]}
    elif isinstance(given.get("messages"), list) and given["messages"]:
        kept = {"messages": given["messages"]}
    else:
        raise ValueError("neither a `prompt` (text) nor `messages` (a list)")
    text = json.dumps(kept, sort_keys=True, ensure_ascii=True)
    return Question(hashlib.sha256(text.encode()).hexdigest()[:16], kept, source)


def read_questions(path: Path) -> list[Question]:
    """Distinct prompts of a JSONL file, in its order.

    Raises:
        CollectFailed: The file or a line of it cannot be used.
    """
    found: dict[str, Question] = {}
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    raw = json.loads(line)
                    if not isinstance(raw, dict):
                        raise ValueError("not a JSON object")
                    one = question(raw, str(raw.get("source") or path.stem))
                except ValueError as exc:
                    raise CollectFailed(f"{path}, line {number}: {exc}") from exc
                found.setdefault(one.id, one)
    except (OSError, UnicodeDecodeError) as exc:
        raise CollectFailed(f"cannot read {path}: {exc}") from exc
    if not found:
        raise CollectFailed(f"{path} has no prompts: one JSON object a line is wanted")
    return list(found.values())


class RowFile:
    """The output, which only ever grows by whole lines; a context manager, one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.path = path
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    def __enter__(self) -> Self:
        """Lock the file, read what it has, and cut off a line that a kill left half written.

        Raises:
            CollectFailed: It cannot be opened, another process writes it, or it holds other things.
        """
        try:
            # Prompts may be private: nobody else on this machine may read a file that is new.
            made = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(made, "a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CollectFailed(f"another process is writing {self.path}") from exc
        except OSError as exc:
            raise CollectFailed(f"cannot write {self.path}: {exc}") from exc
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                self.rows[(str(row["id"]), str(row["model"]))] = row
            except (ValueError, KeyError, TypeError) as exc:
                self._file.close()
                raise CollectFailed(
                    f"{self.path}, line {number} was not written by `collect`: give another --out"
                ) from exc
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(whole)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it, which unlocks it."""
        self._file.close()

    def add(self, row: dict[str, Any], *, sync: bool = True) -> bool:
        """Write one row; False: it is there already, and nothing is done.

        Args:
            row: With `id` and `model`.
            sync: It is on disk when this returns; else after the next `sync`.
        """
        key = (str(row["id"]), str(row["model"]))
        if key in self.rows:
            return False
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.rows[key] = row
        if sync:
            self.sync()
        return True

    def sync(self) -> None:
        """Have on disk what was added."""
        self._file.flush()
        os.fsync(self._file.fileno())


async def collect(
    asker: Asker,
    questions: Sequence[Question],
    out: RowFile,
    sampling: Sampling,
    *,
    workers: int,
    on_row: Callable[[Progress], object] = lambda _: None,
) -> Progress:
    """Sample every prompt that `out` does not have.

    A prompt of which a sample fails gets no row: it is reported, and asked again next time.

    Args:
        asker: Whom.
        questions: What.
        out: Open.
        sampling: How; must be that of the rows in `out`.
        workers: Prompts under way at once; a few more than the asker's requests keep it busy.
        on_row: Called after each prompt.

    Raises:
        CollectFailed: The rows of `out` were sampled otherwise.
    """
    for row in out.rows.values():
        was = row.get("sampling")
        if row["model"] == asker.model and was is not None and was != _settings(sampling):
            raise CollectFailed(
                f"{out.path} was sampled with {was}, not {_settings(sampling)}: "
                "use the same settings, or another --out"
            )
    progress = Progress(total=len(questions))
    left = [q for q in questions if (q.id, asker.model) not in out.rows]
    progress.already = len(questions) - len(left)
    line = iter(left)

    async def work() -> None:
        for q in line:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(_sample(asker, q, sampling, i))
                        for i in range(sampling.samples)
                    ]
            except* AskFailed as failures:
                progress.failed[q.id] = str(failures.exceptions[0])
            else:
                answers = [t.result() for t in tasks]
                out.add(_row(q, asker.model, answers, sampling))
                progress.done += 1
                progress.censored += sum(a.cut for a in answers)
            on_row(progress)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(workers, len(left))):
            group.create_task(work())
    return progress


async def _sample(asker: Asker, q: Question, sampling: Sampling, number: int) -> Answer:
    return await asker.ask(
        q.messages,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=None if sampling.seed is None else sampling.seed + number,
    )


def _settings(sampling: Sampling) -> dict[str, Any]:
    return {
        "samples": sampling.samples,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
    }


def _row(q: Question, model: str, answers: Sequence[Answer], sampling: Sampling) -> dict[str, Any]:
    return {
        "id": q.id,
        "source": q.source,
        "model": model,
        **q.given,
        "output_tokens": [a.output_tokens for a in answers],
        "censored": [a.cut for a in answers],
        "prompt_tokens": answers[0].prompt_tokens,
        "seconds": [round(a.seconds, 3) for a in answers],
        "sampling": _settings(sampling),
    }
