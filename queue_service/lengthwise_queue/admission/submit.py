"""Submit a checked request as a job: price it, and put it into the queue.

Called by the OpenAI routes, by `POST /v1/jobs` and by the work on batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import uuid_utils

from lengthwise_contract.jobs import EndpointPath
from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.admission.job_options import JobOptions
from lengthwise_queue.admission.limits import Limits
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.admission.prompt_length import PromptLength
from lengthwise_queue.background.tasks import BackgroundTasks
from lengthwise_queue.background.withdrawals import Withdrawals
from lengthwise_queue.errors import (
    BadRequest,
    ModelNotFound,
    QueueDraining,
    QueueOverloaded,
    SubmitUnconfirmed,
)
from lengthwise_queue.learning.forecaster import Forecaster, Question
from lengthwise_queue.metrics import Metrics, refusal
from lengthwise_queue.prediction.calibration import shape_of
from lengthwise_queue.prediction.client import Fallback
from lengthwise_queue.prediction.predictors import Predictors
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.pricing import Price
from lengthwise_queue.scheduling.snapshot import QueueCache, QueueSnapshot
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.errors import LengthwiseError, NotConfirmed, StoreUnavailable
from lengthwise_store.jobs import Accepted, NewJob, QueueFull
from lengthwise_store.store import JobStore

#: The longest wait for a late prediction, s. A job that waits less in the queue has no use for it.
LATE_PREDICTION_S = 30.0


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job that is in the queue. Its id is `accepted.id`; `new` is what was submitted."""

    queue: str
    new: NewJob
    accepted: Accepted


