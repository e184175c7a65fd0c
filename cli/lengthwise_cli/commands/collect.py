"""`lengthwise collect`: measure answer lengths at an endpoint or a queue; store hidden states."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_cli.extras import extra
from lengthwise_cli.flags import one_of
from lengthwise_cli.progress import progress_bars

#: Time between two polls of a queue, s.
_POLL_S = 0.5


def collect(
    out: Annotated[Path, typer.Option(help="JSONL to append to; its prompts are skipped.")],
    url: Annotated[str | None, typer.Option(help="An OpenAI endpoint to sample.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model, or of the queue.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL with `prompt` or `messages`, optionally `source`.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 1,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Cap on an answer, tokens; such answers are censored."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Default: the endpoint's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Sample i is sent with seed + i. Default: no seed.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent requests.")] = 8,
    tries: Annotated[int, typer.Option(min=1, help="Attempts per request.")] = 6,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="LENGTHWISE_API_KEY", help="The endpoint's key; set it by environment."
        ),
    ] = None,
    from_queue: Annotated[
        str | None,
        typer.Option(help="Instead of --url: watch the queue --model in this Redis, redis://..."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="With --from-queue: stop after this many rows.")
    ] = None,
    for_s: Annotated[
        float | None, typer.Option(min=0, help="With --from-queue: stop after this time, s.")
    ] = None,
    hidden_states: Annotated[
        str | None,
        typer.Option(
            help="Also run the prompts of OUT through this Hugging Face model (folder or hub id) "
            "and store its hidden states, for `train --backbone hidden`."
        ),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="NPZ for the hidden states. Default: OUT with .npz.")
    ] = None,
    layer: Annotated[int, typer.Option(help="Layer of the hidden states; -1 is the last.")] = -1,
    pooling: Annotated[str, typer.Option(help="last token, or mean.")] = "last",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Collect answer lengths from an endpoint or a queue."""
    if hidden_states is not None:
        one_of("--pooling", pooling, ("last", "mean"))
        one_of("--device", device, ("auto", "cpu", "cuda"))
    elif vectors is not None:
        raise BadUsage("--vectors goes with --hidden-states MODEL")
    alone = hidden_states is not None and not (url or from_queue)
    if alone and not out.is_file():
        raise BadUsage(f"there is no {out}; --hidden-states without --url reads its rows")
    if not alone:
        _lengths(
            out=out,
            url=url,
            model=model,
            prompts=prompts,
            sampling=(samples, max_tokens, temperature, seed),
            concurrency=concurrency,
            tries=tries,
            api_key=api_key,
            from_queue=from_queue,
            rows=rows,
            for_s=for_s,
        )
    if hidden_states is not None:
        _states(hidden_states, out, vectors or _beside(out), layer, pooling, device)


def _beside(rows: Path) -> Path:
    """Path of the vectors: `rows.npz` for `rows.jsonl` and `rows.jsonl.gz`."""
    name = rows.name.removesuffix(".gz").removesuffix(".jsonl")
    return rows.with_name(name + ".npz")


def _states(llm: str, rows: Path, vectors: Path, layer: int, pooling: str, device: str) -> None:
    with extra("train"):
        from lengthwise_training.backbones.hidden_states import collect_vectors
        from lengthwise_training.data.examples import read_rows
        from lengthwise_training.data.rows import BadLines
    try:
        found, _ = read_rows(rows)
        with progress_bars() as progress:
            bar = progress.add_task("hidden states", total=None)
            count = collect_vectors(
                llm,
                [row.prompt for row in found],
                vectors,
                layer=layer,
                pooling=pooling,  # type: ignore[arg-type]
                device=device,  # type: ignore[arg-type]
                on_vector=lambda done, missing: progress.update(bar, completed=done, total=missing),
            )
    except (BadLines, OSError, ValueError) as exc:
        raise BadUsage(str(exc)) from exc
    typer.echo(f"{count} vectors computed, in {vectors}")


