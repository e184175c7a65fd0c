"""Samples an LLM's answers to prompts, and writes down their lengths.

Each output line is one prompt with all its samples. It is written and synced at once, so a killed
run loses only the prompts in progress; the next run asks for those again, and for no others. Called
by `lengthwise collect`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthwise_training.data.chat_client import ChatClient, ChatReply, ChatRequestFailed
from lengthwise_training.data.row_file import CollectFailed, RowFile


@dataclass(frozen=True)
class SamplingPrompt:
    """A prompt to sample.

    Attributes:
        id: A hash of its text or chat.
        given: `{"prompt": ...}` or `{"messages": [...]}`, as in the file.
        source: Where it is from.
    """

    id: str
    given: dict[str, Any]
    source: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat to send."""
        if "messages" in self.given:
            return list(self.given["messages"])
        return [{"role": "user", "content": self.given["prompt"]}]


@dataclass(frozen=True)
class Sampling:
    """The settings of sampling, which are kept with every row.

    Attributes:
        samples: Answers per prompt.
        max_tokens: Cap of an answer, tokens; an answer that reaches it is censored.
        temperature: Of the sampling; None: the endpoint's default.
        seed: Sample i is requested with seed + i; None: no seed is sent.
    """

    samples: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass
class CollectProgress:
    """Progress of a collection; `failed` holds the errors, by prompt id."""

    total: int = 0
    already: int = 0
    done: int = 0
    censored: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def sampling_prompt(given: dict[str, Any], source: str) -> SamplingPrompt:
    """Name a prompt by its content.

    Raises:
        ValueError: It has neither a `prompt` nor `messages`.
    """
    kept: dict[str, Any]
    if isinstance(given.get("prompt"), str) and given["prompt"].strip():
        kept = {"prompt": given["prompt"]}
    elif isinstance(given.get("messages"), list) and given["messages"]:
        kept = {"messages": given["messages"]}
    else:
        raise ValueError("neither a `prompt` (text) nor `messages` (a list)")
    text = json.dumps(kept, sort_keys=True, ensure_ascii=True)
    return SamplingPrompt(hashlib.sha256(text.encode()).hexdigest()[:16], kept, source)


def read_sampling_prompts(path: Path) -> list[SamplingPrompt]:
    """Read the distinct prompts of a JSONL file, in its order.

    Raises:
        CollectFailed: The file or a line of it cannot be used.
    """
    found: dict[str, SamplingPrompt] = {}
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    raw = json.loads(line)
                    if not isinstance(raw, dict):
                        raise ValueError("not a JSON object")
                    one = sampling_prompt(raw, str(raw.get("source") or path.stem))
                except ValueError as exc:
                    raise CollectFailed(f"{path}, line {number}: {exc}") from exc
                found.setdefault(one.id, one)
    except (OSError, UnicodeDecodeError) as exc:
        raise CollectFailed(f"cannot read {path}: {exc}") from exc
    if not found:
        raise CollectFailed(f"{path} has no prompts: each line must be one JSON object")
    return list(found.values())


async def collect_lengths(
    client: ChatClient,
    prompts: Sequence[SamplingPrompt],
    out: RowFile,
    sampling: Sampling,
    *,
    workers: int,
    on_row: Callable[[CollectProgress], object] = lambda _: None,
) -> CollectProgress:
    """Sample every prompt that `out` does not have.

    A prompt with a failed sample gets no row: it is reported, and sampled again next time.

    Args:
        client: The endpoint.
        prompts: What to sample.
        out: Open.
        sampling: Must be that of the rows in `out`.
        workers: Prompts in progress; a few more than the client's requests keep it busy.
        on_row: Called after each prompt.

    Raises:
        CollectFailed: The rows of `out` were sampled with other settings.
    """
    for row in out.rows.values():
        was = row.get("sampling")
        if row["model"] == client.model and was is not None and was != _settings(sampling):
            raise CollectFailed(
                f"{out.path} was sampled with {was}, not {_settings(sampling)}: "
                "use the same settings, or another --out"
            )
    progress = CollectProgress(total=len(prompts))
    left = [q for q in prompts if (q.id, client.model) not in out.rows]
    progress.already = len(prompts) - len(left)
    queue = iter(left)

    async def work() -> None:
        for q in queue:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(_sample(client, q, sampling, i))
                        for i in range(sampling.samples)
                    ]
            except* ChatRequestFailed as failures:
                progress.failed[q.id] = str(failures.exceptions[0])
            else:
                answers = [t.result() for t in tasks]
                out.add(_row(q, client.model, answers, sampling))
                progress.done += 1
                progress.censored += sum(a.cut for a in answers)
            on_row(progress)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(workers, len(left))):
            group.create_task(work())
    return progress


async def _sample(
    client: ChatClient, q: SamplingPrompt, sampling: Sampling, number: int
) -> ChatReply:
    return await client.complete(
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


def _row(
    q: SamplingPrompt, model: str, answers: Sequence[ChatReply], sampling: Sampling
) -> dict[str, Any]:
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
