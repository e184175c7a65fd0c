"""The rows of the probabilistic length model; docs/research/reproductions.md explains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise_lab.reproductions.problen.search import (
    Distributions,
    answer_quantiles,
    corrected_search,
    given_the_prompt,
    published_search,
    quantiles,
    smoothed,
)
from lengthwise_lab.reproductions.recorded_lengths import Ints, sampled
from lengthwise_lab.reproductions.seqsch.grouping import PROBLEN_TABLE, by_table, in_order
from lengthwise_lab.reproductions.seqsch.replay import (
    Failures,
    ReplayCost,
    describe_replays,
    replay,
    step_s,
)
from lengthwise_lab.reproductions.table.row import (
    About,
    Absent,
    TableRow,
    of_requests,
    without_requests,
)
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch, by_memory

#: As published: the number of prompts, the size of a group, and the threshold of its rule.
_PROMPTS, _GROUP, _THRESHOLD, _BASE, _LONGEST = 8_192, 256, 0.6, 16, 1_024

#: The chat template's part of each prompt, tokens, and the memory of our batches, which is less
#: than the peak of the published table.
_TEMPLATE, _MEMORY_TOKENS = 40, 30_000

#: The stand-in for the predictor: the standard error of the log of the length, beside the scatter
#: of sampling. The median of its distributions is then as far off as the predictor of sequence
#: scheduling.
_LOG_ERROR = 0.45

#: The thresholds of our search: fewer, because a cut by memory takes longer than one by a table.
_OUR_THRESHOLDS = tuple(percent / 100 for percent in range(30, 100, 5))

#: (tokens of one answer, its mass after the published smoothing).
_MASSES = ((5, 0.57), (16, 0.70), (32, 0.85), (1_000, 0.78))

_NO_WEIGHTS = "needs Llama-2's hidden states; `lengthwise train` has the head"


@dataclass(frozen=True, kw_only=True)
class _Workload:
    """`totals`: prompt and answer, tokens. `predicted`: distributions of totals, (rows, 1,025)."""

    prompts: Ints
    totals: Ints
    predicted: Distributions


def rows(data: Path | None) -> Sequence[TableRow]:
    """Return all of the probabilistic length model's rows; takes about half a minute."""
    found = [*_model_rows(), *_smoothing_rows()]
    work, recorded = _workload(data)
    stand_in = "" if recorded else "stand-in lengths; "
    last = np.arange(_PROMPTS - _GROUP, _PROMPTS)
    everything = np.arange(_PROMPTS)
    vanilla = _published(work, everything, _vanilla, Failures.NEVER)
    lengthwise = _lengthwise(work)
    answers = (work.totals - work.prompts).tolist()

    def described(cost: ReplayCost, policy: str) -> Mapping[str, Any]:
        # The reproduction serves the last group alone.
        return describe_replays([cost], [answers[-cost.answers :]], policy=policy)

    behind = {
        "baseline": described(vanilla, "batches of 16 as they come"),
        "baseline_reproduced": described(
            _published(work, last, _vanilla, Failures.NEVER), "batches of 16, the last group only"
        ),
        "lengthwise": described(lengthwise, "batches by memory at a searched quantile, resumed"),
    }
    for name, plan in (("rule 0.6, VBS and FCR", _rule), ("search, VBS and FCR", _searched)):
        replayed = _published(work, last, plan, Failures.RESUME)
        whole = _published(work, everything, plan, Failures.RESUME)
        details = of_requests(
            f"8,192 prompts at once: {name}",
            **behind,
            reproduced=described(replayed, f"{name}, the last group only"),
            corrected=described(whole, name),
        )
        for what, unit, figure in (
            ("effective token ratio", "%", _ratio),
            ("throughput", "1/s", _per_s),
            ("throughput, to no scheduling", "x", lambda t: t.per_s / vanilla.per_s),
            ("failure ratio", "%", _failures),
        ):
            found.append(
                TableRow(
                    system="ProbLen",
                    name=what,
                    setting=f"{name}, 8,192 prompts, groups of 256",
                    unit=unit,
                    published=None,
                    kind="their code, run",
                    reproduced=figure(replayed),
                    corrected=figure(whole),
                    lengthwise=figure(lengthwise),
                    note=stand_in
                    + "reproduced: counts the last group only, as it does; lengthwise: "
                    "batches by memory, searched threshold",
                    absent={"published": Absent.NOT_PUBLISHED},
                    details=details,
                )
            )
    return found


def _model_rows() -> list[TableRow]:
    absent = {
        "reproduced": Absent.INPUTS,
        "corrected": Absent.INPUTS,
        "lengthwise": Absent.NO_ORDER,
    }
    return [
        TableRow(
            system="ProbLen",
            name=name,
            setting=setting,
            unit=unit,
            published=published,
            kind="code comment",
            note=_NO_WEIGHTS,
            absent=absent,
            details=without_requests(
                About.PREDICTOR, "the name of a checkpoint has it; nothing is served with it"
            ),
        )
        for name, setting, unit, published in (
            ("KL divergence, validation", "Llama-2-7B-chat, total length", "nat", 0.3196),
            ("KL divergence, training", "Llama-2-7B-chat, total length", "nat", 0.2399),
            ("KL divergence, validation", "Vicuna-7B, length of the answer", "nat", 0.1027),
            ("KL divergence, training", "Vicuna-7B, length of the answer", "nat", 0.0399),
            ("RMSE of the longest of the samples", "scalar head", "tokens", 177.5),
            ("RMSE of the longest of the samples, training", "scalar head", "tokens", 139.1),
            ("RMSE of the mean of the samples", "scalar head", "tokens", 78.3),
        )
    ]


