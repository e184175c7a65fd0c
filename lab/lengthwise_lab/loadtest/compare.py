"""Run one workload under several policies, one after the other, on a live queue.

Called by sweep.py and by `lengthwise demo`. The queue's settings are restored at the end, also
after an error or Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lengthwise_contract.queue_settings import PolicyName, QueueSettings
from lengthwise_lab.errors import BadChoice, ServiceError
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.driver import LoadTarget, drive, look_up
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.oracle_model import ORACLE_OVERTAKE_FACTOR
from lengthwise_lab.loadtest.oracle_predictor import OraclePredictor
from lengthwise_lab.loadtest.workload import TimedRequest

#: An arm of a comparison: a queue's policy; `sjf-k`, which is `sjf` with a bound that does not
#: follow the wait; or `oracle`, which is `sjf` with the largest k and a predictor that returns the
#: lengths that the `fcfs` run before it measured.
Arm = Literal["fcfs", "sjf", "sjf-k", "shadow", "oracle"]

#: A queue service may use cached settings for this time, seconds.
SETTINGS_AGE_S = 1.2
#: How long the queue may take to become empty before a run, seconds.
IDLE_WITHIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class PolicyRun:
    """The result of the workload under one policy."""

    policy: Arm
    overtake_factor: float
    samples: list[Sample]
    duration_s: float  #: From the first request to the last answer.
    fallbacks: int  #: Requests that were ordered without a prediction.


async def compare(
    service: ServiceClient,
    target: LoadTarget,
    requests: Sequence[TimedRequest],
    *,
    policies: Sequence[Arm],
    on_run: Callable[[Arm], None],
    on_done: Callable[[Sample], None],
) -> list[PolicyRun]:
    """Send the workload once under each policy.

    Args:
        service: The queue service.
        target: Its OpenAI endpoint, and the model.
        requests: The workload.
        policies: The arms in their order; `oracle` after `fcfs`, whose lengths it uses.
        on_run: Called before each run.
        on_done: Called after each request.

    Raises:
        BadChoice: The queue has other jobs, or `oracle` is not after `fcfs`.
        ServiceError: The queue service returned an error, or served by another policy.
    """
    if "oracle" in policies and "fcfs" not in policies[: policies.index("oracle")]:
        raise BadChoice("the oracle needs a run under fcfs before it, which measures the lengths")
    view = await service.queue(target.model)
    # What people set, without what the workers published.
    before = QueueSettings.model_validate(view.settings.model_dump(include={*view.settings_set}))
    runs: list[PolicyRun] = []
    try:
        for policy in policies:
            await until_idle(service, target.model)
            async with contextlib.AsyncExitStack() as stack:
                # No fallback to fcfs during a run: the figures show how good the predictor is.
                steady: dict[str, Any] = {"policy": policy, "min_rank_accuracy": None}
                if policy == "sjf-k":
                    steady |= {"policy": "sjf", "overtake_wait_factor": 0}
                settings = before.model_copy(update=steady)
                if policy == "oracle":
                    predictor = OraclePredictor(_known(runs, requests))
                    settings = _oracle_settings(
                        before, (await stack.enter_async_context(predictor)).url
                    )
                await service.put_queue(target.model, settings)
                await asyncio.sleep(SETTINGS_AGE_S)
                on_run(policy)
                start_s = time.monotonic()
                samples = await drive(target, requests, on_done=on_done)
                duration_s = time.monotonic() - start_s
                samples = await look_up(service, samples)
            check_policy(settings.policy, samples)
            runs.append(
                PolicyRun(
                    policy=policy,
                    overtake_factor=settings.overtake_factor,
                    samples=samples,
                    duration_s=duration_s,
                    fallbacks=sum(s.ok and s.predicted_tokens is None for s in samples),
                )
            )
    finally:
        await service.put_queue(target.model, before)
    return runs


def _oracle_settings(before: QueueSettings, oracle_url: str) -> QueueSettings:
    """Return the settings with the oracle as the predictor and the largest bound."""
    oracle = {
        "policy": "sjf",
        "overtake_factor": ORACLE_OVERTAKE_FACTOR,
        "overtake_wait_factor": 0,
        "predictor_url": oracle_url,
        "min_rank_accuracy": None,
        "calibrate": False,  # exact predictions need no correction
    }
    return before.model_copy(update=oracle)


def _known(
    runs: Sequence[PolicyRun], requests: Sequence[TimedRequest]
) -> list[tuple[TimedRequest, int]]:
    """Return each request with the length of its answer under `fcfs`, output tokens."""
    base = next((run for run in runs if run.policy == "fcfs"), None)
    if base is None:
        return []
    lengths = {s.index: s.output_tokens for s in base.samples if s.ok and s.output_tokens}
    return [(r, lengths[r.index]) for r in requests if r.index in lengths]


async def until_idle(service: ServiceClient, model: str) -> None:
    """Wait until the queue has no jobs.

    Raises:
        BadChoice: It still has jobs after `IDLE_WITHIN_S`.
    """
    deadline_s = time.monotonic() + IDLE_WITHIN_S
    while True:
        view = await service.queue(model)
        if view.depth == view.in_flight == view.scheduled == 0:
            return
        if time.monotonic() > deadline_s:
            raise BadChoice(
                f"the queue of {model} is in use ({view.depth} waiting, {view.in_flight} running): "
                "a comparison needs an idle queue"
            )
        await asyncio.sleep(0.1)


def check_policy(policy: PolicyName, samples: Sequence[Sample]) -> None:
    """Check that the queue used the policy of the run."""
    others = [s for s in samples if s.ok and s.policy != policy]
    if others:
        raise ServiceError(
            f"{len(others)} of {len(samples)} requests of the {policy} run were served by "
            f"{others[0].policy}; were the queue's settings changed during the run?"
        )
