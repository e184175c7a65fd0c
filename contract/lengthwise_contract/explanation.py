"""The explanation of a job's place in the queue.

Used by the queue service and the command line. Times are ms since the epoch, by the clock of
Redis.
"""

from __future__ import annotations

from pydantic import Field

from lengthwise_contract.bodies import View
from lengthwise_contract.prediction import Prediction, PredictionCandidate, PredictionQuality
from lengthwise_contract.queue_settings import PolicyName, QueueMode
from lengthwise_contract.states import JobState


class LengthQuantiles(View):
    """The length of one answer, as quantiles."""

    p10_tokens: float = Field(description="10 % of such answers are shorter, tokens")
    p50_tokens: float = Field(description="The median length of such answers, tokens")
    p90_tokens: float = Field(description="90 % of such answers are shorter, tokens")


class SimilarJobView(View):
    """A finished job of the same tenant that is like the job."""

    similarity: float = Field(description="0 to 1; 1 is the same request")
    output_tokens: int = Field(description="Length of its answer, tokens")
    cut: bool = Field(description="Whether its answer was cut at its cap")


class LearningExplanation(View):
    """What the queue learned about a job from its finished jobs."""

    static_tokens: float = Field(description="Median length that the predictor returned, tokens")
    learned_tokens: float | None = Field(
        description="Median length learned from all finished jobs, tokens; null: nothing was "
        "learned yet"
    )
    young_tokens: float | None = Field(
        description="Median length learned from the newest jobs only, tokens; null: likewise"
    )
    served: PredictionCandidate = Field(description="Which of them set the job's place")
    serving: PredictionCandidate = Field(description="Which of them the queue serves now")
    tau_static: float | None = Field(
        description="Kendall's rank correlation of the predictor's lengths and the real ones, over "
        "the last answers: the order before anything was learned; null: too few answers"
    )
    tau_learned: float | None = Field(description="The same of the learned lengths")
    tau_served: float | None = Field(description="The same of the lengths that were served")
    similar: list[SimilarJobView] = Field(
        description="The most similar of the tenant's own finished jobs, the most similar first"
    )


class Explanation(View):
    """`GET /v1/jobs/{id}/explain`: why the job is at its place in the queue."""

    id: str
    queue: str
    state: JobState
    tenant: str = Field(default="default", description="The tenant that submitted the job")
    policy: PolicyName = Field(description="The policy when the job was accepted")
    active_policy: PolicyName = Field(default="sjf", description="The policy in force now")
    fallback: bool = Field(
        default=False,
        description="Whether `sjf` is suspended, because the predictions are degraded",
    )
    mode: QueueMode = "open"
    prediction: Prediction | None = Field(
        description="As the predictor returned it; null: it did not answer in time"
    )
    calibrated: LengthQuantiles | None = Field(
        default=None,
        description="The prediction, corrected by the answers that had ended when the job was "
        "accepted; null: it was not corrected",
    )
    calibration_samples: int = Field(
        default=0, description="Answers that the correction of this predictor rests on now"
    )
    rank_accuracy: float | None = Field(
        default=None, description="The queue's `rank_accuracy`; null: too few answers"
    )
    prediction_quality: PredictionQuality = Field(
        default="insufficient_data", description="The queue's `prediction_quality`"
    )
    learning: LearningExplanation | None = Field(
        default=None, description="What the queue learned; null: it does not learn from this job"
    )
    predicted_tokens: float = Field(description="The length that the job is ordered by, tokens")
    ms_per_token: float = Field(
        description="What one output token costs in this queue, as measured, ms"
    )
    predicted_ms: float = Field(description="`predicted_tokens` x `ms_per_token`, ms")
    overtake_factor: float = Field(description="The queue's `overtake_factor`, k")
    overtake_bound_ms: float = Field(
        default=0,
        description="No job of the same class that was accepted more than this later is served "
        "earlier, ms; fixed when the job was accepted",
    )
    class_offset_ms: float = Field(description="The offset of the job's class, ms")
    accepted_ms: float = Field(description="When the job was accepted")
    due_ms: float = Field(description="Its due time: the waiting job with the smallest is next")
    position: int | None = Field(
        description="How many jobs of its tenant are ahead; null: the job is not waiting"
    )
    tokens_ahead: float | None = Field(
        description="Predicted tokens that are served before it, those of other tenants included; "
        "null: the job is not waiting"
    )
    estimated_start_ms: float | None = Field(
        description="When it is expected to start; null: unknown"
    )
    fcfs_wait_ms: float | None = Field(
        default=None,
        description="How long it would have waited under `fcfs`, ms; null: not known yet",
    )
    why: str = Field(description="The explanation in words")
