"""Static batches, grouped by predicted length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_lab.reproductions.seqsch.grouping import (
    PROBLEN_TABLE,
    SEQSCH_TABLE,
    by_length,
    by_table,
    in_order,
)
from lengthwise_worker.engines.transformers.sequence_scheduling import PlannedBatch, by_memory

lengths = st.lists(st.integers(1, 512), min_size=1, max_size=300)


def by_unit_memory(of: Sequence[float]) -> list[PlannedBatch]:
    return by_memory(of, [10] * len(of), memory_tokens=2000, step_cost=lambda size: 10 + size)


@pytest.mark.parametrize(
    "plan",
    [
        lambda of: in_order(len(of), size=16, cap=512),
        lambda of: by_length(of, size=16),
        lambda of: by_table(of, SEQSCH_TABLE),
        lambda of: by_table(of, PROBLEN_TABLE),
        by_unit_memory,
    ],
    ids=["in order", "sorted", "seqsch table", "problen table", "memory"],
)
@given(of=lengths)
def test_every_answer_is_in_one_batch_whose_cap_holds_its_prediction(
    plan: Callable[[Sequence[float]], list[PlannedBatch]], of: list[int]
) -> None:
    batches = plan(of)
    assert sorted(at for batch in batches for at in batch.members) == list(range(len(of)))
    assert all(of[at] <= batch.cap for batch in batches for at in batch.members)


@pytest.mark.parametrize(
    ("bucket", "want"), [(50, 256), (100, 128), (150, 64), (200, 32), (250, 16), (550, 16)]
)
def test_the_table_of_sequence_scheduling(bucket: int, want: int) -> None:
    assert SEQSCH_TABLE.size(bucket) == want


@pytest.mark.parametrize(
    ("length", "bucket", "want"),
    [(101, 200, 256), (400, 400, 128), (555, 600, 64), (800, 800, 32), (801, 900, 16)],
)
def test_the_table_of_the_probabilistic_model(length: int, bucket: int, want: int) -> None:
    assert PROBLEN_TABLE.bucket(length) == bucket
    assert PROBLEN_TABLE.size(bucket) == want


def test_a_small_rest_of_a_bucket_joins_the_next_longer_one() -> None:
    # 64 answers of 150 tokens make a batch; the other 31 are fewer than half a batch.
    batches = by_table([150] * 95 + [400], SEQSCH_TABLE)
    assert [(len(batch.members), batch.cap) for batch in batches] == [
        (64, 150),
        (16, 400),
        (16, 400),
    ]


def test_the_rest_of_the_last_bucket_stays_a_batch() -> None:
    assert by_table([10], SEQSCH_TABLE) == [PlannedBatch(members=(0,), cap=50)]


@given(lengths)
def test_no_batch_takes_more_memory_than_there_is(of: list[int]) -> None:
    for batch in by_unit_memory(of):
        assert len(batch.members) * (10 + batch.cap) <= 2000


@given(st.lists(st.integers(1, 100), min_size=1, max_size=9))
def test_the_cut_by_memory_is_the_cheapest_there_is(of: list[int]) -> None:
    def cost(batches: Sequence[Sequence[int]]) -> float:
        return sum(max(batch) * (10 + len(batch)) for batch in batches)

    got = cost(
        [
            [of[at] for at in batch.members]
            for batch in by_memory(
                of, [0] * len(of), memory_tokens=250, step_cost=lambda size: 10 + size
            )
        ]
    )
    ascending = sorted(of)
    cheapest = float("inf")
    for cuts in range(2 ** (len(of) - 1)):
        batches: list[list[int]] = [[]]
        for at, length in enumerate(ascending):
            batches[-1].append(length)
            if cuts >> at & 1:
                batches.append([])
        whole = [batch for batch in batches if batch]
        if all(len(batch) * max(batch) <= 250 for batch in whole):
            cheapest = min(cheapest, cost(whole))
    assert got == cheapest


def test_an_answer_that_does_not_fit_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="300 tokens after a prompt of 10 does not fit into 200"):
        by_memory([300], [10], memory_tokens=200, step_cost=float)