def _smoothing_rows() -> list[TableRow]:
    counts = np.zeros((len(_MASSES), _LONGEST + 1))
    counts[np.arange(len(_MASSES)), [tokens for tokens, _ in _MASSES]] = 1
    as_published = smoothed(counts, keep_mass=False).sum(axis=1)
    corrected = smoothed(counts, keep_mass=True).sum(axis=1)
    return [
        TableRow(
            system="ProbLen",
            name="mass of one answer after smoothing",
            setting=f"{tokens} tokens, kernel of 32",
            unit="",
            published=mass,
            kind="their code, run",
            reproduced=float(was),
            corrected=float(now),
            tolerance=0.01,
            absent={"lengthwise": Absent.NO_ORDER},
            details=without_requests(
                About.TARGET, "what the model is to learn of one answer, by its own kernel"
            ),
        )
        for (tokens, mass), was, now in zip(_MASSES, as_published, corrected, strict=True)
    ]


def _workload(data: Path | None) -> tuple[_Workload, bool]:
    answers = sampled(data, split=None)
    rng = np.random.default_rng(20231005)
    picked = rng.permutation(len(answers.greedy))[:_PROMPTS]
    samples = answers.samples[picked]
    prompts = np.minimum(answers.prompt_tokens[picked] + _TEMPLATE, 500)
    # The answer is the last sample; the prediction is a noisy mean of the others.
    logs = np.log(samples[:, :-1]).mean(axis=1)
    centre = logs + rng.normal(0, _LOG_ERROR, _PROMPTS)
    spread = float(np.std(np.log(samples[:, -1]) - centre))
    return _Workload(
        prompts=prompts,
        totals=prompts + samples[:, -1],
        predicted=_log_normal(centre, spread, prompts),
    ), answers.recorded


def _log_normal(centre: NDArray[np.float64], spread: float, prompts: Ints) -> Distributions:
    """Return distributions of total lengths, (rows, 1,025): no mass up to the prompt."""
    ends = np.log(np.arange(1, _LONGEST + 1) + 0.5)
    # A logistic CDF of the same standard deviation: numpy has none of the normal.
    scale = spread * np.sqrt(3) / np.pi
    below = 1 / (1 + np.exp(-np.clip((ends[None, :] - centre[:, None]) / scale, -60, 60)))
    answers = np.diff(below, prepend=0.0)  # of 1, 2, ... tokens
    totals = np.zeros((len(centre), _LONGEST + 1))
    for row, prompt in enumerate(prompts.tolist()):
        room = _LONGEST - prompt
        totals[row, prompt + 1 :] = answers[row, :room]
    totals /= totals.sum(axis=1, keepdims=True)
    return totals


_MakeBatches = Callable[[_Workload, Ints], list[PlannedBatch]]


def _published(work: _Workload, which: Ints, plan: _MakeBatches, failures: Failures) -> ReplayCost:
    """Replay a plan whose caps and lengths count the prompt, as in its code."""
    return replay(
        work.totals[which].tolist(),
        [0] * len(which),
        lambda group: plan(work, which[group]),
        failures,
        group=_GROUP,
        full_cap=_LONGEST,
        base=_BASE,
        given=work.prompts[which].tolist(),
    )


def _vanilla(work: _Workload, group: Ints) -> list[PlannedBatch]:
    return in_order(len(group), size=_BASE, cap=_LONGEST)


def _table(work: _Workload, group: Ints, threshold: float) -> list[PlannedBatch]:
    lengths = quantiles(work.predicted[group], threshold, work.prompts[group])
    return by_table(lengths.tolist(), PROBLEN_TABLE)


def _rule(work: _Workload, group: Ints) -> list[PlannedBatch]:
    return _table(work, group, _THRESHOLD)


def _searched(work: _Workload, group: Ints) -> list[PlannedBatch]:
    plan = partial(_table, work, group)
    return plan(published_search(work.predicted[group], plan, base=_BASE))


def _lengthwise(work: _Workload) -> ReplayCost:
    """Replay batches by memory at the searched quantile of the answers' own lengths."""

    def best(group: Sequence[int]) -> list[PlannedBatch]:
        rows = np.array(group)
        prompts = work.prompts[rows]
        answers = given_the_prompt(work.predicted[rows], prompts)

        def plan(threshold: float) -> list[PlannedBatch]:
            return by_memory(
                answer_quantiles(answers, threshold).tolist(),
                prompts.tolist(),
                memory_tokens=_MEMORY_TOKENS,
                step_cost=step_s,
            )

        return plan(
            corrected_search(answers, plan, base=_BASE, step_s=step_s, thresholds=_OUR_THRESHOLDS)
        )

    return replay(
        (work.totals - work.prompts).tolist(),
        work.prompts.tolist(),
        best,
        Failures.RESUME,
        group=_GROUP,
        full_cap=_LONGEST - int(work.prompts.max()),
        base=_BASE,
    )


def _ratio(cost: ReplayCost) -> float:
    return 100 * cost.effective_of_all


def _per_s(cost: ReplayCost) -> float:
    return cost.per_s


def _failures(cost: ReplayCost) -> float:
    return 100 * cost.failure_ratio
