"""What Redis answers, as values. Called by `JobStore`; no client, no clock."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Iterator
from typing import Any, Literal, cast

from pydantic import ValidationError

from lengthwise_contract.jobs import EndpointPath, JobError
from lengthwise_contract.prediction import Prediction
from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_contract.queue_views import WorkerView
from lengthwise_contract.states import JobState
from lengthwise_store.jobs import (
    Accepted,
    Answer,
    Basis,
    Claim,
    Draining,
    Job,
    KeyReused,
    Lease,
    Mode,
    NewJob,
    Outcome,
    Queue,
    QueueFull,
    QueueStats,
    RateLimited,
    Submitted,
    TenantFull,
    TenantLine,
    predictor_tag,
)

log = logging.getLogger(__name__)


def read_clock_ms(time: tuple[int, int]) -> float:
    """The reply of TIME, (s, us), as ms since the epoch."""
    return time[0] * 1000 + time[1] / 1000


def read_claims(answer: list[Any]) -> list[Claim]:
    """The answer of claim.lua."""
    now_ms = float(answer[0])
    claims = []
    for job_id, nonce, attempt, plan, body, due, price, times, tenant in answer[1:]:
        _, since_ms, deadline_ms = times.split(b" ")
        claim = Claim(
            lease=Lease(job_id=job_id.decode(), nonce=nonce.decode(), attempt=attempt),
            endpoint=cast("EndpointPath", plan.decode().split(" ")[2]),
            body=body,
            due_ms=float(due),
            predicted_tokens=read_predicted_tokens(price),
            deadline_ms=float(deadline_ms),
            tenant=tenant.decode(),
            waited_ms=max(0.0, now_ms - float(since_ms)) if attempt == 1 else None,
        )
        claims.append(claim)
    return claims


def read_submitted(answer: list[Any]) -> Submitted:
    """The answer of submit.lua."""
    match answer[0].decode():
        case "full":
            return QueueFull(depth=int(answer[1]))
        case "tenant_full":
            return TenantFull(depth=int(answer[1]))
        case "draining":
            return Draining()
        case "limited":
            what = cast("Literal['requests', 'tokens']", answer[1].decode())
            return RateLimited(what=what, retry_after_ms=int(answer[2]))
        case "reused":
            return KeyReused(id=answer[1].decode())
        case tag:
            return Accepted(
                id=answer[1].decode(),
                state=JobState(answer[2].decode()),
                accepted_ms=float(answer[3]),
                due_ms=float(answer[4]),
                duplicate=tag == "duplicate",
            )


def _pairs(flat: list[Any]) -> Iterator[tuple[str, str]]:
    texts = [value.decode() for value in flat]
    return zip(texts[::2], texts[1::2], strict=True)


#: The speed is a ratio of two sums that forget with a half-life of 34 answers (0.98 ^ 34 = 0.5): a
#: long answer weighs by its tokens, and a change of load shows within a few dozen answers.
_FORGET = 0.98

#: What `meta` holds besides counters.
_NOT_COUNTERS = frozenset(
    {"mode", "policy", "fallback", "active", "reorder", "v", "served", "trimmed", "judged"}
)


def read_stats(answer: list[Any]) -> QueueStats:
    """The answer of stats.lua."""
    now, depth, scheduled, in_flight, raw, oldest, raw_lengths, infos, seen, raw_tenants = answer
    meta = dict(_pairs(raw))
    heard = {name: float(at) for name, at in _pairs(seen)}
    workers = [
        w.model_copy(update={"seen_ms": heard[w.id]})
        for w in (read_worker(info) for info in infos)
        if w is not None and w.id in heard
    ]
    texts = [value.decode() for value in raw_tenants]
    tenants = [
        TenantLine(tenant=name, depth=int(n), scheduled=int(s), dead=int(d), virtual_time=float(vt))
        for name, n, s, d, vt in zip(*(texts[i::5] for i in range(5)), strict=True)
    ]
    answers: list[Answer] = []
    sum_ms = sum_tokens = 0.0
    weight = 1.0
    for priced, tokens, service_ms, *quantiles in (v.decode().split(" ") for v in raw_lengths):
        at_s = float(quantiles.pop()[1:]) if quantiles and quantiles[-1][:1] == "@" else None
        answers.append(_read_answer(priced, int(tokens), quantiles, at_s))
        if service_ms:
            sum_ms += weight * float(service_ms)
            sum_tokens += weight * int(tokens)
        weight *= _FORGET
    wait_ms, fcfs_ms = int(meta.pop("wait_ms", 0)), int(meta.pop("fcfs_wait_ms", 0))
    waits, fcfs = int(meta.get("waits", 0)), int(meta.get("fcfs_waits", 0))
    return QueueStats(
        now_ms=float(now),
        depth=depth,
        scheduled=scheduled,
        in_flight=in_flight,
        dead=sum(t.dead for t in tenants),
        backlog_tokens=max(0.0, float(meta.pop("backlog_tokens", 0))),
        oldest_accepted_ms=float(oldest) if oldest else None,
        ms_per_token=sum_ms / sum_tokens if sum_tokens > 0 else None,
        median_tokens=statistics.median(a.tokens for a in answers) if answers else None,
        counters={name: int(v) for name, v in meta.items() if name not in _NOT_COUNTERS},
        workers=sorted(workers, key=lambda w: w.id),
        mode=Mode(meta.get("mode", Mode.OPEN)),
        active_policy=cast("PolicyName", meta.get("active", "sjf")),
        fallback=meta.get("fallback") == "1",
        mean_wait_ms=wait_ms / waits if waits else None,
        mean_fcfs_wait_ms=fcfs_ms / fcfs if fcfs else None,
        answers=answers,
        judged_at=int(meta.get("judged", 0)),
        tenants=sorted(tenants, key=lambda t: t.tenant),
    )


def write_cost(predicted_tokens: float) -> int:
    """What a job counts for in the backlog and between tenants, tokens, >= 1."""
    return max(1, math.floor(predicted_tokens + 0.5))


def write_number(number: float) -> str:
    """A number as the record keeps it: to the microsecond, or the thousandth of a token."""
    return repr(round(number, 3))


def write_price(job: NewJob) -> str:
    """The record's field `price`; lua/include/record.lua says what stands in it."""
    numbers = (
        job.tenant_weight,
        job.slack_ms,
        job.offset_ms,
        job.predicted_tokens,
        job.predicted_ms,
    )
    return " ".join([str(write_cost(job.predicted_tokens)), *map(write_number, numbers)])


