"""A race: the same requests in two queues at the same moment, and what its screen shows."""

from __future__ import annotations

import asyncio
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from lengthwise_cli.commands.demo.screen import Screen, line
from lengthwise_cli.commands.demo.summary import Summary, print_summary, sentence
from lengthwise_cli.local import ports
from lengthwise_cli.local.settings import StackEngine, StackSettings
from lengthwise_cli.local.stack import Stack
from lengthwise_contract.jobs import JobView
from lengthwise_lab.loadtest.applications import (
    applications,
    mixed_requests,
    times_by_application,
)
from lengthwise_lab.loadtest.arrivals import ArrivalProcess
from lengthwise_lab.loadtest.client import ServiceClient
from lengthwise_lab.loadtest.compare import Arm, PolicyRun
from lengthwise_lab.loadtest.driver import LoadTarget
from lengthwise_lab.loadtest.measures import Sample
from lengthwise_lab.loadtest.race import Lane, LaneProgress, Race
from lengthwise_lab.loadtest.race_chart import draw_race
from lengthwise_lab.loadtest.report import build
from lengthwise_lab.loadtest.workload import TimedRequest, chat_body

REQUESTS = [
    TimedRequest(index=0, kind="article", body=chat_body("long", max_tokens=9)),
    TimedRequest(index=1, kind="check", body=chat_body("short", max_tokens=9)),
]


def answer(index: int, done_s: float, tokens: int = 10) -> Sample:
    return Sample(
        index=index,
        due_to_send_s=0,
        ttft_s=done_s / 2,
        completion_s=done_s,
        predicted_tokens=float(tokens),
        output_tokens=tokens,
        service_s=done_s,
    )


def progress(*samples: Sample) -> LaneProgress:
    lane = LaneProgress(REQUESTS)
    for sample in samples:
        lane.end(sample)
    return lane


def runs() -> list[PolicyRun]:
    """`fcfs` answers the long request first, `sjf` the short one."""
    fcfs = [answer(0, 10, 100), answer(1, 11, 2)]
    sjf = [answer(0, 11, 100), answer(1, 1, 2)]
    return [run("fcfs", fcfs), run("sjf", sjf)]


def run(policy: Arm, samples: list[Sample]) -> PolicyRun:
    return PolicyRun(
        policy=policy, overtake_factor=3, samples=samples, duration_s=11.0, fallbacks=0
    )


def test_a_lane_knows_who_waits_who_runs_and_who_is_answered() -> None:
    lane = LaneProgress(REQUESTS)
    assert [r.index for r in lane.waiting] == [0, 1]
    lane.start(1, 2.0)
    assert [r.index for r in lane.running] == [1]
    lane.end(answer(1, 3.0))
    assert ([r.index for r in lane.answered], lane.running) == ([1], [])
    assert [r.index for r in lane.waiting] == [0]


def test_the_mean_wait_counts_the_open_requests_until_now() -> None:
    # The mean of the answers alone favours a lane that has answered only its first requests.
    lane = progress(answer(1, 3.0))
    assert lane.mean_wait_s(3.0) == pytest.approx(3.0)
    assert lane.mean_wait_s(13.0) == pytest.approx((3 + 13) / 2)


def test_a_line_of_the_log_compares_both_lanes() -> None:
    lanes = {"fcfs": progress(), "sjf": progress(answer(1, 1.0))}
    got = line(lanes, 5.0)
    assert "first come, first served: 0 of 2 answered" in got
    assert "short first (Lengthwise): 1 of 2 answered" in got
    assert got.endswith("short first is 2.0 s ahead on average")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_screen_fits_into_the_terminal(width: int) -> None:
    lanes = {"fcfs": progress(), "sjf": progress(answer(1, 1.0))}
    screen = Screen(lanes)
    console = Console(file=StringIO(), width=width, force_terminal=True)
    for now_s in (0.0, 0.5, 2.0, 5.0):
        console.print(screen.frame(now_s))
    shown = console.render_lines(screen.frame(6.0))
    assert max(sum(len(part.text) for part in row) for row in shown) <= width
    assert "short first is 2.0 s ahead" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_summary_names_who_gains_and_who_loses() -> None:
    both = runs()
    report = build(both, model="tiny", slots=1, seed=1, arrivals=ArrivalProcess())
    got = sentence(report, times_by_application(both, REQUESTS))
    assert "6 s on average instead of 10 s (43% less)" in got
    assert '"a yes or no about a review" 1 s instead of 11 s' in got
    assert '"a long article" 11 s instead of 10 s' in got


