"""Sequence scheduling replayed by counting decoding steps: no GPU, and within 2 % of its own runs.

Called by seqsch_rows.py and problen_rows.py. A step makes one token for each answer of a batch,
finished or not; a batch ends with its longest answer, or at its cap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from lengthwise_lab.reproductions.recorded_lengths import Ints
from lengthwise_lab.reproductions.seqsch.grouping import in_order
from lengthwise_lab.reproductions.table.details import Run, describe
from lengthwise_worker.engines.transformers.sequence_scheduling import Batch

#: What the seconds of these replays are.
SECONDS = "seconds by decoding steps; all prompts are there at 0, an answer when its batch ends"

#: One decoding step, s, by batch size: the line through the two points that follow from the
#: published times and the replayed steps of sequence scheduling on its GPU (which it does not
#: name): 31.7 ms at 16 answers, 37.3 ms in the mix of its variable batches, 19.7 answers a step.
STEP_S, STEP_PER_ANSWER_S = 0.0075, 0.00151


def step_s(size: int) -> float:
    """What one decoding step of so many answers costs, s."""
    return STEP_S + STEP_PER_ANSWER_S * size


class Failures(StrEnum):
    """What becomes of answers that are not finished at their batch's cap."""

    NEVER = "never"  #: A batch goes on until all have finished.
    RESTART = "restart"  #: All over again, with the full cap, in batches at the end.
    #: As published: the same, but of the answers that stand at these places of the unsorted group.
    RESTART_WRONG = "restart the wrong ones"
    RESUME = "resume"  #: From what they have, in batches at the end.


@dataclass(kw_only=True)
class Tally:
    """What a replay cost.

    `kept`: tokens of the answers. `computed`: token slots of all steps, padding, finished answers
    and thrown-away attempts included. `last`: the same, but of an answer's last batch only, which
    is what the publication counts. `steps`: decoding steps. `seconds`: by `step_s`. `failed`:
    answers that met a cap. `peak_tokens`: the largest batch's answers, at their cap, with prompts.
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
    began_s: dict[int, float] = field(default_factory=dict)  #: Answer -> when its first batch did.
    ended_s: dict[int, float] = field(default_factory=dict)  #: Answer -> when its last batch did.

    @property
    def average_length(self) -> float:
        """The publication's: steps of an answer's last batch and one, mean over the answers."""
        return self.last / self.answers

    @property
    def effective(self) -> float:
        """The publication's effective token ratio: `kept` of `last`."""
        return self.kept / self.last

    @property
    def effective_of_all(self) -> float:
        """The same of all that was computed, wasted attempts included."""
        return self.kept / self.computed

    @property
    def failure_ratio(self) -> float:
        """Answers that met a cap, of all."""
        return self.failed / self.answers

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    def run(self, tokens: Sequence[int]) -> Run:
        """The answers one by one; `tokens` of each, without what it had from the start."""
        rows = range(self.answers)
        lengths = np.asarray(tokens, float)
        return Run(
            arrival_s=np.zeros(self.answers),
            start_s=np.array([self.began_s[row] for row in rows]),
            end_s=np.array([self.ended_s[row] for row in rows]),
            alone_s=np.maximum(lengths, 1) * step_s(1),
            tokens=lengths,
        )


def describe_replays(
    tallies: Sequence[Tally], tokens: Sequence[Sequence[int]], *, policy: str
) -> Mapping[str, Any]:
    """What is said of the answers of some replays (`table_details`), and of their steps.

    Args:
        tallies: One for each draw of answers.
        tokens: Of each draw's answers.
        policy: How they were batched.
    """
    return describe(
        [tally.run(lengths) for tally, lengths in zip(tallies, tokens, strict=True)],
        policy=policy,
        time=SECONDS,
        more={
            "steps": float(np.mean([tally.steps for tally in tallies])),
            "batches": float(np.mean([tally.batches for tally in tallies])),
            "met_their_cap": float(np.mean([tally.failed for tally in tallies])),
            "peak_tokens": max(tally.peak_tokens for tally in tallies),
        },
    )


