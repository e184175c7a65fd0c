"""What the model says of a run that was measured: when each of its requests would have ended.

Called by `lengthwise bench serve`, which fits the cost model to one load and then asks about
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.simulator.cost_model import Engine
from lengthwise_lab.simulator.experiment import simulate
from lengthwise_lab.simulator.jobs import jobs_of
from lengthwise_lab.simulator.policies import policy_named
from lengthwise_lab.simulator.state import Floats


class _File(BaseModel):
    engine: Engine


def read_cost_model(path: Path) -> Engine:
    """A cost model out of a JSON file, `{"engine": {"kind": "batching", ...}}`.

    Raises:
        BadWorkload: The file cannot be read, or is not one; the message names the fields.
    """
    try:
        return _File.model_validate_json(path.read_bytes()).engine
    except (OSError, ValidationError) as exc:
        raise BadWorkload(f"no cost model in {path}: {exc}") from exc


def predict_completions(
    rows: Sequence[tuple[float, int, int]],
    model: Engine,
    *,
    policy: str = "fcfs",
    predicted_tokens: Sequence[float] | None = None,
) -> Floats:
    """When each request would have all its output, s on the clock of the arrivals.

    Args:
        rows: (arrival_s, prompt_tokens, output_tokens) of each, in any order.
        model: What the engine's time goes into.
        policy: Who is next; the name of one of the lab's policies.
        predicted_tokens: What was predicted of each, in the order of the rows; None: its length.

    Returns:
        (n,), in the order of the rows, s.

    Raises:
        BadWorkload: There are no rows, or one can never fit into the engine.
        BadChoice: There is no such policy.
    """
    if not rows:
        raise BadWorkload("there are no requests to predict")
    table = np.array(rows, np.float64)
    order = np.argsort(table[:, 0], kind="stable")
    sorted_rows = table[order]
    start_s = sorted_rows[0, 0]
    jobs = jobs_of(
        sorted_rows[:, 0] - start_s,
        sorted_rows[:, 2].astype(np.int64),
        prompt=sorted_rows[:, 1].astype(np.int64),
    )
    if predicted_tokens is not None:
        jobs = jobs.with_predictions(np.array(predicted_tokens, np.float64)[order])
    outcome = simulate([jobs], model, policy_named(policy), recorded=len(rows))
    ends = np.empty(len(rows))
    ends[order] = outcome.tally.record[:, 2] + start_s
    return ends
