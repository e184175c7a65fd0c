"""A live comparison of policies at several loads and seeds.

Called by `lengthwise bench serve`. One seed's workload runs under every policy before the next seed
begins, so that a machine that becomes slower within an hour slows all policies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lengthwise_lab.errors import ServiceError
from lengthwise_lab.loadtest.arrivals import ArrivalKind, ArrivalProcess
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import Arm, PolicyRun, compare, until_idle
from lengthwise_lab.loadtest.driver import LoadTarget, drive
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.overhead import Overhead
from lengthwise_lab.loadtest.report import Report, build
from lengthwise_lab.loadtest.workload import Bodies, mix

#: Gap between the seeds of a pooled run, s, so that the model's queue is empty between them.
APART_S = 1e6


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """The runs of a sweep.

    Attributes:
        arrivals: The arrival process of each step.
        count: Requests of one run.
        seeds: Each seed is one run of every policy.
        policies: `fcfs` first if there is `oracle`. The order of the others rotates.
    """

    arrivals: Sequence[ArrivalProcess]
    count: int
    seeds: Sequence[int]
    policies: Sequence[Arm]


@dataclass(kw_only=True)
class Step:
    """One arrival process: a report for each seed, and one of all seeds together."""

    arrivals: ArrivalProcess
    seeds: list[Report] = field(default_factory=list)
    runs: list[PolicyRun] = field(default_factory=list)  #: Joined runs of all seeds, one a policy.
    pooled: Report | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The results of all steps."""

    model: str
    slots: int
    capacity_per_s: float | None
    steps: list[Step]
    overhead: Overhead | None = None

    @property
    def failed(self) -> int:
        """The number of failed requests of all runs."""
        return sum(report.failed for step in self.steps for report in step.seeds)

    def as_json(self) -> dict[str, Any]:
        """Return the report of a single run, or a list of steps, each pooled and by seed."""
        [first, *others] = self.steps
        if not others and len(first.seeds) == 1:
            return {**first.seeds[0].as_json(), "capacity_per_s": self.capacity_per_s}
        overhead = None if self.overhead is None else asdict(self.overhead)
        return {
            "model": self.model,
            "slots": self.slots,
            "capacity_per_s": self.capacity_per_s,
            "ttft_overhead": overhead,
            "steps": [
                {
                    "offered_load": step.seeds[0].offered_load,
                    "arrivals": step.arrivals.kind,
                    "rate_per_s": step.arrivals.rate_per_s,
                    "pooled": None if step.pooled is None else step.pooled.as_json(),
                    "seeds": [report.as_json() for report in step.seeds],
                }
                for step in self.steps
            ],
        }


async def measure_capacity(
    service: ServiceClient, target: LoadTarget, bodies: Bodies, *, slots: int, seed: int
) -> float:
    """Measure the engine's answers a second with all slots busy. It is a warm-up, too.

    A burst of five requests for each slot is sent. The rate is that of all answers but the last
    `slots`: while those are made, no request waits, and the engine is no longer full.

    Raises:
        ServiceError: A request failed.
    """
    await until_idle(service, target.model)
    burst = mix(bodies, count=5 * slots, seed=seed)
    samples = await drive(target, burst, on_done=lambda _: None)
    failed = next((s for s in samples if not s.ok), None)
    if failed is not None:
        raise ServiceError(f"the engine's capacity cannot be measured: {failed.error}")
    done = sorted(s.completion_s or 0.0 for s in samples)[:-slots]
    return len(done) / done[-1]


async def sweep(
    service: ServiceClient,
    target: LoadTarget,
    bodies: Bodies,
    plan: SweepPlan,
    *,
    slots: int,
    capacity_per_s: float | None,
    overhead: Overhead | None = None,
    on_run: Callable[[Arm, ArrivalProcess, int], None],
    on_done: Callable[[Sample], None],
) -> Sweep:
    """Serve every workload of the plan under every policy.

    Args:
        service: The queue service. It must have no other clients.
        target: Its OpenAI endpoint, and the model.
        bodies: The request bodies.
        plan: The runs.
        slots: Requests that the engine serves at once.
        capacity_per_s: From `measure_capacity`; None: loads are computed from service times.
        overhead: The measured overhead, if any.
        on_run: Called before each run.
        on_done: Called after each request.

    Raises:
        BadChoice: The queue has other jobs.
        ServiceError: The queue service returned an error.
    """
    steps = [Step(arrivals=arrivals) for arrivals in plan.arrivals]
    joined: list[dict[Arm, list[PolicyRun]]] = [{} for _ in steps]
    for turn, seed in enumerate(plan.seeds):
        for step, of_step in zip(steps, joined, strict=True):
            runs = await compare(
                service,
                target,
                mix(bodies, count=plan.count, seed=seed, arrivals=step.arrivals),
                policies=rotated(plan.policies, turn),
                on_run=lambda arm, step=step, seed=seed: on_run(arm, step.arrivals, seed),  # type: ignore[misc]
                on_done=on_done,
            )
            runs.sort(key=lambda run: plan.policies.index(run.policy))
            step.seeds.append(
                build(
                    runs,
                    model=target.model,
                    slots=slots,
                    seed=seed,
                    arrivals=step.arrivals,
                    capacity_per_s=capacity_per_s,
                    overhead=overhead,
                )
            )
            for run in runs:
                of_step.setdefault(run.policy, []).append(run)
    for step, of_step in zip(steps, joined, strict=True):
        step.runs = [join(runs) for runs in of_step.values()]
        step.pooled = build(
            step.runs,
            model=target.model,
            slots=slots,
            seed=plan.seeds[0],
            arrivals=step.arrivals,
            capacity_per_s=capacity_per_s,
            overhead=overhead,
        )
    return Sweep(
        model=target.model,
        slots=slots,
        capacity_per_s=capacity_per_s,
        steps=steps,
        overhead=overhead,
    )


def rotated(policies: Sequence[Arm], turn: int) -> list[Arm]:
    """Return the order of a round: `fcfs` first, because the oracle needs it; the rest rotates."""
    first: list[Arm] = ["fcfs"] if "fcfs" in policies else []
    rest = [p for p in policies if p != "fcfs"]
    at = turn % len(rest) if rest else 0
    return first + rest[at:] + rest[:at]


def join(runs: Sequence[PolicyRun]) -> PolicyRun:
    """Join one policy's runs of several seeds.

    Request i of the n-th run gets the index n * count + i. The send times get a gap between the
    runs, so that the requests of two seeds do not meet in a model of the queue.
    """
    count = len(runs[0].samples)
    samples = [
        replace(
            sample,
            index=n * count + sample.index,
            due_to_send_s=n * APART_S + sample.due_to_send_s,
        )
        for n, run in enumerate(runs)
        for sample in run.samples
    ]
    return replace(
        runs[0],
        samples=samples,
        duration_s=sum(run.duration_s for run in runs),
        fallbacks=sum(run.fallbacks for run in runs),
    )


def at_loads(
    arrivals: ArrivalProcess, loads: Sequence[float], capacity_per_s: float
) -> list[ArrivalProcess]:
    """Return the arrival process at several offered loads; 1 is the capacity of the engine."""
    kind = ArrivalKind.POISSON if arrivals.kind is ArrivalKind.BURST else arrivals.kind
    return [replace(arrivals, kind=kind, rate_per_s=load * capacity_per_s) for load in loads]
