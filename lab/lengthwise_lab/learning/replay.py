"""Replay a stream of jobs through the product's predictor, learner, promotion and calibration.

Each job is predicted before its length is known, as in the queue service. After so many jobs, what
was learned until then predicts the next ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lengthwise_contract.defaults import ANSWERS_KEPT
from lengthwise_contract.prediction import Prediction
from lengthwise_lab.learning.order import Gain, gains
from lengthwise_lab.learning.streams import LearnJob
from lengthwise_learning.evidence import Evidence, Submission
from lengthwise_learning.learned import Forecast, Learned
from lengthwise_learning.learner import fit
from lengthwise_learning.promotion import JUDGED, MOST_EVIDENCE, Candidate, due, serves
from lengthwise_learning.view import View
from lengthwise_queue.prediction import calibration_fit
from lengthwise_queue.prediction.accuracy import pair_accuracy, tau_b
from lengthwise_queue.prediction.calibration import Calibration, shape_of
from lengthwise_queue.prediction.candidates import moved
from lengthwise_queue.prediction.expected_length import expected_tokens
from lengthwise_store.prediction_record import MeasuredAnswer, Quantiles

#: After so many jobs the predictions are measured.
CHECKPOINTS = (0, 50, 100, 250, 500, 1000, 2000, 5000, 10_000)

#: They are measured on so many of the next jobs, and at least so many.
MOST_SCORED, LEAST_SCORED = 1000, 100

#: The choice between the candidates is made again after so many jobs.
_JUDGED_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class After:
    """Predictions for the next jobs, by what was learned from the first `jobs` ones.

    Attributes:
        jobs: Finished jobs.
        scored: Jobs that were predicted.
        tau: Tau-b of the real lengths and of `static`, `learned` (before the first fit: static) and
            `served`, which is what jobs are ordered by.
        pairs: The same: share of pairs in order.
        within: The same: tau-b within an application, the mean over applications.
        gain_095, gain_12: What the order by `static` and by `served` gains at these loads.
        candidate: Whose prediction is served.
    """

    jobs: int
    scored: int
    tau: dict[str, float]
    pairs: dict[str, float]
    within: dict[str, float]
    gain_095: dict[str, Gain]
    gain_12: dict[str, Gain]
    candidate: Candidate


@dataclass(kw_only=True)
class Replay:
    """What a replay measured.

    Attributes:
        after: By checkpoint.
        predict_us: CPU time of a learned prediction, microseconds: the median over all.
        fit_ms: CPU time of the last fit, ms.
    """

    after: list[After] = field(default_factory=list)
    predict_us: float = 0.0
    fit_ms: float = 0.0


#: Predicts a text for an LLM: the prediction and its view.
Predict = Callable[[str, str], tuple[Prediction, View]]


def replay(
    jobs: Sequence[LearnJob],
    predict: Predict,
    *,
    checkpoints: Sequence[int] = CHECKPOINTS,
    order: bool = True,
) -> Replay:
    """Replay a stream.

    Args:
        jobs: In the order in which they are submitted and finish.
        predict: The predictor.
        checkpoints: After how many jobs predictions are measured.
        order: Whether the gain of the order is simulated, which takes seconds a checkpoint.
    """
    run = _Run(predict)
    result = Replay()
    for number in range(len(jobs) + 1):
        if number in checkpoints and len(jobs) - number >= LEAST_SCORED:
            result.after.append(run.measure(number, jobs[number : number + MOST_SCORED], order))
        if number < len(jobs):
            run.finish(jobs[number], number + 1)
    result.predict_us = 1e6 * float(np.median(run.predict_s)) if run.predict_s else 0.0
    result.fit_ms = 1e3 * run.fit_s
    return result


class _Run:
    """The state of a queue."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._evidence: list[Evidence] = []
        self._answers: dict[Candidate, list[MeasuredAnswer]] = {c: [] for c in Candidate}
        self._learned: Learned | None = None
        self._candidate = Candidate.STATIC
        self.predict_s: list[float] = []
        self.fit_s = 0.0

    def finish(self, job: LearnJob, finished: int) -> None:
        """Predict a job, end it, and learn from it."""
        prediction, submission, forecast = self._submit(job)
        if forecast is not None:
            submission = replace(submission, learned=forecast.learned, young=forecast.young)
        self._evidence.append(
            Evidence(submission=submission, tokens=job.tokens, censored=job.censored)
        )
        del self._evidence[:-MOST_EVIDENCE]
        for candidate, one in _candidates(prediction, forecast).items():
            kept = self._answers[candidate]
            kept.append(_answer(job, one, candidate))
            del kept[:-ANSWERS_KEPT]
        if finished % _JUDGED_EVERY == 0:
            self._candidate = serves(self._evidence[-JUDGED:], self._candidate)
        if due(0 if self._learned is None else self._learned.finished, finished):
            began = time.thread_time()
            self._learned = fit(self._evidence, finished=finished)
            self.fit_s = time.thread_time() - began

    def measure(self, finished: int, jobs: Sequence[LearnJob], order: bool) -> After:
        """Predict jobs by what is known now."""
        calibrations = {c: calibration_fit.fit(a) for c, a in self._answers.items()}
        raw: dict[str, list[float]] = {"static": [], "learned": [], "served": []}
        priced: dict[str, list[float]] = {"static": [], "served": []}
        for job in jobs:
            prediction, _, forecast = self._submit(job)
            found = _candidates(prediction, forecast)
            raw["static"].append(prediction.p50_tokens)
            raw["learned"].append(found.get(Candidate.LEARNED, found[Candidate.STATIC])[1])
            static = _price(job, found[Candidate.STATIC], calibrations[Candidate.STATIC])
            priced["static"].append(static)
            chosen = self._candidate if self._candidate in found else Candidate.STATIC
            priced["served"].append(_price(job, found[chosen], calibrations[chosen]))
        raw["served"] = priced["served"]
        tokens = [job.tokens for job in jobs]
        lengths = [len(job.prompt) // 4 + 1 for job in jobs]
        return After(
            jobs=finished,
            scored=len(jobs),
            tau={k: tau_b(zip(v, tokens, strict=True)) or 0.0 for k, v in raw.items()},
            pairs={k: pair_accuracy(zip(v, tokens, strict=True)) or 0.5 for k, v in raw.items()},
            within=_within(jobs, raw),
            gain_095=gains(tokens, lengths, dict(priced), load=0.95) if order else {},
            gain_12=gains(tokens, lengths, dict(priced), load=1.2) if order else {},
            candidate=self._candidate,
        )

    def _submit(self, job: LearnJob) -> tuple[Prediction, Submission, Forecast | None]:
        prediction, view = self._predict(job.prompt, job.llm)
        submission = Submission(
            view=view,
            llm=job.tag,
            application=job.application,
            request=job.prompt,
            static=float(np.log(prediction.p50_tokens)),
        )
        if self._learned is None:
            return prediction, submission, None
        began = time.thread_time()
        forecast = self._learned.predict(submission)
        self.predict_s.append(time.thread_time() - began)
        return prediction, submission, forecast


def _candidates(prediction: Prediction, forecast: Forecast | None) -> dict[Candidate, Quantiles]:
    raw = (prediction.p10_tokens, prediction.p50_tokens, prediction.p90_tokens)
    found = {Candidate.STATIC: raw}
    if forecast is not None:
        found[Candidate.LEARNED] = moved(raw, forecast.learned)
        if forecast.young is not None:
            found[Candidate.YOUNG] = moved(raw, forecast.young)
    return found


def _answer(job: LearnJob, raw: Quantiles, candidate: Candidate) -> MeasuredAnswer:
    return MeasuredAnswer(
        tokens=job.tokens,
        priced=raw[1],
        raw=raw,
        predictor=candidate.value,
        max_tokens=job.tokens if job.censored else job.cap,
        shape=shape_of(job.prompt),
    )


def _price(job: LearnJob, raw: Quantiles, calibration: Calibration) -> float:
    p10, p50, p90 = raw
    prediction = Prediction(
        model_version="",
        p10_tokens=p10,
        p50_tokens=p50,
        p90_tokens=p90,
        mean_tokens=p50,
        rank_score=p50,
    )
    calibrated = calibration.apply(prediction, shape_of(job.prompt))
    return expected_tokens(calibration.for_price(calibrated), median_tokens=0.0, max_tokens=job.cap)


def _within(jobs: Sequence[LearnJob], predicted: dict[str, list[float]]) -> dict[str, float]:
    groups: dict[str, list[int]] = {}
    for at, job in enumerate(jobs):
        groups.setdefault(job.application, []).append(at)
    out = {}
    for name, values in predicted.items():
        taus = [
            tau_b((values[at], jobs[at].tokens) for at in members) for members in groups.values()
        ]
        known = [t for t in taus if t is not None]
        if known and len(groups) > 1:
            out[name] = float(np.mean(known))
    return out
