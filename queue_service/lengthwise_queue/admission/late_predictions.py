"""Gives a job its right place when its prediction came too late for its acceptance.

Called by `intake` for a job that was priced with the fallback because the deadline was over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lengthwise_contract.prediction import Prediction
from lengthwise_queue.prediction.client import Fallback
from lengthwise_queue.scheduling.pricing import Price
from lengthwise_queue.service import Service
from lengthwise_store.errors import StoreUnavailable

#: How long a late answer is waited for, s. A job that waits in line for less has no use for it.
PATIENCE_S = 30.0


async def reprice(
    service: Service,
    queue: str,
    job_id: str,
    late: asyncio.Future[Prediction | Fallback],
    price: Callable[[Prediction], Price],
) -> None:
    """Wait for the answer, and put the job where it would have been put at once.

    Args:
        service: This app's.
        queue: The job's.
        job_id: The job's; it has been accepted.
        late: The answer, if one comes.
        price: What the job costs, given the answer.
    """
    try:
        answer = await asyncio.wait_for(late, PATIENCE_S)
        if isinstance(answer, Fallback):
            outcome = "never_came"
        else:
            cost = price(answer)
            due_ms = await service.store.reprice(
                queue,
                job_id,
                slack_ms=cost.slack_ms,
                predicted_tokens=cost.tokens,
                predicted_ms=cost.ms,
                prediction=answer,
                basis=cost.basis,
            )
            outcome = "too_late" if due_ms is None else "repriced"
    except TimeoutError:
        outcome = "never_came"
    except StoreUnavailable:
        outcome = "store_away"  # the job keeps its place; it is no worse off than before
    service.metrics.late_predictions.labels(outcome).inc()