def read_predicted_tokens(price: bytes) -> float:
    """The predicted length in a record's field `price`, tokens."""
    return float(price.split(b" ")[4])


def write_usage(outcome: Outcome) -> tuple[str, str]:
    """What an answer took: "prompt output", tokens; and "output service_ms", if it has a length."""
    prompt, output, service_ms = outcome.prompt_tokens, outcome.output_tokens, outcome.service_ms
    known = prompt is not None or output is not None
    usage = f"{_text(prompt)} {_text(output)}" if known else ""
    service = "" if service_ms is None else f"{service_ms:.3f}"
    return usage, f"{output} {service}" if output else ""


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def write_quantiles(prediction: Prediction | None, basis: Basis) -> tuple[str, str]:
    """A prediction as the record keeps it: what it was worth, and which predictor said so.

    The first is "p10 p50 p90 mean rank cap tag chars lines", and behind that the calibrated
    "p10 p50 p90" where it was calibrated; the cap is "tokens" or "tokens*answers", 0 for none, and
    chars and lines are the prompt's `Shape`. The script
    `finish` copies it as it is to the list of the last answers.

    Short, because a Redis hash whose values are all at most 64 bytes takes a third of the memory;
    four digits are a twentieth of a per cent.
    """
    if prediction is None:
        return "", ""
    p = prediction
    numbers = [f"{n:.4g}" for n in (p.p10_tokens, p.p50_tokens, p.p90_tokens, p.mean_tokens)]
    cap = str(basis.max_tokens or 0) + (f"*{basis.answers}" if basis.answers != 1 else "")
    said = [f"{n:.4g}" for n in basis.calibrated or ()]
    shape = map(str, basis.shape)
    parts = [*numbers, f"{p.rank_score:.5g}", cap, predictor_tag(p.model_version), *shape, *said]
    return " ".join(parts), p.model_version


