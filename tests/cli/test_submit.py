"""What `lengthwise submit` prints about a job, from hand-made explanations."""

from __future__ import annotations

import pytest

from lengthwise_cli.commands.submit import describe
from lengthwise_contract.explanation import Explanation, LengthQuantiles
from lengthwise_contract.prediction import Prediction
from lengthwise_contract.states import JobState

PREDICTION = Prediction(
    model_version="1", p10_tokens=63, p50_tokens=144, p90_tokens=265, mean_tokens=152, rank_score=5
)


def explanation(**values: object) -> Explanation:
    why = Explanation(
        id="job",
        queue="m",
        state=JobState.QUEUED,
        policy="sjf",
        prediction=PREDICTION,
        predicted_tokens=152,
        ms_per_token=20,
        predicted_ms=3040,
        overtake_factor=3,
        class_offset_ms=0,
        accepted_ms=0,
        due_ms=9120,
        position=4,
        tokens_ahead=600,
        estimated_start_ms=3000,
        why="",
    )
    return why.model_copy(update=values)


def test_the_likely_range_is_the_corrected_one_that_the_price_is_made_of() -> None:
    # The range was the predictor's own: "predicted 331 tokens (63 to 265 likely)".
    corrected = LengthQuantiles(p10_tokens=90, p50_tokens=248, p90_tokens=631)
    got = describe(explanation(predicted_tokens=331, calibrated=corrected))
    assert got == "predicted 331 tokens (90 to 631 likely); 4 ahead"


def test_a_request_with_a_cap_below_its_likely_length_is_predicted_to_end_there() -> None:
    assert describe(explanation(predicted_tokens=20)).startswith("predicted 20 tokens (20 to 20 ")


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({"mode": "paused"}, "nothing starts: POST /v1/queues/m/resume"),
        ({"estimated_start_ms": None}, "nothing starts: no worker serves m, start one"),
    ],
    ids=["paused", "no worker"],
)
def test_a_job_that_cannot_start_names_the_remedy(values: dict[str, object], want: str) -> None:
    assert describe(explanation(**values)).endswith(f"; 4 ahead; {want}")
