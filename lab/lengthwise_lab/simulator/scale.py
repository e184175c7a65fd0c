"""Measure what a simulated request costs in time and memory, for growing numbers of requests.

Each size runs in its own process, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from lengthwise_lab.errors import BenchProcessError

#: The program of the process that measures one size.
_PROGRAM = "lengthwise_lab.simulator.scale"


def measure_scale(requests: int, policy: str, load: float) -> dict[str, Any]:
    """Simulate so many requests under one policy, in a new process.

    Returns:
        `requests`; `seconds` without compiling, of which `pricing_s` computes the policy's keys,
        `running_s` is the compiled loop, and the rest draws the workload; `us_per_request`;
        `peak_mib`, and `peak_mib_before` the requests, when all code was loaded and compiled.

    Raises:
        BenchProcessError: The process failed; the message ends with its error output.
    """
    done = subprocess.run(  # noqa: S603 - this same program
        [sys.executable, "-m", _PROGRAM, str(requests), policy, str(load)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchProcessError(f"measuring {requests} requests failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _main(requests: int, policy: str, load: float) -> dict[str, Any]:
    import resource

    from lengthwise_lab.simulator.policies import policy_named
    from lengthwise_lab.simulator.question import Question
    from lengthwise_lab.simulator.simulation import simulate
    from lengthwise_lab.simulator.summary import summarize

    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    question = Question.model_validate(
        {"policies": [policy], "load": load, "engine": {"kind": "batching", "slots": 64,
         "decode_ms": 0.1, "prefill_ms": 0.05}}
    )  # fmt: skip
    workload = question.workload(1, None)
    predictor = workload.fitted_predictor()
    simulate(workload.pieces(predictor), question.engine, policy_named(policy))
    before = peak_mib()
    workload = question.model_copy(update={"requests": requests}).workload(1, None)
    began = time.perf_counter()
    result = simulate(workload.pieces(predictor), question.engine, policy_named(policy))
    seconds = time.perf_counter() - began
    found = summarize(result)
    return {
        "policy": policy,
        "requests": requests,
        "seconds": round(seconds, 3),
        "us_per_request": round(1e6 * seconds / requests, 3),
        **found["cost"],
        "peak_mib": round(peak_mib(), 1),
        "peak_mib_before": round(before, 1),
        "longest_queue": found["engine"]["longest_queue"],
        "mean_completion_s": found["completion_s"]["mean"],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))))