def _lengths(
    *,
    out: Path,
    url: str | None,
    model: str | None,
    prompts: Path | None,
    sampling: tuple[int, int | None, float | None, int | None],
    concurrency: int,
    tries: int,
    api_key: str | None,
    from_queue: str | None,
    rows: int | None,
    for_s: float | None,
) -> None:
    if from_queue is not None:
        if url or prompts or not model:
            raise BadUsage(
                "--from-queue needs --model, the queue's name, and no --url or --prompts"
            )
        asyncio.run(_watch(from_queue, model, out, rows, for_s))
        return
    if url is None or model is None or prompts is None:
        raise BadUsage("give --url, --model and --prompts; or --from-queue and --model")
    with extra("train"):
        from lengthwise_training.data.chat_client import ChatClient
        from lengthwise_training.data.collect import (
            CollectProgress,
            Sampling,
            collect_lengths,
            read_sampling_prompts,
        )
        from lengthwise_training.data.row_file import CollectFailed, RowFile
    drawn = Sampling(*sampling)

    async def sample() -> CollectProgress:
        async with ChatClient(
            url, model, api_key=api_key, concurrency=concurrency, tries=tries
        ) as asker:
            with RowFile(out) as file, progress_bars() as progress:
                bar = progress.add_task("collect", total=len(questions))

                def on_row(done: CollectProgress) -> None:
                    progress.update(
                        bar,
                        completed=done.already + done.done + len(done.failed),
                        description=f"collect, {len(done.failed)} failed, {asker.retries} retries",
                    )

                return await collect_lengths(
                    asker, questions, file, drawn, workers=concurrency, on_row=on_row
                )

    try:
        questions = read_sampling_prompts(prompts)
        done = asyncio.run(sample())
    except CollectFailed as exc:
        raise BadUsage(str(exc)) from exc
    typer.echo(
        f"{done.done} prompts sampled, {done.already} skipped because they have rows, "
        f"{done.censored} answers cut at the cap"
    )
    if done.failed:
        shown = "; ".join(f"{k}: {v}" for k, v in list(done.failed.items())[:3])
        raise CliError(
            f"{len(done.failed)} prompts have no row; run the command again to retry them. {shown}"
        )


async def _watch(
    redis_url: str, queue: str, out: Path, rows: int | None, for_s: float | None
) -> None:
    with extra("train"):
        from lengthwise_training.data.row_file import CollectFailed, RowFile
    with extra("local"):
        from lengthwise_cli.queue_lengths import QueueLengths
        from lengthwise_store.errors import LengthwiseError
    lengths = QueueLengths(redis_url, queue)
    ends = None if for_s is None else time.monotonic() + for_s
    try:
        if not await lengths.exists():
            raise BadUsage(f"there is no queue {queue} in this Redis")
        with RowFile(out) as file, progress_bars() as progress:
            bar = progress.add_task("watch", total=rows)
            written = 0
            while True:
                for row in await lengths.poll():
                    if (rows is None or written < rows) and file.add(row, sync=False):
                        written += 1
                file.sync()
                missed = lengths.progress.missed
                doing = "read" if lengths.keeps_training_log else f"watch, {missed} missed"
                progress.update(bar, completed=written, description=doing)
                over = ends is not None and time.monotonic() >= ends
                if over or (rows is not None and written >= rows):
                    break
                await asyncio.sleep(_POLL_S)
    except (CollectFailed, LengthwiseError) as exc:
        raise BadUsage(str(exc)) from exc
    finally:
        await lengths.aclose()
    counts = lengths.progress
    typer.echo(f"{written} rows, {counts.censored} cut at their cap; {counts.missed} jobs missed")
    if not lengths.keeps_training_log:
        typer.echo(
            f"The queue keeps no training log. Set `record_rows` of {queue} to log jobs that end "
            "while no command watches.",
            err=True,
        )
