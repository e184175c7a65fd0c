"""Measurements with progress bars. Called by `lengthwise bench serve` and `lengthwise demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lengthwise_cli.progress import progress_bars
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import Arm, PolicyRun, compare
from lengthwise_lab.loadtest.driver import LoadTarget
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.overhead import WARM_UP_PAIRS, Overhead, measure_overhead
from lengthwise_lab.loadtest.workload import Bodies, TimedRequest


@contextmanager
def bars(
    count: int, *, quiet: bool
) -> Iterator[tuple[Callable[[str], None], Callable[[Sample], None]]]:
    """Show a progress bar per run. Yields what to call at a run's start and at each answer."""
    with progress_bars(quiet=quiet) as progress:
        current = None

        def on_run(title: str) -> None:
            nonlocal current
            current = progress.add_task(title, total=count)

        def on_done(_: Sample) -> None:
            if current is not None:
                progress.advance(current)

        yield on_run, on_done


async def compared(
    service: ServiceClient,
    target: LoadTarget,
    workload: Sequence[TimedRequest],
    policies: Sequence[Arm],
    *,
    quiet: bool,
) -> list[PolicyRun]:
    """Run one comparison with a progress bar for each policy."""
    with bars(len(workload), quiet=quiet) as (on_run, on_done):
        return await compare(
            service, target, workload, policies=policies, on_run=on_run, on_done=on_done
        )


async def measured_overhead(
    path: LoadTarget, engine: LoadTarget, bodies: Bodies, pairs: int, *, quiet: bool
) -> Overhead:
    """Measure what the queue adds to the first token, with a progress bar."""
    with progress_bars(quiet=quiet) as progress:
        bar = progress.add_task("first token, idle", total=WARM_UP_PAIRS + pairs)
        return await measure_overhead(
            path, engine, bodies, pairs=pairs, on_pair=lambda: progress.advance(bar)
        )
