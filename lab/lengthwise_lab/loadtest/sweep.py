"""A live comparison at several loads and seeds, policies by turns, and what comes out of it.

Called by `lengthwise bench serve`. One seed's workload is served under every policy before the
next seed begins, so a machine that slows down in the course of an hour slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lengthwise_lab.errors import ServiceError
from lengthwise_lab.loadtest.arrivals import Arrivals, Kind
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import Arm, PolicyRun, compare, until_idle
from lengthwise_lab.loadtest.driver import Target, drive
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.overhead import Overhead
from lengthwise_lab.loadtest.report import Report, build
from lengthwise_lab.loadtest.workload import Bodies, mix

#: Between the seeds of a pooled run, so that the model of the oracle lets the engine run dry, s.
APART_S = 1e6


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is sent.

    Attributes:
        arrivals: One process for each step of the sweep.
        count: Requests of one run.
        seeds: A run of every policy for each.
        policies: `fcfs` first where there is `oracle`; the others take turns at being next.
    """

    arrivals: Sequence[Arrivals]
    count: int
    seeds: Sequence[int]
    policies: Sequence[Arm]


@dataclass(kw_only=True)
class Step:
    """One arrival process: a report for each seed, and one of all their requests together."""

    arrivals: Arrivals
    seeds: list[Report] = field(default_factory=list)
    runs: list[PolicyRun] = field(default_factory=list)  #: The seeds' runs joined, one a policy.
    pooled: Report | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All steps."""

    model: str
    slots: int
    capacity_per_s: float | None
    steps: list[Step]
    overhead: Overhead | None = None

    @property
    def failed(self) -> int:
        """Requests that failed, in all runs."""
        return sum(report.failed for step in self.steps for report in step.seeds)

    def as_json(self) -> dict[str, Any]:
        """One run: its report. Several: a list of steps, each pooled and by seed."""
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
    service: ServiceClient, target: Target, bodies: Bodies, *, slots: int, seed: int
) -> float:
    """What the engine answers a second while every slot is busy; a warm-up at the same time.

    A burst of five requests for each slot, and the rate at which all but the last `slots` answers
    come: while those come, nothing waits, so the engine is no longer full.

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
    target: Target,
    bodies: Bodies,
    plan: SweepPlan,
    *,
    slots: int,
    capacity_per_s: float | None,
    overhead: Overhead | None = None,
    on_run: Callable[[Arm, Arrivals, int], None],
    on_done: Callable[[Sample], None],
) -> Sweep:
    """Serve every workload of the plan under every policy.

    Args:
        service: The queue service, which nobody else uses meanwhile.
        target: Its OpenAI face, and the model.
        bodies: What to ask.
        plan: How much, and when.
        slots: How many requests the engine serves at once.
        capacity_per_s: From `measure_capacity`; None: offered loads go by service times.
        overhead: If it was measured.
        on_run: Called before each run.
        on_done: Called after each request.

    Raises:
        BadChoice: Somebody else uses the queue.
        ServiceError: The queue service refused something.
    """
    steps = [Step(arrivals=arrivals) for arrivals in plan.arrivals]
    joined: list[dict[Arm, list[PolicyRun]]] = [{} for _ in steps]
    for turn, seed in enumerate(plan.seeds):
        for step, of_step in zip(steps, joined, strict=True):
            runs = await compare(
                service,
                target,
                mix(bodies, count=plan.count, seed=seed, arrivals=step.arrivals),
                policies=in_turn(plan.policies, turn),
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


def in_turn(policies: Sequence[Arm], turn: int) -> list[Arm]:
    """The order of a round: `fcfs` first, whose lengths the oracle needs; the rest by turns."""
    first: list[Arm] = ["fcfs"] if "fcfs" in policies else []
    rest = [p for p in policies if p != "fcfs"]
    at = turn % len(rest) if rest else 0
    return first + rest[at:] + rest[:at]


def join(runs: Sequence[PolicyRun]) -> PolicyRun:
    """One policy's runs of several seeds as one; request i of the n-th has the index n * count + i.

    The times at which they were sent are set apart as well, so that no request of one seed waits
    for one of another in a model of the line.
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


def at_loads(arrivals: Arrivals, loads: Sequence[float], capacity_per_s: float) -> list[Arrivals]:
    """The arrival process at several offered loads: 1 is what the engine can just do."""
    kind = Kind.POISSON if arrivals.kind is Kind.BURST else arrivals.kind
    return [replace(arrivals, kind=kind, rate_per_s=load * capacity_per_s) for load in loads]
