"""`python -m lengthwise_lab.queue_bench.benchmark_process`: one process of a measurement.

It submits jobs (`produce`), runs them (`work`), or measures the server itself (`yardstick`).
Started by process_handle.py. It writes lines of JSON to standard output; logs go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from typing import Any

import redis.asyncio as redis
import uvloop

from lengthwise_lab.queue_bench.library import load
from lengthwise_lab.queue_bench.probe import Probe
from lengthwise_lab.queue_bench.producer import LoadPlan

#: Commands in one pipeline of the yardstick.
_PIPELINE = 200


def main() -> None:
    """Parse the command line and run the role."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["produce", "work", "yardstick"])
    parser.add_argument("--plan", type=json.loads, required=True)
    args = parser.parse_args()
    plan: dict[str, Any] = args.plan
    # Some libraries print, and only this module may write to the measuring process.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if cpus := plan.get("cpus"):
        os.sched_setaffinity(0, cpus)
    url = plan["url"]
    if args.role == "yardstick":
        answer: dict[str, Any] = {"zadd_per_s": uvloop.run(_yardstick(url, plan["jobs"]))}
    elif args.role == "produce":
        answer = asdict(load(plan["library"]).produce(url, LoadPlan(**plan["load"])))
    else:
        probe = Probe(
            **{name: plan[name] for name in ("warm_up", "jobs", "paced", "concurrency")}, out=out
        )
        load(plan["library"]).work(url, probe)
        return
    print(json.dumps({"event": "answer"} | answer), file=out)
    out.flush()


async def _yardstick(url: str, count: int) -> float:
    """Measure pipelined ZADD a second, through redis-py, into an empty sorted set."""
    async with redis.Redis.from_url(url, protocol=2) as client:
        await client.ping()
        start_s = time.monotonic()
        for first in range(0, count, _PIPELINE):
            pipe = client.pipeline(transaction=False)
            for number in range(first, min(first + _PIPELINE, count)):
                pipe.zadd("yardstick", {f"job-{number:012d}": number})
            await pipe.execute()
        return count / (time.monotonic() - start_s)


if __name__ == "__main__":
    main()
