"""Sequence scheduling's rows of `lengthwise lab table`; docs/lab-seeds.md says how to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean

import numpy as np

from lengthwise_lab.seeds.grouping import (
    SEQSCH_TABLE,
    by_length,
    by_table,
    in_order,
)
from lengthwise_lab.seeds.recorded import Ints, Sampled, sampled
from lengthwise_lab.seeds.seqsch_replay import Failures, Plan, Tally, replay, step_s
from lengthwise_lab.table import Kind, Row
from lengthwise_worker.sequence import Batch, by_memory

#: Answers of a run, as published, and runs, each of another draw: one run of 1,024 scatters by 9
#: tokens of average length and 1 point of effective ratio.
_ANSWERS, _RUNS = 1024, 5

#: The published predictor's mean error is 62 tokens: so wide a normal error has it.
_ERROR_SD = 62 / 0.798

#: The predictions' quantile up to which our batches go, and their memory: about what the published
#: table takes at its peak on these prompts.
_QUANTILE, _MEMORY_TOKENS = 0.5, 30_000

#: What the chat template adds to each prompt, tokens.
_TEMPLATE = 40

#: (strategy, average length, effective ratio %, failures %, answers/s) by the README.
_README: tuple[tuple[str, float, float, float | None, float], ...] = (
    ("vanilla", 370.84, 33.91, None, 1.39),
    ("untuned perception", 374.83, 33.53, None, 1.32),
    ("predicted, sorted", 297.48, 42.17, None, 1.64),
    ("predicted, VBS and FCR", 215.06, 47.22, 16.5, 2.30),
    ("ground truth, VBS and FCR", 196.34, 61.57, None, 2.69),
)

#: Another replay of the same 1,024 answers and lengths, not all of which are public here.
_REPLAYED: tuple[tuple[str, float, float], ...] = (
    ("vanilla", 364.5, 34.3),
    ("ground truth, sorted", 176.5, 70.9),
    ("ground truth, VBS and FCR", 197.3, 63.5),
    ("predicted, VBS and FCR, right prompts", 231.7, 54.1),
    ("predicted, VBS and FCR", 239.1, 49.1),
)

#: How far a reproduction may be off: three times what runs scatter by, a fifth of it for the draws
#: that are averaged, and what the prompts that are not public here may change.
_LENGTH_TOLERANCE, _RATIO_TOLERANCE = 15.0, 2.5


@dataclass(frozen=True)
class _Strategy:
    """Three ways to do one thing: as published, mended, ours."""

    published: Tally
    mended: Tally | None
    ours: Tally | None


def rows(data: Path | None) -> Sequence[Row]:
    """All of sequence scheduling's rows; takes some seconds."""
    answers = sampled(data)
    runs: dict[str, list[_Strategy]] = {}
    for seed in range(42, 42 + _RUNS):
        for name, strategy in _run(answers, seed).items():
            runs.setdefault(name, []).append(strategy)
    stand_in = "" if answers.recorded else "stand-in lengths; "
    found = []
    for name, length, ratio, failures, per_s in _README:
        each = runs[name]
        substitute = _SUBSTITUTES.get(name, "")
        waste = "corrected: wasted attempts counted" if each[0].mended else ""
        notes = stand_in + "; ".join(part for part in (substitute, waste) if part)
        # The README's are measured on a GPU, where the predictor's failures are its own.
        found.append(_row("average length", name, "tokens", length, "readme", each, _length, notes))
        found.append(_row("effective token ratio", name, "%", ratio, "readme", each, _ratio, notes))
        if failures is not None:
            found.append(
                _row("failure ratio", name, "%", failures, "readme", each, _failures, notes)
            )
        seconds = "seconds by steps, a line through two published times; " + notes
        found.append(_row("throughput", name, "1/s", per_s, "readme", each, _per_s, seconds))
    for name, length, ratio in _REPLAYED:
        each = runs[name]
        found.append(
            _row(
                "average length, step replay",
                name,
                "tokens",
                length,
                "third party",
                each,
                _length,
                stand_in,
                tolerance=_LENGTH_TOLERANCE,
            )
        )
        found.append(
            _row(
                "effective token ratio, step replay",
                name,
                "%",
                ratio,
                "third party",
                each,
                _ratio,
                stand_in,
                tolerance=_RATIO_TOLERANCE,
            )
        )
    return found


