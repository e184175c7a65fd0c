"""The catalog of the commands of `lengthwise`: module and line in `--help`.

`main.py` imports a command's module only when that command runs, so that `lengthwise --help` does
not import ONNX Runtime, numba or the HTTP clients. A new command touches its own module and this
table. A summary here is the first line of the command's docstring; tests/cli/test_main.py compares
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command, or a Typer app of several.

    Attributes:
        target: "module:attribute" of the function or the Typer app.
        summary: Its line in the help of its group.
    """

    target: str
    summary: str


@dataclass(frozen=True)
class Group:
    """Commands under one name, such as `lengthwise bench`."""

    summary: str
    commands: Mapping[str, Command | Group]


_COMMANDS = "lengthwise_cli.commands"

BENCH = Group(
    "Measure a running service, or the queue itself.",
    {
        "serve": Command(
            f"{_COMMANDS}.bench.serve:serve",
            "Compare policies on a running service.",
        ),
        "queue": Command(
            f"{_COMMANDS}.bench.queue_speed:queue",
            "Compare this queue with other Python task queues.",
        ),
        "predictor": Command(
            f"{_COMMANDS}.bench.predictor:predictor",
            "Measure the predictor on one core, beside BERT-base.",
        ),
        "sequence": Command(
            f"{_COMMANDS}.bench.sequence:sequence",
            "Measure sequence scheduling with a real model.",
        ),
        "chaos": Command(
            f"{_COMMANDS}.bench.chaos:chaos",
            "Break a whole system and check that it lost nothing.",
        ),
        "soak": Command(
            f"{_COMMANDS}.bench.soak:soak",
            "Load a Valkey and check what stays behind.",
        ),
        "drift": Command(
            f"{_COMMANDS}.bench.drift:drift",
            "Serve streams whose predictor turns bad.",
        ),
        "calibration": Command(
            f"{_COMMANDS}.bench.calibration:calibration",
            "Measure calibration on an LLM new to the predictor.",
        ),
        "learn": Command(
            f"{_COMMANDS}.bench.learn:learn",
            "Replay lengths as traffic and measure what is learned.",
        ),
    },
)

ROOT = Group(
    "LLM serving that answers the short requests first.",
    {
        "up": Command(
            f"{_COMMANDS}.up:up",
            "Start the whole of Lengthwise on this machine.",
        ),
        "submit": Command(
            f"{_COMMANDS}.submit:submit",
            "Submit a job; print its prediction, position and answer.",
        ),
        "top": Command(
            f"{_COMMANDS}.top:top", "Show the queue live: waiting, running and finished jobs."
        ),
        "queues": Command(
            f"{_COMMANDS}.queues:app",
            "List the queues of a running service, change their settings, remove one.",
        ),
        "demo": Command(
            f"{_COMMANDS}.demo.command:demo",
            "Race fcfs and sjf side by side on a small real LLM.",
        ),
        "doctor": Command(
            f"{_COMMANDS}.doctor:doctor",
            "Check this machine: what is there, what is missing, what to do.",
        ),
        "collect": Command(
            f"{_COMMANDS}.collect:collect",
            "Collect answer lengths from an endpoint or a queue.",
        ),
        "characterize": Command(
            f"{_COMMANDS}.characterize:characterize",
            "Describe collected lengths: quantiles, tails, noise.",
        ),
        "export-chat": Command(
            f"{_COMMANDS}.characterize:export_chat",
            "Write lengths as chats, to tune an LLM to predict them.",
        ),
        "evaluate": Command(
            f"{_COMMANDS}.evaluate:evaluate",
            "Compare length predictors on the same rows.",
        ),
        "adapt": Command(
            f"{_COMMANDS}.evaluate:adapt",
            "Adapt a predictor to your own lengths, without a GPU.",
        ),
        "train": Command(
            f"{_COMMANDS}.train:train",
            "Train, measure and export a length predictor.",
        ),
        "export": Command(
            f"{_COMMANDS}.train:export",
            "Export a trained predictor to ONNX.",
        ),
        "bench": BENCH,
        "tenants": Command(
            f"{_COMMANDS}.tenants:app", "Make API keys and check a file of tenants."
        ),
        "lab": Command(
            f"{_COMMANDS}.lab.app:app", "Simulate schedules; reproduce published results."
        ),
    },
)
