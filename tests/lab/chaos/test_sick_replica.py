"""Two replicas, one sick: the comparison with the healthy one alone, with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from lengthwise_lab.chaos.sick_replica import MOST_RATIO, SickReplicaRow, compare
from lengthwise_lab.chaos.system.sickness import Sickness


@pytest.mark.slow
def test_a_replica_that_answers_404_is_left_out_and_the_other_one_answers_all(
    tmp_path: Path,
) -> None:
    rows = uvloop.run(compare(tmp_path, print, kinds=(Sickness.NOT_FOUND,), jobs=16))
    assert [row.kind for row in rows] == [None, Sickness.NOT_FOUND]
    assert [row.dead_letters for row in rows] == [0, 0]
    assert rows[0].ratio == 1.0
    assert rows[1].sick_calls > 0


@pytest.mark.parametrize(
    ("dead_letters", "ratio", "want"),
    [(0, 1.0, True), (1, 1.0, False), (0, MOST_RATIO + 0.01, False)],
    ids=["no harm", "a dead letter", "too late"],
)
def test_a_dead_letter_or_a_late_answer_is_harm(
    dead_letters: int, ratio: float, want: bool
) -> None:
    row = SickReplicaRow(
        kind=Sickness.HANG,
        dead_letters=dead_letters,
        mean_s=1.0,
        longest_s=2.0,
        ratio=ratio,
        sick_calls=8,
    )
    assert row.ok is want
    assert row.as_json()["kind"] == "hang"
