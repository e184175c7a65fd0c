"""Which overtaking is allowed: docs/concepts/ordering.md, to the letter."""

from __future__ import annotations

import random

from lengthwise_lab.chaos.checks.overtaking import Overtaking, Stay, judge


def stay(
    name: str,
    *,
    since: float,
    until: float,
    slack: float = 0.0,
    offset: float = 0.0,
    started: bool = True,
    sure: bool = True,
) -> Stay:
    """A stay in the line, ms; `slack`: k times its predicted length."""
    return Stay(
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


def test_a_short_job_that_came_soon_after_may_pass_a_long_one() -> None:
    found = judge(
        [stay("long", since=0, until=5000, slack=3000), stay("short", since=2900, until=4000)]
    )
    assert clean(found)
    assert found.overtaken == 1


def test_a_job_that_came_later_than_k_times_the_others_length_may_not_pass_it() -> None:
    found = judge(
        [stay("long", since=0, until=5000, slack=3000), stay("short", since=3001, until=4000)]
    )
    assert found.beyond_bound == [("long", "short")]
    assert found.out_of_order == [("long", "short")]


def test_passing_within_the_bound_against_the_due_times_is_out_of_order_only() -> None:
    found = judge(
        [
            stay("first", since=0, until=5000, slack=3000),
            stay("second", since=100, until=4000, slack=2950),
        ]
    )
    assert found.out_of_order == [("first", "second")]
    assert not found.beyond_bound


def test_a_class_moves_the_bound_by_its_offset() -> None:
    batch = stay("batch", since=0, until=9000, offset=5000, slack=100)
    assert clean(judge([batch, stay("soon", since=5050, until=6000)]))
    late = judge([batch, stay("late", since=5150, until=6000)])
    assert late.beyond_bound == [("batch", "late")]


def test_who_started_before_the_other_came_did_not_overtake_it() -> None:
    found = judge([stay("a", since=5000, until=9000), stay("b", since=0, until=4000, slack=60_000)])
    assert clean(found)
    assert found.overtaken == 0


def test_a_job_that_left_the_line_without_a_start_can_have_been_overtaken() -> None:
    gone = stay("gone", since=0, until=5000, slack=1000, started=False)
    assert judge([gone, stay("late", since=2000, until=3000)]).beyond_bound == [("gone", "late")]


def test_a_job_that_never_started_overtook_nobody() -> None:
    found = judge(
        [stay("a", since=0, until=5000), stay("gone", since=2000, until=3000, started=False)]
    )
    assert clean(found)


def test_jobs_of_one_claim_are_not_compared() -> None:
    found = judge([stay("a", since=0, until=4000, slack=10), stay("b", since=500, until=4000)])
    assert clean(found)


def test_of_a_delayed_job_nothing_is_said_and_that_is_told() -> None:
    found = judge([stay("a", since=0, until=5000, sure=False), stay("b", since=900, until=3000)])
    assert clean(found)
    assert found.unsure == 1


def test_the_fast_way_finds_what_looking_at_every_pair_finds() -> None:
    dice = random.Random(5)  # noqa: S311 - must repeat
    for _ in range(50):
        stays = []
        for i in range(dice.randrange(1, 40)):
            since = float(dice.randrange(1000))
            stays.append(
                stay(
                    f"j{i}",
                    since=since,
                    until=since + dice.randrange(1, 500),
                    slack=float(dice.randrange(300)),
                    offset=float(dice.choice((0, 200))),
                    started=dice.random() < 0.9,
                )
            )

        def behind(one: Stay, other: Stay) -> bool:
            return other.started and one.since < other.until < one.until

        found = judge(stays)
        want = {a.id for a in stays if any(behind(a, b) and b.due > a.due for b in stays)}
        assert {pair[0] for pair in found.out_of_order} == want
        want = {a.id for a in stays if any(behind(a, b) and b.rank > a.due for b in stays)}
        assert {pair[0] for pair in found.beyond_bound} == want
