"""A question about static batches: the same prompts, all sent at once, batched in several ways.

`lengthwise lab run` reads it if `kind = "batches"`; simulator/question.py has the questions about
queues. Lengths are those of sequence scheduling, with `--data` the recorded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lengthwise_lab.reproductions.recorded_lengths import Ints, sampled
from lengthwise_lab.reproductions.seqsch.grouping import SEQSCH_TABLE, by_length, by_table, in_order
from lengthwise_lab.reproductions.seqsch.replay import (
    Failures,
    MakeBatches,
    ReplayCost,
    describe_replays,
    replay,
    step_s,
)
from lengthwise_lab.reproductions.table.details import BUCKETS
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch, by_memory

#: The chat template's part of each prompt, tokens.
_TEMPLATE = 40

Way = Literal["as-they-come", "sorted", "table-restarted", "table-resumed", "memory"]

#: The ways in words; `memory` is the product's own mode `sequence`.
WAYS: dict[Way, str] = {
    "as-they-come": "batches in order, each until its longest answer ends",
    "sorted": "sorted by predicted length, each until its longest answer ends",
    "table-restarted": "sizes by the published table; an answer that meets its cap restarts",
    "table-resumed": "sizes by the published table; an answer that meets its cap is resumed",
    "memory": "Lengthwise: cut by memory for least time; an answer that meets its cap is resumed",
}


class BatchQuestion(BaseModel):
    """Some prompts, and the ways to batch them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["batches"]
    title: str = "static batches"
    policies: list[Way] = Field(min_length=1, description="Ways to batch")
    prompts: int = Field(default=1024, ge=1, le=100_000)
    group: int = Field(default=256, ge=1, description="Prompts that are planned together")
    batch: int = Field(
        default=16, ge=1, description="Size of a batch, where no table and no memory decides"
    )
    seeds: list[int] = Field(default=[42], min_length=1)
    error_tokens: float = Field(
        default=90.0, ge=0, description="Standard deviation of the predictions' error"
    )
    memory_tokens: int = Field(
        default=30_000, ge=1, description="Tokens of prompts and answers in memory"
    )


def compare_batchings(
    question: BatchQuestion, data: Path | None, *, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Replay every way of a question.

    Args:
        question: The prompts and the ways.
        data: The folder of recorded lengths; None: stand-ins with the published moments.
        progress: Called with each way before it is replayed.

    Returns:
        `question` as it was read, and `policies`: for each way `details.describe` of its answers,
        with answers a second and the share of all token slots that the answers used.
    """
    answers = sampled(data, split=None)
    found: dict[str, Any] = {}
    for way in question.policies:
        progress(way)
        costs, tokens = [], []
        for seed in question.seeds:
            rng = np.random.default_rng(seed)
            # Draw with replacement if the question has more prompts than the data.
            scarce = question.prompts > len(answers.greedy)
            rows = rng.choice(len(answers.greedy), question.prompts, replace=scarce)
            error = rng.normal(0, question.error_tokens, question.prompts)
            predicted = np.rint(answers.samples[rows].max(axis=1) + error)
            lengths = answers.greedy[rows].tolist()
            prompts = (answers.prompt_tokens[rows] + _TEMPLATE).tolist()
            costs.append(
                _serve(
                    question,
                    way,
                    np.clip(predicted, 1, answers.cap).astype(np.int64),
                    lengths,
                    prompts,
                    answers.cap,
                )
            )
            tokens.append(lengths)
        found[way] = {
            **describe_replays(costs, tokens, policy=WAYS[way]),
            "answers_per_s": float(np.mean([cost.per_s for cost in costs])),
            "effective_token_ratio": float(np.mean([cost.effective_of_all for cost in costs])),
        }
    return {"question": question.model_dump(), "policies": found}


def _serve(
    question: BatchQuestion,
    way: Way,
    predicted: Ints,
    lengths: Sequence[int],
    prompts: Sequence[int],
    cap: int,
) -> ReplayCost:
    def plan(group: Sequence[int]) -> list[PlannedBatch]:
        known: list[int] = predicted[list(group)].tolist()
        if way == "as-they-come":
            return in_order(len(known), size=question.batch, cap=cap)
        if way == "sorted":
            return by_length(known, size=question.batch)
        if way == "memory":
            return by_memory(
                known,
                [prompts[row] for row in group],
                memory_tokens=question.memory_tokens,
                step_cost=step_s,
            )
        return by_table(known, SEQSCH_TABLE)

    whole: MakeBatches = plan
    failures = {
        "as-they-come": Failures.NEVER,
        "sorted": Failures.NEVER,
        "table-restarted": Failures.RESTART,
    }.get(way, Failures.RESUME)
    return replay(
        lengths, prompts, whole, failures, group=question.group, full_cap=cap, base=question.batch
    )


def as_markdown(result: dict[str, Any]) -> str:
    """Return the comparison as Markdown tables."""
    ways = result["policies"].items()
    lines = [f"# {result['question']['title']}", "", f"*{_seconds(result)}*"]
    lines += _head("way", "answers/s", "effective tokens, %", "met their cap, %", "peak tokens")
    for way, found in ways:
        met = found["met_their_cap"] * found["runs"] / found["requests"]
        ratio = found["effective_token_ratio"]
        lines.append(
            _table_row(way, found["answers_per_s"], 100 * ratio, 100 * met, found["peak_tokens"])
        )
    lines += _head(
        "way: completion, s", "mean", "p50", "p99", "max", *(f"{name} tokens" for name in BUCKETS)
    )
    for way, found in ways:
        took = (found["completion_s"][point] for point in ("mean", "p50", "p99", "max"))
        lines.append(
            _table_row(way, *took, *(found["buckets"][bucket].get("mean") for bucket in BUCKETS))
        )
    lines += _head(
        "way", "Jain of slowdowns", "slowdown p50", "p99", "longest wait, s",
        "waited over 10 x its length, %", "places lost",
    )  # fmt: skip
    for way, found in ways:
        fair, starved = found["fairness"], found["starvation"]
        lines.append(
            _table_row(
                way, fair["jain_of_slowdowns"], fair["slowdown"]["p50"], fair["slowdown"]["p99"],
                starved["max_wait_s"], 100 * starved["share_waiting_over_10_times_its_length"],
                starved["max_places_lost"],
            )
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def _head(*names: str) -> list[str]:
    return [
        "",
        "| " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * (len(names) - 1),
    ]


def _table_row(way: str, *numbers: float | None) -> str:
    cells = ["-" if number is None else f"{number:.4g}" for number in numbers]
    return "| " + " | ".join([way, *cells]) + " |"


def _seconds(result: dict[str, Any]) -> str:
    return str(next(iter(result["policies"].values()))["time"])