class Admission:
    """Turns requests into jobs. One object per app.

    Args:
        store: Where the jobs go.
        queue_cache: The settings and figures of the queues.
        predictors: Predict the length of an answer.
        forecaster: Predicts it with what the queue learned.
        prompt_length: Refuses prompts that are too long for the model.
        weight_of: Returns the weight of a tenant, > 0.
        metrics: Count the accepted and the refused.
        tasks: Run what the client does not wait for.
        withdrawals: Cancel the jobs of clients that get an error.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        queue_cache: QueueCache,
        predictors: Predictors,
        forecaster: Forecaster,
        prompt_length: PromptLength,
        weight_of: Callable[[str], float],
        metrics: Metrics,
        tasks: BackgroundTasks,
        withdrawals: Withdrawals,
    ) -> None:
        self._store = store
        self._queue_cache = queue_cache
        self._predictors = predictors
        self._forecaster = forecaster
        self._prompt_length = prompt_length
        self._limits = Limits(queue_cache, weight_of)
        self._metrics = metrics
        self._tasks = tasks
        self._withdrawals = withdrawals

    async def submit(
        self,
        tenant: Tenant,
        endpoint: EndpointPath,
        body: bytes,
        parsed: ParsedRequest,
        options: JobOptions,
    ) -> SubmittedJob:
        """Price a job and put it into the queue.

        Args:
            tenant: The tenant that submits it.
            endpoint: The path of the engine that it requests.
            body: The engine's request body; stored unchanged.
            parsed: The facts about the body.
            options: What the client requested beside it.

        Raises:
            BadRequest: The queue has no such class, or the request is too long for the model.
            ModelNotFound: No queue serves the model, or the tenant may not use it.
            KeyConflict: The idempotency key belongs to another request.
            QueueOverloaded: The queue, or the tenant's share of it, is full; the tenant has spent
                its rate; or the job would wait longer than the queue allows.
            QueueDraining: The queue accepts no new jobs, or (`NoWorkers`) not while no worker
                serves it.
            StoreUnavailable: Redis does not answer. If it has a `job_id`, that job may be stored.
        """
        try:
            snapshot = await self._queue_cache.get(tenant, parsed.model)
            return await self._submit(tenant, snapshot, endpoint, body, parsed, options)
        except LengthwiseError as exc:
            # The model may not exist, and the values of a label must be bounded.
            unknown = isinstance(exc, (ModelNotFound, StoreUnavailable))
            label = "" if unknown else parsed.model
            self._metrics.requests.labels(label, refusal(exc)).inc()
            if isinstance(exc, QueueOverloaded | QueueDraining):
                self._metrics.tenants.count(tenant.name, "refused")
            raise

    async def _submit(
        self,
        tenant: Tenant,
        snapshot: QueueSnapshot,
        endpoint: EndpointPath,
        body: bytes,
        parsed: ParsedRequest,
        options: JobOptions,
    ) -> SubmittedJob:
        settings, queue = snapshot.settings, snapshot.queue.name
        job_class = _job_class(settings, options.job_class)
        await self._prompt_length.check(settings, parsed)
        too_long_s = self._limits.too_long_s(tenant, snapshot)
        repeatable = options.idempotency_key is not None or (
            options.job_id is not None and not options.once
        )
        fresh = options.job_id is None or options.once
        no_workers = fresh and self._limits.no_workers(snapshot)
        if no_workers and not repeatable:
            raise self._limits.unserved(snapshot)
        if too_long_s is not None and not repeatable:
            raise self._limits.wait_too_long(tenant, snapshot, too_long_s)
        question = await self._forecaster.question(snapshot, tenant.name, parsed.request_text())
        attempt = await self._predictors.of(settings).ask(question.request)
        forecasted = question.forecast(attempt.prediction)
        price = partial(
            pricing.price,
            settings,
            snapshot.stats,
            job_class=job_class,
            max_tokens=parsed.max_tokens,
            bounds=parsed.bounds,
            answers=parsed.answers,
            calibrations=snapshot.calibrations,
            shape=shape_of(parsed.text or ""),
            # A late prediction is priced with the queue that its job found at submission.
            wait_ms=self._found_ms(tenant, snapshot),
            usual_tokens=snapshot.answer_statistics.usual_tokens,
            rank_accuracy=snapshot.answer_statistics.rank_accuracy,
        )
        cost = price(prediction=attempt.prediction, learning=forecasted.learning)
        # A length that the request forces says nothing about the predictor, and teaches nothing.
        natural = parsed.bounds.is_natural
        job = NewJob(
            id=options.job_id or str(uuid_utils.uuid7()),
            endpoint=endpoint,
            body=body,
            job_class=job_class,
            slack_ms=cost.slack_ms,
            offset_ms=cost.offset_ms,
            predicted_tokens=cost.tokens,
            predicted_ms=cost.ms,
            prediction=attempt.prediction if natural else None,
            basis=cost.basis,
            submission=forecasted.submission if natural else b"",
            max_attempts=options.max_attempts,
            delay_ms=options.delay_ms,
            ttl_ms=settings.request_ttl_ms if options.ttl_ms is None else options.ttl_ms,
            # Over the limit no new job is accepted, but an existing one is found by its key.
            max_depth=0 if no_workers or too_long_s is not None else settings.max_depth,
            idempotency_key=options.idempotency_key,
            request_id=options.request_id,
            fingerprint=options.fingerprint(endpoint, body) if options.idempotency_key else "",
            tenant=tenant.name,
            tenant_weight=tenant.weight,
            tenant_max_depth=tenant.max_depth(settings.max_depth),
            requests_per_minute=tenant.requests_per_minute,
            tokens_per_minute=tenant.tokens_per_minute,
        )
        again = options.job_id is not None and not options.once
        try:
            result = await self._store.submit(queue, job)
        except StoreUnavailable as exc:
            raise self._unconfirmed(exc, queue, job, repeatable=repeatable) from exc
        if isinstance(result, Accepted) and result.id == job.id and not again:
            # The reply was lost, and the connection sent it once more: it found its own job.
            result = replace(result, duplicate=False)
        is_new = isinstance(result, Accepted) and not result.duplicate
        if attempt.late is not None and is_new and natural:
            self._tasks.start(self._reprice(queue, job.id, attempt.late, question, price))
        elif attempt.late is not None:
            attempt.late.cancel()
        if no_workers and isinstance(result, QueueFull):
            raise self._limits.unserved(snapshot)
        if not isinstance(result, Accepted):
            raise self._limits.refused(tenant, snapshot, job, result, too_long_s)
        if is_new:
            self._queue_cache.note(queue, cost.tokens)
            self._metrics.tenants.count(tenant.name, "accepted")
            self._metrics.predicted.labels(queue).observe(cost.tokens)
            if snapshot.stats.active_policy == "sjf":
                self._metrics.overtake_bound.labels(queue).observe(
                    (cost.slack_ms - cost.offset_ms) / 1000
                )
        return SubmittedJob(queue=queue, new=job, accepted=result)

    def _unconfirmed(
        self, exc: StoreUnavailable, queue: str, job: NewJob, *, repeatable: bool
    ) -> StoreUnavailable:
        """Make the error for a job that may have been stored before its reply was lost."""
        if exc.unsent:
            return exc
        if not repeatable:  # with a key, or an id, the next try finds the job
            self._withdrawals.add(
                queue,
                job.id,
                lifetime_ms=job.delay_ms + job.ttl_ms,
                reason="submit was not confirmed",
            )
        error = exc if isinstance(exc, NotConfirmed) else SubmitUnconfirmed(exc, repeatable)
        error.job_id = job.id
        return error

    def _found_ms(self, tenant: Tenant, snapshot: QueueSnapshot) -> float:
        """Predict the wait that a new job finds, ms; 0 if it does not affect the price."""
        if (
            snapshot.settings.overtake_wait_factor == 0
            or not snapshot.answer_statistics.rank_accuracies
        ):
            return 0.0
        return self._limits.wait_ms(tenant, snapshot) or 0.0

    async def _reprice(
        self,
        queue: str,
        job_id: str,
        late: asyncio.Future[Prediction | Fallback],
        question: Question,
        price: Callable[..., Price],
    ) -> None:
        """Wait for a late prediction, and move the job to the place that it would have had.

        Args:
            queue: The job's.
            job_id: The job's; it was accepted without a prediction.
            late: The predictor's answer, if one comes.
            question: Tells what was learned about the job, given the prediction.
            price: Prices the job, given both.
        """
        try:
            answer = await asyncio.wait_for(late, LATE_PREDICTION_S)
            if isinstance(answer, Fallback):
                outcome = "never_came"
            else:
                forecasted = question.forecast(answer)
                cost = price(prediction=answer, learning=forecasted.learning)
                due_ms = await self._store.reprice(
                    queue,
                    job_id,
                    slack_ms=cost.slack_ms,
                    predicted_tokens=cost.tokens,
                    predicted_ms=cost.ms,
                    prediction=answer,
                    basis=cost.basis,
                    submission=forecasted.submission,
                )
                outcome = "too_late" if due_ms is None else "repriced"
        except TimeoutError:
            outcome = "never_came"
        except StoreUnavailable:
            outcome = "store_away"  # the job keeps its place
        self._metrics.late_predictions.labels(outcome).inc()


def _job_class(settings: QueueSettings, wanted: str | None) -> str:
    names = [c.name for c in settings.classes]
    if wanted is None:
        return names[0]
    if wanted not in names:
        raise BadRequest(
            f"The queue has no such class. Set `class` to one of {', '.join(names)}.",
            param="class",
            code="invalid_value",
        )
    return wanted
