"""`lengthwise lab`: simulate schedules, and reproduce the numbers of four research systems."""

from __future__ import annotations

import typer

from lengthwise_cli.commands.lab import check, choose, fit, run, scale, table

app = typer.Typer(help="Simulate schedules; reproduce published results.", no_args_is_help=True)
app.command("table")(table.table)
app.command("run")(run.run)
app.command("scale")(scale.scale)
app.command("choose")(choose.choose)
app.command("fit")(fit.fit)
app.command("check")(check.check)