_SUBSTITUTES = {
    "untuned perception": "predictions that say nothing in the place of its own",
    "predicted, sorted": "a normal error of 62 tokens in the place of its tuned LLM",
    "predicted, VBS and FCR": "a normal error of 62 tokens in the place of its tuned LLM",
}


def _run(answers: Sampled, seed: int) -> dict[str, _Strategy]:
    picked = np.random.RandomState(seed).permutation(len(answers.greedy))[:_ANSWERS]
    actual = answers.greedy[picked].tolist()
    prompts: list[int] = (answers.prompt_tokens[picked] + _TEMPLATE).tolist()
    longest = answers.samples[picked].max(axis=1)
    rng = np.random.default_rng(seed)
    cap = answers.cap
    noisy = np.clip(np.rint(longest + rng.normal(0, _ERROR_SD, _ANSWERS)), 1, cap).astype(int)
    useless = rng.permutation(longest)
    margin = NormalDist().inv_cdf(_QUANTILE) * _ERROR_SD

    def go(plan: Plan, failures: Failures) -> Tally:
        return replay(actual, prompts, plan, failures, full_cap=cap)

    def table(lengths: Ints) -> Plan:
        return lambda group: by_table(lengths[group].tolist(), SEQSCH_TABLE)

    def sort(lengths: Ints) -> Plan:
        return lambda group: by_length(lengths[group].tolist(), size=16)

    def memory(lengths: Ints) -> Plan:
        def plan(group: Sequence[int]) -> list[Batch]:
            return by_memory(
                lengths[group].tolist(),
                [prompts[row] for row in group],
                memory_tokens=_MEMORY_TOKENS,
                step_cost=step_s,
            )

        return plan

    vanilla = go(lambda group: in_order(len(group), size=16, cap=cap), Failures.NEVER)
    exact = go(memory(longest), Failures.RESUME)
    ours = go(memory(np.clip(noisy + round(margin), 1, cap)), Failures.RESUME)
    restart = go(table(noisy), Failures.RESTART)
    return {
        "vanilla": _Strategy(vanilla, vanilla, None),
        "untuned perception": _Strategy(go(sort(useless), Failures.NEVER), None, None),
        "predicted, sorted": _Strategy(go(sort(noisy), Failures.NEVER), None, ours),
        "predicted, VBS and FCR": _Strategy(
            go(table(noisy), Failures.RESTART_WRONG), go(table(noisy), Failures.RESUME), ours
        ),
        "predicted, VBS and FCR, right prompts": _Strategy(restart, restart, ours),
        "ground truth, sorted": _Strategy(go(sort(longest), Failures.NEVER), None, exact),
        "ground truth, VBS and FCR": _Strategy(
            go(table(longest), Failures.RESTART), go(table(longest), Failures.RESUME), exact
        ),
    }


#: A figure of a tally: (as published, with all waste).
_Figure = Callable[[Tally], tuple[float, float]]


def _length(tally: Tally) -> tuple[float, float]:
    return tally.average_length, tally.computed / tally.answers


def _ratio(tally: Tally) -> tuple[float, float]:
    return 100 * tally.effective, 100 * tally.effective_of_all


def _failures(tally: Tally) -> tuple[float, float]:
    return 100 * tally.failure_ratio, 100 * tally.failure_ratio


def _per_s(tally: Tally) -> tuple[float, float]:
    return tally.per_s, tally.per_s


def _row(
    name: str,
    strategy: str,
    unit: str,
    theirs: float,
    kind: Kind,
    each: Sequence[_Strategy],
    figure: _Figure,
    note: str,
    *,
    tolerance: float | None = None,
) -> Row:
    mended = [figure(one.mended)[1] for one in each if one.mended is not None]
    ours = [figure(one.ours)[1] for one in each if one.ours is not None]
    tallies = {"reproduced": each[0].published, "corrected": each[0].mended, "ours": each[0].ours}
    return Row(
        seed="SeqSch",
        name=name,
        setting=f"{strategy}, {_ANSWERS} answers, groups of 256",
        unit=unit,
        theirs=theirs,
        kind=kind,
        reproduced=fmean(figure(one.published)[0] for one in each),
        corrected=fmean(mended) if mended else None,
        ours=fmean(ours) if ours else None,
        tolerance=tolerance,
        note=note.rstrip("; "),
        details={
            column: {
                "steps": tally.steps,
                "batches": tally.batches,
                "failed": tally.failed,
                "peak_tokens": tally.peak_tokens,
            }
            for column, tally in tallies.items()
            if tally is not None
        },
    )
