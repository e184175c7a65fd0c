"""One workload under several policies, one after the other, on a live queue.

Called by `lengthwise bench serve` and `lengthwise demo`. The queue's settings are put back
afterwards, also after an error or Ctrl-C.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lengthwise_contract.api import PolicyName
from lengthwise_lab.drive import Target, drive, look_up
from lengthwise_lab.errors import BadChoice, ServiceError
from lengthwise_lab.measure import Sample
from lengthwise_lab.service import Service
from lengthwise_lab.workload import Request

#: A queue service may use settings that are so old, seconds.
SETTINGS_AGE_S = 1.2
#: How long the queue may take to run dry before a run, seconds.
IDLE_WITHIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one policy did with the workload."""

    policy: PolicyName
    overtake_factor: float
    samples: list[Sample]
    duration_s: float  #: From the first request's time to the last answer.
    fallbacks: int  #: Requests that were ordered without a prediction.


async def compare(
    service: Service,
    target: Target,
    requests: Sequence[Request],
    *,
    policies: Sequence[PolicyName],
    on_run: Callable[[PolicyName], None],
    on_done: Callable[[Sample], None],
) -> list[Run]:
    """Send the workload once under each policy.

    Args:
        service: The queue service.
        target: Its OpenAI face, and the model.
        requests: The workload.
        policies: In this order.
        on_run: Called before each run.
        on_done: Called after each request.

    Raises:
        BadChoice: Somebody else is using the queue.
        ServiceError: The queue service refused something, or served by another policy than told.
    """
    before = (await service.queue(target.model)).settings
    runs = []
    try:
        for policy in policies:
            await until_idle(service, target.model)
            await service.put_queue(target.model, before.model_copy(update={"policy": policy}))
            await asyncio.sleep(SETTINGS_AGE_S)
            on_run(policy)
            start_s = time.monotonic()
            samples = await drive(target, requests, on_done=on_done)
            duration_s = time.monotonic() - start_s
            samples = await look_up(service, samples)
            _check_policy(policy, samples)
            runs.append(
                Run(
                    policy=policy,
                    overtake_factor=before.overtake_factor,
                    samples=samples,
                    duration_s=duration_s,
                    fallbacks=sum(s.ok and s.predicted_tokens is None for s in samples),
                )
            )
    finally:
        await service.put_queue(target.model, before)
    return runs


async def until_idle(service: Service, model: str) -> None:
    """Wait until nothing waits and nothing runs.

    Raises:
        BadChoice: There still is something after `IDLE_WITHIN_S`.
    """
    deadline_s = time.monotonic() + IDLE_WITHIN_S
    while True:
        view = await service.queue(model)
        if view.depth == view.in_flight == view.scheduled == 0:
            return
        if time.monotonic() > deadline_s:
            raise BadChoice(
                f"the queue of {model} is in use ({view.depth} waiting, {view.in_flight} running): "
                "a comparison needs it for itself"
            )
        await asyncio.sleep(0.1)


def _check_policy(policy: PolicyName, samples: Sequence[Sample]) -> None:
    """A comparison whose two sides were served alike would be worse than none."""
    wrong = [s for s in samples if s.ok and s.policy != policy]
    if wrong:
        raise ServiceError(
            f"{len(wrong)} of {len(samples)} requests of the {policy} run were served by "
            f"{wrong[0].policy}; did somebody change the queue's settings meanwhile?"
        )
