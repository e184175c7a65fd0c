"""From a checked request to a job in the line. Called by the OpenAI routes and `POST /v1/jobs`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial

import uuid_utils

from lengthwise_contract.jobs import EndpointPath
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_queue.admission import late_predictions, limits
from lengthwise_queue.admission.parsed_request import ParsedRequest
from lengthwise_queue.auth import snapshot_of
from lengthwise_queue.errors import BadRequest, ModelNotFound, QueueDraining, QueueOverloaded
from lengthwise_queue.metrics import refusal
from lengthwise_queue.prediction.calibration import shape_of
from lengthwise_queue.scheduling import pricing
from lengthwise_queue.scheduling.snapshot import QueueSnapshot
from lengthwise_queue.service import Service
from lengthwise_queue.tenants.tenant import Tenant
from lengthwise_store.errors import LengthwiseError, StoreUnavailable
from lengthwise_store.jobs import Accepted, NewJob

#: Longest `Idempotency-Key`, characters.
MAX_KEY = 255


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a client may say about a job beside its body; None: what its queue says."""

    job_class: str | None = None
    max_attempts: int = 3
    delay_ms: int = 0
    ttl_ms: int | None = None
    idempotency_key: str | None = None
    job_id: str | None = None  #: Not a client's wish: a batch knows its jobs' ids beforehand.


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job that is in the line: `accepted.id` is its id, `new` what was handed in."""

    queue: str
    new: NewJob
    accepted: Accepted


def key_from(header: str | None) -> str | None:
    """An `Idempotency-Key` header's value.

    Raises:
        BadRequest: It is empty or too long.
    """
    if header is not None and not 0 < len(header) <= MAX_KEY:
        raise BadRequest(
            f"`Idempotency-Key` must have 1 to {MAX_KEY} characters, and has {len(header)}.",
            param="Idempotency-Key",
        )
    return header


async def submit(
    service: Service,
    tenant: Tenant,
    endpoint: EndpointPath,
    body: bytes,
    checked: ParsedRequest,
    wishes: JobOptions,
) -> SubmittedJob:
    """Price a job and put it into the line.

    Args:
        service: This app's.
        tenant: Whose job it is.
        endpoint: The engine path it asks for.
        body: The engine's request body; stored as it is.
        checked: What `validation.check` found in it.
        wishes: What the client said beside it.

    Raises:
        BadRequest: The queue has no such class, or the request is too long for the model.
        ModelNotFound: No queue serves the model, or the tenant may not use it.
        KeyConflict: The idempotency key names another request.
        QueueOverloaded: The queue, or the tenant's share of it, is full; the tenant spent its
            minute; or the job would wait longer than the queue allows.
        QueueDraining: The queue takes nothing new.
        StoreUnavailable: Redis does not answer.
    """
    service_name = checked.model
    try:
        snapshot = await snapshot_of(service, tenant, checked.model)
        return await _submit(service, tenant, snapshot, endpoint, body, checked, wishes)
    except LengthwiseError as exc:
        if isinstance(exc, (ModelNotFound, StoreUnavailable)):
            service_name = ""  # it may not exist, and labels are bounded
        service.metrics.requests.labels(service_name, refusal(exc)).inc()
        if isinstance(exc, QueueOverloaded | QueueDraining):
            service.metrics.tenants.count(tenant.name, "refused")
        raise


async def _submit(
    service: Service,
    tenant: Tenant,
    snapshot: QueueSnapshot,
    endpoint: EndpointPath,
    body: bytes,
    checked: ParsedRequest,
    wishes: JobOptions,
) -> SubmittedJob:
    settings, queue = snapshot.settings, snapshot.queue.name
    job_class = _job_class(settings, wishes.job_class)
    _check_cap(settings, checked)
    await service.prompt_length.check(settings, checked)
    too_long_s = limits.too_long_s(service, tenant, snapshot)
    may_be_in = wishes.idempotency_key is not None or wishes.job_id is not None
    if too_long_s is not None and not may_be_in:
        raise limits.would_wait(service, tenant, snapshot, too_long_s)
    asked = await service.predictors.of(settings).ask(queue, checked.text)
    price = partial(
        pricing.price,
        settings,
        snapshot.stats,
        job_class=job_class,
        max_tokens=checked.max_tokens,
        answers=checked.answers,
        calibrations=snapshot.calibrations,
        shape=shape_of(checked.text or ""),
        # A late prediction is priced by the line that its job found, not by the one it stands in.
        wait_ms=_found_ms(service, tenant, snapshot),
        usual_tokens=snapshot.evidence.usual_tokens,
        rank_accuracy=snapshot.evidence.rank_accuracy,
    )
    cost = price(prediction=asked.prediction)
    job = NewJob(
        id=wishes.job_id or str(uuid_utils.uuid7()),
        endpoint=endpoint,
        body=body,
        job_class=job_class,
        slack_ms=cost.slack_ms,
        offset_ms=cost.offset_ms,
        predicted_tokens=cost.tokens,
        predicted_ms=cost.ms,
        prediction=asked.prediction,
        basis=cost.basis,
        max_attempts=wishes.max_attempts,
        delay_ms=wishes.delay_ms,
        ttl_ms=settings.request_ttl_ms if wishes.ttl_ms is None else wishes.ttl_ms,
        # Over the cap nothing new is let in, but what is in already is found by its key.
        max_depth=settings.max_depth if too_long_s is None else 0,
        idempotency_key=wishes.idempotency_key,
        fingerprint=_fingerprint(endpoint, body, wishes) if wishes.idempotency_key else "",
        tenant=tenant.name,
        tenant_weight=tenant.weight,
        tenant_max_depth=tenant.max_depth(settings.max_depth),
        requests_per_minute=tenant.requests_per_minute,
        tokens_per_minute=tenant.tokens_per_minute,
    )
    try:
        answer = await service.store.submit(queue, job)
    except StoreUnavailable:
        if wishes.idempotency_key is None and wishes.job_id is None:
            # The reply may have been lost after the job was written, and its client is told that
            # it was not accepted. (With a key, or an id, the next try finds it.)
            service.in_background(service.withdraw(queue, job.id, "submit was not confirmed"))
        raise
    is_new = isinstance(answer, Accepted) and not answer.duplicate
    if asked.late is not None and is_new:
        service.in_background(
            late_predictions.reprice(
                service, queue, job.id, asked.late, lambda late: price(prediction=late)
            )
        )
    elif asked.late is not None:
        asked.late.cancel()
    if not isinstance(answer, Accepted):
        raise limits.refused(service, tenant, snapshot, job, answer, too_long_s)
    if is_new:
        service.queue_cache.note(queue, cost.tokens)
        service.metrics.tenants.count(tenant.name, "accepted")
        service.metrics.predicted.labels(queue).observe(cost.tokens)
        if snapshot.stats.active_policy == "sjf":
            service.metrics.overtake_bound.labels(queue).observe(
                (cost.slack_ms - cost.offset_ms) / 1000
            )
    return SubmittedJob(queue=queue, new=job, accepted=answer)


def _found_ms(service: Service, tenant: Tenant, snapshot: QueueSnapshot) -> float:
    """How long the line is that a new job finds, ms; 0 where that does not count."""
    if snapshot.settings.overtake_wait_factor == 0 or not snapshot.evidence.rank_accuracies:
        return 0.0
    return limits.predicted_wait_ms(service, tenant, snapshot) or 0.0


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


def _check_cap(settings: QueueSettings, checked: ParsedRequest) -> None:
    limit, wanted = settings.max_model_len, checked.max_tokens
    if limit is not None and wanted is not None and wanted > limit:
        raise BadRequest(
            f"`{checked.max_tokens_param}` must be at most {limit}, the context of "
            f"{checked.model}, and is {wanted}.",
            param=checked.max_tokens_param,
            code="invalid_value",
        )


def _fingerprint(endpoint: EndpointPath, body: bytes, wishes: JobOptions) -> str:
    """Tells a repeated request from another one under the same key."""
    asked = (wishes.job_class, wishes.max_attempts, wishes.delay_ms, wishes.ttl_ms)
    digest = hashlib.sha256(f"{endpoint} {asked}\n".encode())
    digest.update(body)
    return digest.hexdigest()
