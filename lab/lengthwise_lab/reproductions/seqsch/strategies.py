"""Sequence scheduling's ways to batch prompts: as published, corrected, and by Lengthwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lengthwise_lab.reproductions.recorded_lengths import Ints, Sampled
from lengthwise_lab.reproductions.seqsch.grouping import SEQSCH_TABLE, by_length, by_table, in_order
from lengthwise_lab.reproductions.seqsch.replay import (
    Failures,
    MakeBatches,
    ReplayCost,
    replay,
    step_s,
)
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch, by_memory

#: Answers of a run, as published, and the number of runs, each of another draw. One run of 1,024
#: scatters by 9 tokens of average length and 1 point of effective ratio.
ANSWERS, RUNS = 1024, 5

#: Widths of the normal error of predictions, tokens. The published predictor's mean error is 62
#: tokens, of predictions between 1 and the cap: the first width has it once it is cut there. The
#: other replay's error has it before the cut, and 54 after.
ERROR_SD, _REPLAYED_SD = 90.0, 62 / 0.798

#: The quantile of the predictions that is our batches' cap, and their memory: about the peak of the
#: published table on these prompts.
_QUANTILE, _MEMORY_TOKENS = 0.5, 30_000

#: The chat template's part of each prompt, tokens.
_TEMPLATE = 40


@dataclass(frozen=True)
class Strategy:
    """One strategy as published, corrected and by our way, and no scheduling.

    `corrected` is None where only the counting is corrected; `tokens`: lengths of the answers.
    """

    reproduced: ReplayCost
    corrected: ReplayCost | None
    lengthwise: ReplayCost
    vanilla: ReplayCost
    tokens: Sequence[int]


def strategies(answers: Sampled, seed: int) -> dict[str, Strategy]:
    """Replay every strategy on one draw of answers.

    Args:
        answers: The answers to draw from.
        seed: The random seed of the draw, and of the predictions' errors.
    """
    picked = np.random.RandomState(seed).permutation(len(answers.greedy))[:ANSWERS]
    actual = answers.greedy[picked].tolist()
    prompts: list[int] = (answers.prompt_tokens[picked] + _TEMPLATE).tolist()
    longest = answers.samples[picked].max(axis=1)
    rng = np.random.default_rng(seed)
    cap = answers.cap
    error = rng.standard_normal(ANSWERS)
    noisy, replayed = (
        np.clip(np.rint(longest + width * error), 1, cap).astype(int)
        for width in (ERROR_SD, _REPLAYED_SD)
    )
    useless = rng.permutation(longest)
    margin = round(NormalDist().inv_cdf(_QUANTILE) * ERROR_SD)

    def go(plan: MakeBatches, failures: Failures) -> ReplayCost:
        return replay(actual, prompts, plan, failures, full_cap=cap)

    def table(lengths: Ints) -> MakeBatches:
        return lambda group: by_table(lengths[group].tolist(), SEQSCH_TABLE)

    def sort(lengths: Ints) -> MakeBatches:
        return lambda group: by_length(lengths[group].tolist(), size=16)

    def memory(lengths: Ints) -> MakeBatches:
        def plan(group: Sequence[int]) -> list[PlannedBatch]:
            return by_memory(
                lengths[group].tolist(),
                [prompts[row] for row in group],
                memory_tokens=_MEMORY_TOKENS,
                step_cost=step_s,
            )

        return plan

    vanilla = go(lambda group: in_order(len(group), size=16, cap=cap), Failures.NEVER)
    exact = go(memory(longest), Failures.RESUME)
    lengthwise = go(memory(np.clip(noisy + margin, 1, cap)), Failures.RESUME)
    guessed = go(memory(np.clip(useless + margin, 1, cap)), Failures.RESUME)
    resumed = go(table(noisy), Failures.RESUME)
    noise_lengthwise = go(memory(np.clip(replayed + margin, 1, cap)), Failures.RESUME)
    noise_resumed = go(table(replayed), Failures.RESUME)
    noise_restart = go(table(replayed), Failures.RESTART)
    noise_wrong = go(table(replayed), Failures.RESTART_WRONG)

    def strategy(
        reproduced: ReplayCost, corrected: ReplayCost | None, lengthwise: ReplayCost
    ) -> Strategy:
        return Strategy(reproduced, corrected, lengthwise, vanilla, actual)

    wrong = go(table(noisy), Failures.RESTART_WRONG)
    return {
        "vanilla": strategy(vanilla, None, lengthwise),
        "untuned perception": strategy(go(sort(useless), Failures.NEVER), None, guessed),
        "predicted, sorted": strategy(go(sort(noisy), Failures.NEVER), None, lengthwise),
        "predicted, VBS and FCR": strategy(wrong, resumed, lengthwise),
        "noise, VBS and FCR": strategy(noise_wrong, noise_resumed, noise_lengthwise),
        "noise, VBS and FCR, right prompts": strategy(
            noise_restart, noise_resumed, noise_lengthwise
        ),
        "ground truth, sorted": strategy(go(sort(longest), Failures.NEVER), None, exact),
        "ground truth, VBS": strategy(go(table(longest), Failures.NEVER), None, exact),
        "ground truth, VBS and FCR": strategy(
            go(table(longest), Failures.RESTART), go(table(longest), Failures.RESUME), exact
        ),
    }
