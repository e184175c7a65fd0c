"""A job's record, and the replies of `submit` and `claim`."""

from __future__ import annotations

import json
import logging
import math
from typing import Any, Literal, cast

from lengthwise_contract.jobs import EndpointPath, JobError
from lengthwise_contract.states import JobState
from lengthwise_store.codec.prediction import read_quantiles
from lengthwise_store.jobs import (
    Accepted,
    Claim,
    Draining,
    Job,
    KeyReused,
    Lease,
    NewJob,
    Outcome,
    QueueFull,
    RateLimited,
    Submitted,
    TenantFull,
)

log = logging.getLogger(__name__)


def read_claims(reply: list[Any]) -> list[Claim]:
    """Read the reply of claim.lua."""
    now_ms = float(reply[0])
    claims = []
    for job_id, nonce, attempt, plan, body, due, price, times, tenant in reply[1:]:
        _, since_ms, deadline_ms = times.split(b" ")
        planned = plan.decode().split(" ")
        claim = Claim(
            lease=Lease(job_id=job_id.decode(), nonce=nonce.decode(), attempt=attempt),
            endpoint=cast("EndpointPath", planned[2]),
            body=body,
            due_ms=float(due),
            predicted_tokens=read_predicted_tokens(price),
            deadline_ms=float(deadline_ms),
            tenant=tenant.decode(),
            waited_ms=max(0.0, now_ms - float(since_ms)) if attempt == 1 else None,
            request_id=planned[4] if len(planned) > 4 else "",
        )
        claims.append(claim)
    return claims


def read_submitted(reply: list[Any]) -> Submitted:
    """Read the reply of submit.lua for one job."""
    match reply[0].decode():
        case "full":
            return QueueFull(depth=int(reply[1]))
        case "tenant_full":
            return TenantFull(depth=int(reply[1]))
        case "draining":
            return Draining()
        case "limited":
            what = cast("Literal['requests', 'tokens']", reply[1].decode())
            return RateLimited(what=what, retry_after_ms=int(reply[2]))
        case "reused":
            return KeyReused(id=reply[1].decode())
        case tag:
            return Accepted(
                id=reply[1].decode(),
                state=JobState(reply[2].decode()),
                accepted_ms=float(reply[3]),
                due_ms=float(reply[4]),
                duplicate=tag == "duplicate",
            )


def write_cost(predicted_tokens: float) -> int:
    """Return the cost of a job in the backlog and in the shares of tenants, tokens, >= 1."""
    return max(1, math.floor(predicted_tokens + 0.5))


def write_number(number: float) -> str:
    """Write a number as the record keeps it: to the microsecond, or the thousandth of a token."""
    return repr(round(number, 3))


def write_optional(number: float | None) -> str:
    """Write a number that may be absent: ""."""
    return "" if number is None else repr(number)


def write_price(job: NewJob) -> str:
    """Write the record's field `price`; lua/include/record.lua lists its parts."""
    numbers = (
        job.tenant_weight,
        job.slack_ms,
        job.offset_ms,
        job.predicted_tokens,
        job.predicted_ms,
    )
    return " ".join([str(write_cost(job.predicted_tokens)), *map(write_number, numbers)])


def read_predicted_tokens(price: bytes) -> float:
    """Read the predicted length from a record's field `price`, tokens."""
    return float(price.split(b" ")[4])


def write_usage(outcome: Outcome) -> tuple[str, str]:
    """Write the usage "prompt output details", and the length "output service_ms", if it has one.

    Either string is "" when the outcome lacks it.
    """
    prompt, output, service_ms = outcome.prompt_tokens, outcome.output_tokens, outcome.service_ms
    known = prompt is not None or output is not None
    usage = f"{write_optional(prompt)} {write_optional(output)}" if known else ""
    if known and outcome.usage_details is not None:
        usage += f" {outcome.usage_details}"
    service = "" if service_ms is None else f"{service_ms:.3f}"
    return usage, f"{output} {service}" if output else ""


def read_usage(usage: str) -> tuple[int | None, int | None, dict[str, Any] | None]:
    """Read the record's field `usage`: tokens of the prompt, of the answer, and the details."""
    prompt, output, details = [*usage.split(" ", 2), "", "", ""][:3]
    return (
        int(prompt) if prompt else None,
        int(output) if output else None,
        json.loads(details) if details else None,
    )


def read_job(queue: str, job_id: str, raw: dict[bytes, bytes]) -> Job | None:
    """Read a record; None: it cannot be read, which is logged. The scripts quarantine it."""
    r = {name.decode(): value.decode(errors="replace") for name, value in raw.items()}

    def number(name: str) -> float | None:
        return float(r[name]) if name in r else None

    try:
        accepted_ms, since_ms, deadline_ms = map(float, r["times"].split())
        _, weight, slack_ms, offset_ms, tokens, predicted_ms = map(float, r["price"].split())
        max_attempts, job_class, endpoint, policy = r["plan"].split()
        attempt, spent = map(int, r["runs"].split())
        prediction, basis = read_quantiles(r)
        prompt_tokens, output_tokens, usage_details = read_usage(r.get("usage", ""))
        return Job(
            id=job_id,
            queue=queue,
            endpoint=cast("EndpointPath", endpoint),
            job_class=job_class,
            policy=policy,
            state=JobState(r["state"]),
            attempt=attempt,
            spent=spent,
            max_attempts=int(max_attempts),
            accepted_ms=accepted_ms,
            due_ms=float(r["due_ms"]),
            deadline_ms=deadline_ms,
            predicted_tokens=tokens,
            predicted_ms=predicted_ms,
            slack_ms=slack_ms,
            offset_ms=offset_ms,
            tenant=r["tenant"],
            weight=weight,
            request_id=r.get("request", ""),
            since_ms=since_ms,
            fcfs_wait_ms=number("fcfs_wait_ms"),
            prediction=prediction,
            basis=basis,
            started_ms=number("started_ms"),
            first_output_ms=number("first_output_ms"),
            finished_ms=number("finished_ms"),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            usage_details=usage_details,
            cancel_requested="cancel" in r,
            worker=r.get("worker"),
            error=JobError.model_validate(json.loads(r["error"])) if "error" in r else None,
        )
    except (KeyError, ValueError):
        log.warning("job record cannot be read", extra={"queue": queue, "job_id": job_id})
        return None
