"""Replay sequence scheduling by counting decoding steps: no GPU, within 2 % of its own runs.

Called by rows.py, problen/rows.py and batch_question.py. A step makes one token for each answer of
a batch, finished or not; a batch ends with its longest answer, or at its cap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from lengthwise_lab.reproductions.recorded_lengths import Ints
from lengthwise_lab.reproductions.seqsch.grouping import in_order
from lengthwise_lab.reproductions.table.details import RequestTimes, describe
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch

#: The meaning of the seconds of these replays.
SECONDS = "seconds by decoding steps; all prompts are there at 0, an answer when its batch ends"

#: One decoding step, s, by batch size: the line through the two points that follow from the
#: published times and the replayed steps of sequence scheduling on its GPU (which it does not
#: name): 31.7 ms at 16 answers, 37.3 ms in the mix of its variable batches, 19.7 answers a step.
STEP_S, STEP_PER_ANSWER_S = 0.0075, 0.00151


def step_s(size: int) -> float:
    """Return the time of one decoding step of so many answers, s."""
    return STEP_S + STEP_PER_ANSWER_S * size


class Failures(StrEnum):
    """The treatment of answers that are not finished at their batch's cap."""

    NEVER = "never"  #: A batch continues until all have finished.
    RESTART = "restart"  #: They restart with the full cap, in batches at the end.
    #: As published: the same, but for the answers at the same places of the unsorted group.
    RESTART_WRONG = "restart the wrong ones"
    RESUME = "resume"  #: They continue from their tokens, in batches at the end.


@dataclass(kw_only=True)
class ReplayCost:
    """The cost of a replay.

    `kept`: tokens of the answers. `computed`: token slots of all steps, with padding, finished
    answers and discarded attempts. `last`: the same, but of an answer's last batch only, which the
    publication counts. `steps`: decoding steps. `seconds`: by `step_s`. `failed`: answers that met
    a cap. `peak_tokens`: the largest batch's answers, at their cap, with prompts.
    """

    answers: int = 0
    kept: int = 0
    computed: int = 0
    last: int = 0
    steps: int = 0
    seconds: float = 0.0
    failed: int = 0
    batches: int = 0
    peak_tokens: int = 0
    ends: dict[int, int] = field(default_factory=dict)  #: Answer -> steps of its last batch.
    began_s: dict[int, float] = field(default_factory=dict)  #: Answer -> start of its first batch.
    ended_s: dict[int, float] = field(default_factory=dict)  #: Answer -> end of its last batch.

    @property
    def average_length(self) -> float:
        """The publication's average length: steps of an answer's last batch plus one, mean."""
        return self.last / self.answers

    @property
    def effective(self) -> float:
        """The publication's effective token ratio: `kept` over `last`."""
        return self.kept / self.last

    @property
    def effective_of_all(self) -> float:
        """The effective token ratio of all that was computed, with discarded attempts."""
        return self.kept / self.computed

    @property
    def failure_ratio(self) -> float:
        """The share of answers that met a cap."""
        return self.failed / self.answers

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    def run(self, tokens: Sequence[int]) -> RequestTimes:
        """Return the times of the answers; `tokens` of each, less those it had at the start."""
        rows = range(self.answers)
        lengths = np.asarray(tokens, float)
        return RequestTimes(
            arrival_s=np.zeros(self.answers),
            start_s=np.array([self.began_s[row] for row in rows]),
            end_s=np.array([self.ended_s[row] for row in rows]),
            alone_s=np.maximum(lengths, 1) * step_s(1),
            tokens=lengths,
        )


def describe_replays(
    costs: Sequence[ReplayCost], tokens: Sequence[Sequence[int]], *, policy: str
) -> Mapping[str, Any]:
    """Return the details of the answers of some replays (`details.describe`), and their steps.

    Args:
        costs: One for each draw of answers.
        tokens: The lengths of each draw's answers.
        policy: The way of batching, for a reader.
    """
    return describe(
        [cost.run(lengths) for cost, lengths in zip(costs, tokens, strict=True)],
        policy=policy,
        time=SECONDS,
        more={
            "steps": float(np.mean([cost.steps for cost in costs])),
            "batches": float(np.mean([cost.batches for cost in costs])),
            "met_their_cap": float(np.mean([cost.failed for cost in costs])),
            "peak_tokens": max(cost.peak_tokens for cost in costs),
        },
    )


#: Makes the batches of one group: the group's rows -> batches of places in the group.
MakeBatches = Callable[[Sequence[int]], list[PlannedBatch]]


