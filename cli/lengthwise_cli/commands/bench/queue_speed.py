"""`lengthwise bench queue`: this queue and other Python task queues on one Redis server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_cli.flags import whole_numbers
from lengthwise_cli.progress import spinner
from lengthwise_lab.queue_bench.depth import measure_depths
from lengthwise_lab.queue_bench.library import LIBRARIES
from lengthwise_lab.queue_bench.report import as_json as result_as_json
from lengthwise_lab.queue_bench.report import render
from lengthwise_lab.queue_bench.rounds import Bench, Cores, Options, split_cores
from lengthwise_lab.queue_bench.server import BenchmarkServer, Persistence, started


def queue(
    libraries: Annotated[
        str, typer.Option(help="Libraries to measure, with commas. Default: all installed.")
    ] = ",".join(LIBRARIES),
    jobs: Annotated[int, typer.Option(min=1, help="Jobs per burn-down.")] = 3000,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Concurrent jobs of a worker; RQ has one.")
    ] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    payload: Annotated[int, typer.Option(min=0, help="Payload of a job, bytes.")] = 512,
    rate: Annotated[
        float, typer.Option(min=0, help="Open loop: arrivals per second; 0 skips it.")
    ] = 100.0,
    paced: Annotated[int, typer.Option(min=1, help="Open loop: jobs per round.")] = 500,
    depths: Annotated[
        str,
        typer.Option(help="Depths at which our claim is timed, with commas; '' for none."),
    ] = "1000,100000,1000000",
    redis_url: Annotated[
        str | None, typer.Option(help="An EMPTY database to use. Default: its own Valkey.")
    ] = None,
    persistence: Annotated[
        Persistence, typer.Option(help="Persistence of the Valkey that the command starts.")
    ] = Persistence.NONE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Compare this queue with other Python task queues."""
    if redis_url is not None and persistence is not Persistence.NONE:
        raise BadUsage("--persistence applies to the command's own Valkey, not to --redis-url")
    options = Options(
        libraries=_names(libraries),
        jobs=jobs,
        rounds=rounds,
        payload_bytes=payload,
        rate_per_s=rate,
        paced=paced if rate > 0 else 0,
        concurrency=concurrency,
    )
    waiting = whole_numbers("--depths", depths, may_be_empty=True)
    cores = split_cores()
    with _server(redis_url, persistence, cores) as server, spinner(quiet=as_json) as progress:
        bench = Bench(server, options, cores)
        task = progress.add_task("starting", total=None)
        bench.run(lambda step: progress.update(task, description=step))
        rows = []
        if waiting:
            rows = measure_depths(
                server,
                waiting,
                lambda done: progress.update(task, description=f"filling the queue: {done:,}"),
            )
        setting = {
            "server": server.version,
            "persistence": "as it is" if redis_url else persistence.value,
            "jobs": jobs,
            "concurrency": concurrency,
            "rounds": rounds,
            "payload_bytes": payload,
            "rate_per_s": rate,
            "paced": options.paced,
            "cores": "one for the server, one for clients" if cores.listed else "not pinned",
        }
    result = result_as_json(bench, setting, rows)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        Console(highlight=False).print(*render(result), sep="\n\n")
    if any(row.get("failures") for row in result["results"] if row["library"] == "lengthwise"):
        raise CliError("a measurement of lengthwise failed; see above")


@contextmanager
def _server(url: str | None, persistence: Persistence, cores: Cores) -> Iterator[BenchmarkServer]:
    if url is None:
        with started(persistence, set(cores.server) if cores.server else None) as own:
            yield own
        return
    server = BenchmarkServer(url)
    try:
        server.refuse_if_in_use()
        yield server
    finally:
        server.close()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names) or not set(names) <= set(LIBRARIES):
        raise BadUsage(f"--libraries takes some of {', '.join(LIBRARIES)}, each once; got {text!r}")
    return names
