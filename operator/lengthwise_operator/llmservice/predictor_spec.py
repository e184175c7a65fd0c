"""The length predictor of a service: `spec.predictor`. Pure.

Where the queue service has the same setting, the default comes from the contract.
"""

from __future__ import annotations

from pydantic import Field

from lengthwise_contract.defaults import RELOAD_EVERY_S
from lengthwise_contract.queue_settings import KeptWords, LearningMode, QueueSettings
from lengthwise_operator.llmservice.fields import DURATION, Part, duration_of
from lengthwise_operator.llmservice.pod_spec import Resources

_DEFAULTS = QueueSettings()


class PredictorSpec(Part):
    """What predicts the length of answers."""

    model: str = Field(
        default="bundled",
        pattern=r"^(bundled|pvc://\S+)$",
        max_length=512,
        description="`bundled`: the model that ships with Lengthwise. `pvc://claim/folder`: your "
        "own model (model.onnx, tokenizer.json, model.json), always in separate pods.",
    )
    url: str = Field(
        default="",
        max_length=512,
        pattern=r"^(https?://\S+)?$",
        description="URL of a predictor that you run and that serves POST /v1/predict/batch; the "
        "operator then starts none. Empty: see model.",
    )
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Predictor pods for this service alone. Left out: the installation's shared "
        "predictor serves `bundled` if there is one, else 1. 0: no predictor; every job is assumed "
        "to have the median length.",
    )
    resources: Resources = Field(
        default_factory=Resources, description="Resources of each of those pods; one core suffices."
    )
    min_rank_accuracy: float = Field(
        default=_DEFAULTS.min_rank_accuracy or 0.0,
        ge=0,
        le=0.99,
        description="The queue serves first come, first served while the share of pairs of recent "
        "answers that were predicted in the right order is below this. A random order has 0.5, a "
        "perfect one 1. Below 0.5: the queue never falls back.",
    )
    drift_window: str = Field(
        default=duration_of(_DEFAULTS.drift_window_ms or 0),
        pattern=DURATION,
        max_length=32,
        description="Answers older than this do not count in the measured quality of the "
        "predictor; 1m to 720h, such as 1h30m. 0s: the last 256 answers count, however old.",
    )
    learning: LearningMode = Field(
        default=_DEFAULTS.learning,
        description="Whether the queue learns lengths from its finished jobs. auto: what it "
        "learned is served while it orders answers at least as well as the predictor. shadow: it "
        'learns, and the predictor is served. "off": it does not learn. (In quotes: YAML reads '
        "off as false.)",
    )
    keep_words: KeptWords = Field(
        default=_DEFAULTS.keep_words,
        description="How the words of finished requests are kept, from which the queue learns. "
        "hashed: keyed by a secret. readable: anyone who reads Redis can turn them back into "
        "words. A change deletes what was learned.",
    )
    reload_every: str = Field(
        default=duration_of(round(RELOAD_EVERY_S * 1000)),
        pattern=DURATION,
        max_length=32,
        description="How often a predictor with its own model checks the model's folder for a "
        "change and loads it without a restart; at most 24h. 0s: never.",
    )
