"""The `lengthwise` command: what it can do, and how it ends when something is wrong.

Every flag can also be given by environment: `lengthwise up --port` is LENGTHWISE_UP_PORT.
"""

from __future__ import annotations

import signal
import sys

import typer
from rich.console import Console

from lengthwise_cli.commands import (
    characterize,
    collect,
    demo,
    evaluate,
    submit,
    tenants,
    top,
    train,
    up,
)
from lengthwise_cli.commands.bench import calibration as bench_calibration
from lengthwise_cli.commands.bench import chaos as bench_chaos
from lengthwise_cli.commands.bench import drift as bench_drift
from lengthwise_cli.commands.bench import predictor as bench_predictor
from lengthwise_cli.commands.bench import queue_speed
from lengthwise_cli.commands.bench import sequence as bench_sequence
from lengthwise_cli.commands.bench import serve as bench
from lengthwise_cli.commands.bench import soak as bench_soak
from lengthwise_cli.commands.lab import app as lab
from lengthwise_cli.errors import CliError
from lengthwise_lab.errors import LabError

app = typer.Typer(
    name="lengthwise",
    help="LLM serving that answers the short requests first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("submit")(submit.submit)
app.command("top")(top.top)
app.command("demo")(demo.demo)
app.command("collect")(collect.collect)
app.command("characterize")(characterize.characterize)
app.command("export-chat")(characterize.export_chat)
app.command("evaluate")(evaluate.evaluate)
app.command("adapt")(evaluate.adapt)
app.command("train")(train.train)
app.command("export")(train.export)
bench_app = typer.Typer(
    help="Measure a running service, or the queue itself.", no_args_is_help=True
)
bench_app.command("serve")(bench.serve)
bench_app.command("queue")(queue_speed.queue)
bench_app.command("predictor")(bench_predictor.predictor)
bench_app.command("sequence")(bench_sequence.sequence)
bench_app.command("chaos")(bench_chaos.chaos)
bench_app.command("soak")(bench_soak.soak)
bench_app.command("drift")(bench_drift.drift)
bench_app.command("calibration")(bench_calibration.calibration)
app.add_typer(bench_app, name="bench")
app.add_typer(tenants.app, name="tenants")
app.add_typer(lab.app, name="lab")


@app.callback()
def root() -> None:
    """LLM serving that answers the short requests first."""


def _interrupt(*_: object) -> None:
    # A shell starts background commands (`lengthwise train ... &`) with SIGINT ignored, and then
    # `kill` would end nothing.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Run the command line; exit 1 with one message when it cannot do what was asked."""
    # `kill` ends a command as Ctrl-C does: settings are put back, processes and folders removed.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(auto_envvar_prefix="LENGTHWISE")
    except (CliError, LabError) as exc:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"lengthwise: {exc}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
