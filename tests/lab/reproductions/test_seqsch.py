"""Sequence scheduling, replayed by steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_lab.reproductions.seqsch.grouping import SEQSCH_TABLE, by_table, in_order
from lengthwise_lab.reproductions.seqsch.replay import Failures, ReplayCost, replay, step_s
from lengthwise_lab.reproductions.seqsch.rows import rows
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch


def two(caps: tuple[int, int], failures: Failures) -> ReplayCost:
    """Answers of 10, 50, 20 and 80 tokens; the first two run together, then the others."""
    plan = [PlannedBatch(members=(0, 1), cap=caps[0]), PlannedBatch(members=(2, 3), cap=caps[1])]
    return replay([10, 50, 20, 80], [5] * 4, lambda _: plan, failures, full_cap=100, base=2)


def test_without_failure_collection_a_batch_runs_until_all_have_finished() -> None:
    got = two((30, 30), Failures.NEVER)
    assert (got.steps, got.computed, got.kept, got.failed) == (130, 260, 160, 0)
    # As published: one more than the steps of its batch, for each answer.
    assert got.average_length == (51 + 51 + 81 + 81) / 4
    assert got.effective == 160 / 264


def test_a_restart_discards_the_tokens_so_far() -> None:
    got = two((30, 30), Failures.RESTART)
    # 30 and 30 steps, and 80 for the two failures together.
    assert (got.steps, got.computed, got.failed) == (140, 280, 2)
    # The publication does not count the attempts that failed.
    assert got.last == 31 + 81 + 31 + 81
    assert got.effective_of_all == 160 / 280


def test_a_resumed_answer_continues_from_its_tokens() -> None:
    got = two((30, 30), Failures.RESUME)
    # The two failures lack 20 and 50 tokens.
    assert (got.steps, got.computed, got.failed) == (110, 220, 2)


def test_the_published_code_restarts_the_answers_at_the_wrong_places() -> None:
    plan = [PlannedBatch(members=(3, 2), cap=30), PlannedBatch(members=(1, 0), cap=60)]
    got = replay(
        [10, 50, 20, 80], [5] * 4, lambda _: plan, Failures.RESTART_WRONG, full_cap=100, base=2
    )
    # Only answer 3 failed, first in the schedule: so answer 0, first in the group, is restarted.
    assert got.failed == 1
    assert got.kept == 10 + 50 + 20 + 10
    assert got.steps == 30 + 50 + 10


def test_a_step_costs_more_in_a_larger_batch() -> None:
    assert two((100, 100), Failures.NEVER).seconds == pytest.approx(130 * step_s(2))


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=60),
    st.lists(st.integers(1, 512), min_size=60, max_size=60),
    st.sampled_from([Failures.NEVER, Failures.RESTART, Failures.RESUME]),
)
def test_every_answer_is_finished_or_at_the_full_cap(
    actual: list[int], predicted: list[int], failures: Failures
) -> None:
    got = replay(
        actual,
        [7] * len(actual),
        lambda group: by_table([predicted[row] for row in group], SEQSCH_TABLE),
        failures,
        group=25,
    )
    assert got.kept == sum(min(length, 512) for length in actual)
    assert got.computed >= got.kept
    assert len(got.ends) == len(actual)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60))
def test_resuming_never_computes_more_than_restarting(actual: list[int]) -> None:
    def go(failures: Failures) -> int:
        return replay(
            actual,
            [7] * len(actual),
            lambda group: in_order(len(group), size=8, cap=100),
            failures,
        ).computed

    assert go(Failures.RESUME) <= go(Failures.RESTART)


@pytest.mark.slow
def test_the_rows_reproduce_the_replay_and_resuming_beats_the_published_restarts() -> None:
    found = rows(None)
    compared = [row for row in found if row.tolerance is not None]
    assert compared
    assert [(row.name, row.setting) for row in compared if not row.agrees] == []
    published = next(
        row
        for row in found
        if row.name == "throughput" and row.setting.startswith("predicted, VBS")
    )
    assert published.corrected is not None
    assert published.lengthwise is not None
    assert published.reproduced is not None
    assert published.lengthwise > published.corrected > published.reproduced