def test_the_results_are_printed_and_drawn(tmp_path: Path) -> None:
    both = runs()
    report = build(both, model="tiny", slots=1, seed=1, arrivals=ArrivalProcess())
    summary = Summary.of(both, REQUESTS)
    assert summary.first_answer_s == 1
    draw_race(report, both, summary.applications, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    console = Console(file=StringIO(), width=100)
    print_summary(console, summary, report, seconds=12.0, out=tmp_path)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "lengthwise up" in text
    assert "The demo took 12 s" in text


@pytest.mark.parametrize("count", [None, 3, 10, 50])
def test_each_application_is_spread_over_the_whole_race(count: int | None) -> None:
    # A plain shuffle put all articles at the end, and then first come, first served was the best.
    requests = mixed_requests(count=count, max_tokens=300, seed=1)
    assert [r.index for r in requests] == list(range(count or len(requests)))
    assert requests == mixed_requests(count=count, max_tokens=300, seed=1)
    for app in applications():
        places = [r.index for r in requests if r.kind == app.kind]
        if not places:
            continue
        gaps = [b - a for a, b in zip([-1, *places], [*places, len(requests)], strict=True)]
        assert max(gaps) <= 2 * len(requests) / len(places) + 2
    assert {r.body["max_tokens"] for r in requests} == {300}


@pytest.mark.slow
def test_both_lanes_of_a_race_get_the_same_requests_at_once(tmp_path: Path) -> None:
    lengths = [120, 90, 5, 10, 80, 8]
    requests = [
        TimedRequest(
            index=i,
            kind="check",
            body={
                **chat_body(f"Request {i}", max_tokens=200),
                "vllm_xargs": {"output_tokens": tokens},
            },
        )
        for i, tokens in enumerate(lengths)
    ]

    async def scenario() -> tuple[Race, list[PolicyRun], list[JobView]]:
        settings = StackSettings(
            data_dir=tmp_path,
            engine=StackEngine.SIMULATED,
            model="first-come",
            policy="fcfs",
            slots=1,
            port=ports.find_free(),
        )
        async with Stack(settings, print) as stack, ServiceClient(stack.url) as service:
            await stack.add_queue("short-first", {"policy": "sjf", "min_rank_accuracy": None})
            race = Race(
                service,
                [
                    Lane(policy="fcfs", target=LoadTarget(url=stack.url, model="first-come")),
                    Lane(policy="sjf", target=LoadTarget(url=stack.url, model="short-first")),
                ],
                requests,
            )
            assert race.seconds == 0
            found = await race.run()
            ids = [sample.job_id or "" for lane in found for sample in lane.samples]
            return race, found, [await service.job(job_id) for job_id in ids]

    race, (fcfs, sjf), jobs = asyncio.run(scenario())
    # The queues open when all requests are in them: chance does not choose who is first.
    assert min(job.started_ms or 0 for job in jobs) >= max(job.accepted_ms for job in jobs)
    assert (fcfs.policy, sjf.policy) == ("fcfs", "sjf")
    for lane in (fcfs, sjf):
        assert [s.output_tokens for s in lane.samples] == lengths
        assert all(s.ok and s.policy == lane.policy for s in lane.samples)
    # In the order of arrival an answer ends after all that came before it.
    ends = [s.completion_s or 0 for s in fcfs.samples]
    assert ends == sorted(ends)
    assert all(len(p.answered) == len(lengths) for p in race.lanes.values())