def replay(
    actual: Sequence[int],
    prompt_tokens: Sequence[int],
    plan: MakeBatches,
    failures: Failures,
    *,
    group: int = 256,
    full_cap: int = 512,
    base: int = 16,
    given: Sequence[int] | None = None,
    plan_again: Callable[[Sequence[int], Sequence[int]], list[PlannedBatch]] | None = None,
) -> ReplayCost:
    """Replay all answers, group after group.

    Args:
        actual: Their lengths, tokens; an answer beyond the full cap is cut there.
        prompt_tokens: The prompt of each, for the memory.
        plan: Makes the batches of a group.
        failures: What happens to the unfinished.
        group: Answers that are planned together.
        full_cap: The longest answer, tokens.
        base: Batch size of the second attempts.
        given: Tokens that each has at the start, if lengths and caps count those; None: 0.
        plan_again: Makes the batches of the unfinished rows: (rows, tokens that each has) ->
            batches of places among them, with caps of the whole answer; None: in order, `base` at
            once.
    """
    cost = ReplayCost(answers=len(actual))
    lengths = np.asarray(actual)
    starts = [0] * len(actual) if given is None else given
    for first in range(0, len(actual), group):
        rows = list(range(first, min(first + group, len(actual))))
        unfinished: list[int] = []
        scheduled: list[int] = []
        has = {row: starts[row] for row in rows}
        for batch in plan(rows):
            members = [rows[place] for place in batch.members]
            cap = full_cap if failures is Failures.NEVER else batch.cap
            _decode(cost, members, lengths, prompt_tokens, cap, has)
            scheduled += members
            if failures is not Failures.NEVER:
                unfinished += [row for row in members if lengths[row] > cap and cap < full_cap]
        cost.failed += len(unfinished)
        if failures is Failures.RESTART_WRONG:
            _restart_wrong(
                cost, rows, scheduled, unfinished, lengths, prompt_tokens, full_cap, base
            )
            continue
        resumes = failures is Failures.RESUME
        while unfinished:
            again = (
                plan_again(unfinished, [has[row] if resumes else 0 for row in unfinished])
                if plan_again is not None
                else in_order(len(unfinished), size=base, cap=full_cap)
            )
            left: list[int] = []
            for batch in again:
                members = [unfinished[place] for place in batch.members]
                cap = min(batch.cap, full_cap)
                if not resumes:
                    has.update((row, starts[row]) for row in members)
                _decode(cost, members, lengths, prompt_tokens, cap, has)
                left += [row for row in members if lengths[row] > cap and cap < full_cap]
            unfinished = left
    cost.kept += int(np.minimum(lengths, full_cap).sum()) - sum(starts)
    cost.last = sum(cost.ends.values())
    return cost


def _restart_wrong(
    cost: ReplayCost,
    rows: Sequence[int],
    scheduled: Sequence[int],
    failed: Sequence[int],
    lengths: Ints,
    prompt_tokens: Sequence[int],
    full_cap: int,
    base: int,
) -> None:
    """Restart as published: the failed answers' places are looked up in the unsorted group."""
    unfinished = set(failed)
    places = [place for place, row in enumerate(scheduled) if row in unfinished]
    for first in range(0, len(places), base):
        batch = places[first : first + base]
        wrong = [rows[place] for place in batch]
        ends, began, ended = dict(cost.ends), dict(cost.began_s), dict(cost.ended_s)
        _decode(cost, wrong, lengths, prompt_tokens, full_cap, {})
        steps = cost.ends[wrong[0]]
        cost.ends, cost.began_s, cost.ended_s = ends, began, ended
        for place in batch:
            right = scheduled[place]
            cost.ends[right], cost.ended_s[right] = steps, cost.seconds
            # The answer to another prompt is returned, and counted.
            cost.kept += min(int(lengths[rows[place]]), full_cap)
            cost.kept -= min(int(lengths[right]), full_cap)


def _decode(
    cost: ReplayCost,
    members: Sequence[int],
    lengths: Ints,
    prompt_tokens: Sequence[int],
    cap: int,
    has: dict[int, int],
) -> None:
    """Decode one batch to its end or its cap; `has` holds the tokens that each answer has."""
    before = [has.get(row, 0) for row in members]
    steps = max(
        min(int(lengths[row]), cap) - done for row, done in zip(members, before, strict=True)
    )
    for row in members:
        cost.began_s.setdefault(row, cost.seconds)
    cost.batches += 1
    cost.steps += steps
    cost.computed += steps * len(members)
    cost.seconds += steps * step_s(len(members))
    longest_prompt = max(
        prompt_tokens[row] + done for row, done in zip(members, before, strict=True)
    )
    cost.peak_tokens = max(cost.peak_tokens, len(members) * (longest_prompt + steps))
    for row in members:
        has[row] = min(int(lengths[row]), cap)
        cost.ends[row], cost.ended_s[row] = steps + 1, cost.seconds
