"""A process with an invalid environment names the variable in one line and exits with 2."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "variable", "value", "want"),
    [
        ("lengthwise_worker", "LENGTHWISE_WORKER_QUEUE", None, "Field required"),
        ("lengthwise_worker", "LENGTHWISE_WORKER_SLOTS", "many", "Input should be a valid integer"),
        ("lengthwise_queue", "LENGTHWISE_QUEUE_PORT", "99999", "Input should be less than"),
        ("lengthwise_queue", "LENGTHWISE_QUEUE_*", None, "a Redis URL begins with"),
        ("lengthwise_predictor", "LENGTHWISE_PREDICTOR_PORT", "web", "Input should be a valid int"),
    ],
    ids=["worker, missing", "worker", "queue service", "queue service, together", "predictor"],
)
def test_an_invalid_setting_is_named_as_in_the_environment(
    module: str, variable: str, value: str | None, want: str
) -> None:
    # The queue service and the predictor ended with a traceback that did not name the variable.
    env = {k: v for k, v in os.environ.items() if not k.startswith("LENGTHWISE_")}
    env["LENGTHWISE_WORKER_ENGINE"] = "simulated"
    if variable.endswith("*"):
        env["LENGTHWISE_QUEUE_REDIS_URL"] = "valkey"
    elif value is not None:
        env |= {"LENGTHWISE_WORKER_QUEUE": "m", variable: value}
    done = subprocess.run(
        [sys.executable, "-m", module], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"{module}: {variable}: {want}")
