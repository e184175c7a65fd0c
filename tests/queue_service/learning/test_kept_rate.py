from __future__ import annotations

from lengthwise_queue.learning.kept_rate import AT_ONCE, PER_S, KeptRate


def test_a_burst_is_kept_whole_and_a_lasting_flood_at_a_bounded_rate() -> None:
    rate = KeptRate()
    assert all(rate.take("q", 0.0) for _ in range(int(AT_ONCE)))
    assert not rate.take("q", 0.0)
    assert rate.take("another", 0.0)
    flood = sum(rate.take("q", i / 1000) for i in range(10_000))
    assert abs(flood - 10 * PER_S) <= 1
    assert rate.take("q", 10_000.0)
