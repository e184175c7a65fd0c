"""Run a simulated engine as a process of its own. See the package's docstring."""

from __future__ import annotations

import argparse

import uvicorn

from lengthwise_worker.engines.simulated.batch import SimulatedBatch
from lengthwise_worker.engines.simulated.server import create_app


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lengthwise_worker.engines.simulated")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="simulated", help="served model name")
    parser.add_argument("--slots", type=int, default=16, help="answers at once (max_num_seqs)")
    parser.add_argument("--tokens-per-s", type=float, default=50.0, help="speed of each slot")
    parser.add_argument("--prefill-ms", type=float, default=0.0, help="from slot to first token")
    parser.add_argument("--max-model-len", type=int, default=8192, help="tokens")
    parser.add_argument("--scheduling-policy", choices=["fcfs", "priority"], default="fcfs")
    args = parser.parse_args()
    batch = SimulatedBatch(
        slots=args.slots,
        tokens_per_s=args.tokens_per_s,
        prefill_s=args.prefill_ms / 1000,
        by_priority=args.scheduling_policy == "priority",
    )
    app = create_app(model=args.model, max_model_len=args.max_model_len, batch=batch)
    uvicorn.run(app, host=args.host, port=args.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