def _read_basis(parts: list[str]) -> Basis:
    """What stands behind the five numbers of `write_quantiles`; nothing, where they are old."""
    if len(parts) < 9:
        return Basis()
    cap, _, answers = parts[5].partition("*")
    said: list[float] = [float(part) for part in parts[9:12]]
    return Basis(
        calibrated=(said[0], said[1], said[2]) if len(said) == 3 else None,
        max_tokens=int(cap) or None,
        answers=int(answers or 1),
        shape=(int(parts[7]), int(parts[8])),
    )


def _read_answer(priced: str, tokens: int, parts: list[str], at_s: float | None) -> Answer:
    """One entry of the list of the last answers."""
    if not priced or len(parts) < 3:
        return Answer(tokens=tokens, priced=float(priced) if priced else None, at_s=at_s)
    p10, p50, p90 = map(float, parts[:3])
    raw = (p10, p50, p90)
    basis = _read_basis(parts)
    return Answer(
        tokens=tokens,
        priced=float(priced),
        raw=raw,
        said=basis.calibrated or raw,
        predictor=parts[6] if len(parts) >= 9 else "",
        max_tokens=basis.max_tokens,
        count=basis.answers,
        shape=basis.shape,
        at_s=at_s,
    )


def _read_quantiles(record: dict[str, str]) -> tuple[Prediction | None, Basis]:
    if not record.get("quantiles"):
        return None, Basis()
    parts = record["quantiles"].split()
    p10, p50, p90, mean, rank = map(float, parts[:5])
    prediction = Prediction(
        model_version=record["predictor"],
        p10_tokens=p10,
        p50_tokens=p50,
        p90_tokens=p90,
        mean_tokens=mean,
        rank_score=rank,
    )
    return prediction, _read_basis(parts)


def read_worker(raw: bytes) -> WorkerView | None:
    """What a worker says of itself; None: it cannot be read."""
    try:
        # In a rolling update a newer version writes beside us: what it adds is passed over.
        return WorkerView.model_validate_json(raw, extra="ignore")
    except ValidationError:
        return None  # its heartbeat still counts


def read_queue(name: str, raw: bytes) -> Queue | None:
    """A queue's settings; None: they cannot be read, which is logged."""
    try:
        # As above: a field of tomorrow must not make the queue disappear for us.
        settings = QueueSettings.model_validate_json(raw, extra="ignore")
        return Queue(name=name, settings=settings)
    except ValidationError:
        log.exception("queue settings cannot be read; put them again", extra={"queue": name})
        return None


def read_job(queue: str, job_id: str, raw: dict[bytes, bytes]) -> Job | None:
    """A record; None: it cannot be read, which is logged. The scripts quarantine it."""
    r = {name.decode(): value.decode(errors="replace") for name, value in raw.items()}

    def number(name: str) -> float | None:
        return float(r[name]) if name in r else None

    try:
        accepted_ms, since_ms, deadline_ms = map(float, r["times"].split())
        _, weight, slack_ms, offset_ms, tokens, predicted_ms = map(float, r["price"].split())
        max_attempts, job_class, endpoint, policy = r["plan"].split()
        attempt, spent = map(int, r["runs"].split())
        prediction, basis = _read_quantiles(r)
        prompt_tokens, output_tokens = (
            int(n) if n else None for n in r.get("usage", " ").split(" ")
        )
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
            since_ms=since_ms,
            fcfs_wait_ms=number("fcfs_wait_ms"),
            prediction=prediction,
            basis=basis,
            started_ms=number("started_ms"),
            first_output_ms=number("first_output_ms"),
            finished_ms=number("finished_ms"),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            cancel_requested="cancel" in r,
            worker=r.get("worker"),
            error=JobError.model_validate(json.loads(r["error"])) if "error" in r else None,
        )
    except (KeyError, ValueError):
        log.warning("job record cannot be read", extra={"queue": queue, "job_id": job_id})
        return None