#: Makes the batches of one group: the group's rows -> batches of places in the group.
Plan = Callable[[Sequence[int]], list[Batch]]


def replay(
    actual: Sequence[int],
    prompt_tokens: Sequence[int],
    plan: Plan,
    failures: Failures,
    *,
    group: int = 256,
    full_cap: int = 512,
    base: int = 16,
    given: Sequence[int] | None = None,
    plan_again: Callable[[Sequence[int], Sequence[int]], list[Batch]] | None = None,
) -> Tally:
    """Serve all answers, group after group.

    Args:
        actual: Their lengths, tokens; one beyond a cap is cut there.
        prompt_tokens: Of each, for the memory.
        plan: How a group is batched.
        failures: What becomes of the unfinished.
        group: Answers that are planned together.
        full_cap: No answer becomes longer, tokens.
        base: Batch size of the second attempts.
        given: Tokens that each has from the start, if lengths and caps count those; None: 0.
        plan_again: How the unfinished rows are batched: (rows, tokens that each has) -> batches of
            places among them, with caps of the whole answer; None: in order, `base` at once.
    """
    tally = Tally(answers=len(actual))
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
            _decode(tally, members, lengths, prompt_tokens, cap, has)
            scheduled += members
            if failures is not Failures.NEVER:
                unfinished += [row for row in members if lengths[row] > cap and cap < full_cap]
        tally.failed += len(unfinished)
        if failures is Failures.RESTART_WRONG:
            _restart_wrong(
                tally, rows, scheduled, unfinished, lengths, prompt_tokens, full_cap, base
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
                _decode(tally, members, lengths, prompt_tokens, cap, has)
                left += [row for row in members if lengths[row] > cap and cap < full_cap]
            unfinished = left
    tally.kept += int(np.minimum(lengths, full_cap).sum()) - sum(starts)
    tally.last = sum(tally.ends.values())
    return tally


def _restart_wrong(
    tally: Tally,
    rows: Sequence[int],
    scheduled: Sequence[int],
    failed: Sequence[int],
    lengths: Ints,
    prompt_tokens: Sequence[int],
    full_cap: int,
    base: int,
) -> None:
    """As published: at the places of the failed in the schedule, the unsorted group is served."""
    unfinished = set(failed)
    places = [place for place, row in enumerate(scheduled) if row in unfinished]
    for first in range(0, len(places), base):
        batch = places[first : first + base]
        wrong = [rows[place] for place in batch]
        ends, began, ended = dict(tally.ends), dict(tally.began_s), dict(tally.ended_s)
        _decode(tally, wrong, lengths, prompt_tokens, full_cap, {})
        steps = tally.ends[wrong[0]]
        tally.ends, tally.began_s, tally.ended_s = ends, began, ended
        for place in batch:
            right = scheduled[place]
            tally.ends[right], tally.ended_s[right] = steps, tally.seconds
            # The answer to another prompt is handed out, and counted.
            tally.kept += min(int(lengths[rows[place]]), full_cap)
            tally.kept -= min(int(lengths[right]), full_cap)


def _decode(
    tally: Tally,
    members: Sequence[int],
    lengths: Ints,
    prompt_tokens: Sequence[int],
    cap: int,
    has: dict[int, int],
) -> None:
    """One batch, to its end or its cap; `has` holds the tokens that each answer has."""
    before = [has.get(row, 0) for row in members]
    steps = max(
        min(int(lengths[row]), cap) - begun for row, begun in zip(members, before, strict=True)
    )
    for row in members:
        tally.began_s.setdefault(row, tally.seconds)
    tally.batches += 1
    tally.steps += steps
    tally.computed += steps * len(members)
    tally.seconds += steps * step_s(len(members))
    longest_prompt = max(
        prompt_tokens[row] + begun for row, begun in zip(members, before, strict=True)
    )
    tally.peak_tokens = max(tally.peak_tokens, len(members) * (longest_prompt + steps))
    for row in members:
        has[row] = min(int(lengths[row]), cap)
        tally.ends[row], tally.ended_s[row] = steps + 1, tally.seconds
