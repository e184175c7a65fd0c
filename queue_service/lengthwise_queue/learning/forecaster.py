"""Predict lengths with what was learned, while a job is admitted. Called by `admission.submit`.

A forecast takes a fraction of a millisecond and no round trip: what was learned is in memory, and
is read from Redis in the background when another fit was published. Nothing here stops a job:
without a fit, or without a view, the predictor's own prediction counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

from lengthwise_contract.prediction import Prediction, PredictRequest
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_learning.evidence import Submission
from lengthwise_learning.learned import Learned
from lengthwise_queue.learning.fits import LearnedFits
from lengthwise_queue.learning.kept_rate import KeptRate
from lengthwise_queue.learning.request_text import RequestText, predict_request
from lengthwise_queue.learning.submissions import Names, RequestNames, submission_of
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_store.learning.store import LearningStore
from lengthwise_store.prediction_record import LearnedPrediction

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Forecasted:
    """What was learned about a job.

    Attributes:
        learning: For its price and its record; None: the queue does not learn from it.
        submission: Stored with the job; b"": nothing.
    """

    learning: LearnedPrediction | None = None
    submission: bytes = b""


#: Of a job that is not learned from.
NOTHING = Forecasted()


class Question:
    """One job's question to the predictor, and what is made of the answer."""

    def __init__(
        self,
        request: PredictRequest | None,
        forecast: Callable[[Prediction], Forecasted] | None,
    ) -> None:
        self.request = request  #: None: the job has no text.
        self._forecast = forecast

    def forecast(self, prediction: Prediction | None) -> Forecasted:
        """Return what was learned about the job, given the predictor's answer."""
        if prediction is None or self._forecast is None:
            return NOTHING
        return self._forecast(prediction)


class Forecaster:
    """Predicts with what the queues learned. One object per app."""

    def __init__(
        self,
        store: LearningStore,
        *,
        key: bytes | None,
        start: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        """Read nothing yet.

        Args:
            store: The evidence, and what was learned.
            key: The secret of the hashes; None: the one in Redis.
            start: Runs what no client waits for.
        """
        self._store = store
        self._key = key
        self._names: Names | None = None
        self._kept = KeptRate()
        self.fits = LearnedFits(store, start)

    async def names(self) -> Names:
        """Return the maker of hashes, with the installation's secret.

        Raises:
            StoreUnavailable: Redis has the secret and does not answer.
        """
        if self._names is None:
            self._key = self._key or await self._store.key()
            self._names = Names(self._key)
        return self._names

    async def word_key(self, settings: QueueSettings) -> bytes | None:
        """Return the secret that hashes the words of a queue; None: they stay readable.

        Raises:
            StoreUnavailable: As for `names`.
        """
        await self.names()
        return None if settings.keep_words == "readable" else self._key

    async def question(self, snapshot: QueueSnapshot, tenant: str, asked: RequestText) -> Question:
        """Make the question to the predictor about one job.

        Raises:
            StoreUnavailable: As for `names`.
        """
        if not asked.text:
            return Question(None, None)
        settings, queue = snapshot.settings, snapshot.queue.name
        if settings.learning == "off":
            request = predict_request(queue, asked, application=None, view=False)
            return Question(request, None)
        names = await self.names()
        word_key = await self.word_key(settings)
        named = names.request(
            tenant,
            instructions=asked.instructions,
            text=asked.text,
            asked=asked.prompts if asked.messages is None else asked.messages,
            facts=dict(asked.facts),
        )
        llm = names.llm(queue, settings, asked.facts.get("adapter"))
        request = predict_request(queue, asked, application=named.application, view=True)
        learned = self.fits.of(queue, snapshot.stats.fit)

        def forecast(prediction: Prediction) -> Forecasted:
            made = _forecasted(snapshot, learned, prediction, named, llm, word_key, asked.answers)
            if made.submission and not self._kept.take(queue, time.monotonic()):
                return replace(made, submission=b"")
            return made

        return Question(request, forecast)


def _forecasted(
    snapshot: QueueSnapshot,
    learned: Learned | None,
    prediction: Prediction,
    named: RequestNames,
    llm: str,
    word_key: bytes | None,
    answers: int,
) -> Forecasted:
    submission = submission_of(prediction, named, llm, word_key)
    if submission is None:
        return NOTHING
    learning = learned_prediction(snapshot, learned, submission)
    if answers != 1:  # their lengths are counted together, so nothing is learned from them
        return Forecasted(learning=learning)
    kept = replace(submission, learned=learning.learned, young=learning.young)
    return Forecasted(learning=learning, submission=kept.pack())


def learned_prediction(
    snapshot: QueueSnapshot, learned: Learned | None, submission: Submission
) -> LearnedPrediction:
    """Predict with every candidate, and choose the one that the queue serves."""
    forecast = None if learned is None else learned.predict(submission)
    if forecast is None:
        return LearnedPrediction()
    made = LearnedPrediction(learned=forecast.learned, young=forecast.young)
    wanted = snapshot.serving
    if wanted == "static":
        return made
    # The young candidate may be missing in the fit that is in memory.
    return replace(made, served="learned" if made.of(wanted) is None else wanted)
