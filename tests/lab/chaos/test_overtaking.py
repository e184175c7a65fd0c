"""Which overtaking is allowed, as docs/concepts/ordering.md defines it."""

from __future__ import annotations

import random

from lengthwise_lab.chaos.checks.overtaking import Overtaking, WaitingInterval, find_overtaking


def waited(
    name: str,
    *,
    since: float,
    until: float,
    slack: float = 0.0,
    offset: float = 0.0,
    started: bool = True,
    sure: bool = True,
) -> WaitingInterval:
    """Make an interval, ms. `slack`: k times the predicted length."""
    return WaitingInterval(
        id=name,
        since=since,
        until=until,
        started=started,
        due=since + offset + slack,
        rank=since + offset,
        sure=sure,
    )


def clean(found: Overtaking) -> bool:
    return not found.out_of_order and not found.beyond_bound


def test_a_short_job_that_came_soon_after_a_long_one_may_overtake_it() -> None:
    found = find_overtaking(
        [waited("long", since=0, until=5000, slack=3000), waited("short", since=2900, until=4000)]
    )
    assert clean(found)
    assert found.overtaken == 1


def test_a_job_that_came_later_than_k_times_the_others_length_may_not_overtake_it() -> None:
    found = find_overtaking(
        [waited("long", since=0, until=5000, slack=3000), waited("short", since=3001, until=4000)]
    )
    assert found.beyond_bound == [("long", "short")]
    assert found.out_of_order == [("long", "short")]


def test_overtaking_within_the_bound_against_the_due_times_is_only_out_of_order() -> None:
    found = find_overtaking(
        [
            waited("first", since=0, until=5000, slack=3000),
            waited("second", since=100, until=4000, slack=2950),
        ]
    )
    assert found.out_of_order == [("first", "second")]
    assert not found.beyond_bound


def test_a_class_moves_the_bound_by_its_offset() -> None:
    batch = waited("batch", since=0, until=9000, offset=5000, slack=100)
    assert clean(find_overtaking([batch, waited("soon", since=5050, until=6000)]))
    late = find_overtaking([batch, waited("late", since=5150, until=6000)])
    assert late.beyond_bound == [("batch", "late")]


def test_a_job_that_started_before_the_other_came_did_not_overtake_it() -> None:
    found = find_overtaking(
        [waited("a", since=5000, until=9000), waited("b", since=0, until=4000, slack=60_000)]
    )
    assert clean(found)
    assert found.overtaken == 0


def test_a_job_that_left_the_queue_without_a_start_may_have_been_overtaken() -> None:
    gone = waited("gone", since=0, until=5000, slack=1000, started=False)
    assert find_overtaking([gone, waited("late", since=2000, until=3000)]).beyond_bound == [
        ("gone", "late")
    ]


def test_a_job_that_never_started_overtook_no_job() -> None:
    found = find_overtaking(
        [waited("a", since=0, until=5000), waited("gone", since=2000, until=3000, started=False)]
    )
    assert clean(found)


def test_jobs_of_one_claim_are_not_compared() -> None:
    found = find_overtaking(
        [waited("a", since=0, until=4000, slack=10), waited("b", since=500, until=4000)]
    )
    assert clean(found)


def test_a_delayed_job_is_not_checked_and_is_counted() -> None:
    found = find_overtaking(
        [waited("a", since=0, until=5000, sure=False), waited("b", since=900, until=3000)]
    )
    assert clean(found)
    assert found.unsure == 1


def test_the_fast_search_finds_what_a_comparison_of_all_pairs_finds() -> None:
    rng = random.Random(5)  # noqa: S311 - must repeat
    for _ in range(50):
        intervals = []
        for i in range(rng.randrange(1, 40)):
            since = float(rng.randrange(1000))
            intervals.append(
                waited(
                    f"j{i}",
                    since=since,
                    until=since + rng.randrange(1, 500),
                    slack=float(rng.randrange(300)),
                    offset=float(rng.choice((0, 200))),
                    started=rng.random() < 0.9,
                )
            )

        def behind(one: WaitingInterval, other: WaitingInterval) -> bool:
            return other.started and one.since < other.until < one.until

        found = find_overtaking(intervals)
        want = {a.id for a in intervals if any(behind(a, b) and b.due > a.due for b in intervals)}
        assert {pair[0] for pair in found.out_of_order} == want
        want = {a.id for a in intervals if any(behind(a, b) and b.rank > a.due for b in intervals)}
        assert {pair[0] for pair in found.beyond_bound} == want
