"""`lengthwise bench chaos`: break a whole system on purpose and check its history."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, cast

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_lab.chaos.checks import checker
from lengthwise_lab.chaos.checks.report import ChaosReport
from lengthwise_lab.chaos.faults import LONG_RUN, OF_EVERY_KIND
from lengthwise_lab.chaos.history import read
from lengthwise_lab.chaos.run import ChaosPlan, run
from lengthwise_lab.chaos.sick_replica import compare
from lengthwise_lab.chaos.system.processes import ChaosDurability, Sizes


def chaos(
    seed: Annotated[int, typer.Option(help="Seed of the jobs and of the faults.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs to submit.")] = 2000,
    services: Annotated[int, typer.Option(min=1, help="Queue services.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Workers.")] = 3,
    slots: Annotated[int, typer.Option(min=1, help="Concurrent jobs of each worker.")] = 8,
    appendfsync: Annotated[str, typer.Option(help="Of the Valkey: always or everysec.")] = "always",
    durability: Annotated[
        str, typer.Option(help="async, or replica: a failover then hits a lagging replica.")
    ] = "async",
    faults_per_kind: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Faults of each kind. Default: {OF_EVERY_KIND} from {LONG_RUN} jobs on, else one "
            "fault per 250 jobs.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the history and the logs. Default: a new one in /tmp."),
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="Run nothing; check this history again.")
    ] = None,
    sick_replica: Annotated[
        bool,
        typer.Option(
            "--sick-replica",
            help="Instead: send jobs to two replicas, one of them sick in each way, and compare "
            "with the healthy one alone.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Break a whole system and check that it lost nothing.

    Exits with status 1 when a promise is broken (docs/research/chaos.md lists them).
    """
    if sick_replica:
        _sick_replica(_folder(out), as_json=as_json)
        return
    if history is not None:
        try:
            report = checker.check(read(history))
        except (OSError, ValueError) as exc:
            raise BadUsage(f"{history} cannot be checked: {exc}") from exc
        result = {"history": str(history), **report.as_json()}
    else:
        if appendfsync not in ("always", "everysec"):
            raise BadUsage(f"--appendfsync is always or everysec, not {appendfsync!r}")
        if durability not in ("async", "replica"):
            raise BadUsage(f"--durability is async or replica, not {durability!r}")
        plan = ChaosPlan(
            seed=seed,
            jobs=jobs,
            folder=_folder(out),
            per_kind=faults_per_kind,
            sizes=Sizes(
                services=services,
                workers=workers,
                slots=slots,
                appendfsync=appendfsync,
                durability=cast(ChaosDurability, durability),
            ),
        )
        errors = Console(stderr=True, highlight=False)
        report = uvloop.run(run(plan, errors.print))
        result = {"seed": seed, "history": str(plan.history), **report.as_json()}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        Console(highlight=False).print(_table(report), f"history: {result['history']}")
    if not report.ok:
        raise CliError(f"a promise was broken; see {result['history']}")


def _sick_replica(folder: Path, *, as_json: bool) -> None:
    errors = Console(stderr=True, highlight=False)
    rows = uvloop.run(compare(folder, errors.print))
    if as_json:
        result = {"rows": [row.as_json() for row in rows], "logs": str(folder)}
        typer.echo(json.dumps(result, indent=2))
    else:
        table = Table("sick in this way", "dead letters", "mean, s", "longest, s", "ratio of means")
        for row in rows:
            seconds = f"{row.mean_s:.1f}", f"{row.longest_s:.1f}"
            kind = row.kind or "healthy replica alone"
            table.add_row(kind, str(row.dead_letters), *seconds, f"{row.ratio:.2f}")
        Console(highlight=False).print(table, f"logs: {folder}")
    if not all(row.ok for row in rows):
        raise CliError(f"a sick replica did harm; the logs are in {folder}")


def _folder(out: Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="lengthwise-chaos-"))
    if out.exists() and any(out.iterdir()):
        raise BadUsage(f"--out {out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    return out.resolve()


def _table(report: ChaosReport) -> Table:
    table = Table("promise", "violations", "first of them")
    for name, found in report.violations.items():
        table.add_row(name.replace("_", " "), str(len(found)), found[0] if found else "")
    faults = sum(report.faults.values())
    table.caption = (
        f"{report.jobs} jobs, {faults} faults of {len(report.faults)} kinds, "
        f"{report.executed_more_than_once} jobs executed more than once, "
        f"{report.overtakes} overtaken within the bound, {report.seconds:.0f} s"
    )
    return table
