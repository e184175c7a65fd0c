"""A queue's workers and its counters."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, cast

from pydantic import ValidationError

from lengthwise_contract.queue_settings import PolicyName
from lengthwise_contract.queue_views import WorkerView
from lengthwise_store.codec.prediction import read_measured_answer
from lengthwise_store.prediction_record import FitRecord, MeasuredAnswer, Served
from lengthwise_store.queues import Mode, QueueStats, TenantBacklog

#: The speed is a ratio of two sums that forget with a half-life of 34 answers (0.98 ^ 34 = 0.5): a
#: long answer weighs by its tokens, and a change of load shows within a few dozen answers.
_FORGET = 0.98

#: The fields of `meta` that are not counters.
_NOT_COUNTERS = frozenset(
    {"mode", "policy", "fallback", "active", "reorder", "v", "served", "trimmed", "judged"}
    | {"created", "removing", "removed", "serving", "fit", "words", "llm", "judged_from"}
    | {"ticked_ms", "grace_ends_ms"}
)


def read_clock_ms(time: tuple[int, int]) -> float:
    """Read the reply of TIME, (s, us), as ms since the epoch."""
    return time[0] * 1000 + time[1] / 1000


def read_worker(raw: bytes) -> WorkerView | None:
    """Read what a worker reports about itself; None: it cannot be read."""
    try:
        # In a rolling update a newer version writes beside this one: its new fields are ignored.
        return WorkerView.model_validate_json(raw, extra="ignore")
    except ValidationError:
        return None  # its heartbeat still counts


def read_stats(reply: list[Any]) -> QueueStats:
    """Read the reply of stats.lua."""
    now, depth, scheduled, in_flight, raw, oldest, raw_lengths, infos, seen, raw_tenants = reply
    meta = dict(_pairs(raw))
    seen_ms = {name: float(at) for name, at in _pairs(seen)}
    workers = [
        w.model_copy(update={"seen_ms": seen_ms[w.id]})
        for w in (read_worker(info) for info in infos)
        if w is not None and w.id in seen_ms
    ]
    texts = [value.decode() for value in raw_tenants]
    tenants = [
        TenantBacklog(
            tenant=name, depth=int(n), scheduled=int(s), dead=int(d), virtual_time=float(vt)
        )
        for name, n, s, d, vt in zip(*(texts[i::5] for i in range(5)), strict=True)
    ]
    answers: list[MeasuredAnswer] = []
    sum_ms = sum_tokens = 0.0
    weight = 1.0
    for priced, tokens, service_ms, *quantiles in (v.decode().split(" ") for v in raw_lengths):
        at_s = float(quantiles.pop()[1:]) if quantiles and quantiles[-1][:1] == "@" else None
        answers.append(read_measured_answer(priced, int(tokens), quantiles, at_s))
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
        # A newer release may keep other values there: they must not stop this one.
        counters={
            name: int(v)
            for name, v in meta.items()
            if name not in _NOT_COUNTERS and v.lstrip("-").isdecimal()
        },
        workers=sorted(workers, key=lambda w: w.id),
        mode=Mode(meta.get("mode", Mode.OPEN)),
        active_policy=cast("PolicyName", meta.get("active", "sjf")),
        fallback=meta.get("fallback") == "1",
        mean_wait_ms=wait_ms / waits if waits else None,
        mean_fcfs_wait_ms=fcfs_ms / fcfs if fcfs else None,
        answers=answers,
        serving=cast("Served", meta.get("serving", "static")),
        fit=FitRecord.of(meta.get("fit", "")),
        judged_from=int(meta.get("judged_from", 0)),
        judged_at=int(meta.get("judged", 0)),
        created_ms=float(meta["created"]) if "created" in meta else None,
        tenants=sorted(tenants, key=lambda t: t.tenant),
    )


def _pairs(flat: list[Any]) -> Iterator[tuple[str, str]]:
    texts = [value.decode() for value in flat]
    return zip(texts[::2], texts[1::2], strict=True)
