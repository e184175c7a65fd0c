"""Dashboards and alerts, with a real Prometheus that scrapes a running stack."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests import waiting
from tests.chart.alert_rules import ALERTS, CHART, alerts, needs_prometheus

from lengthwise_cli.local import ports
from lengthwise_lab.dashboards import pictures as dashboard_pictures
from lengthwise_lab.dashboards import queries as dashboards
from lengthwise_lab.loadtest import workload
from lengthwise_operator.metrics import OperatorMetrics

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))

#: Longest time for a process to start, s.
WITHIN_S = 60.0

#: The value of `$__rate_interval`; there is a scrape every second.
RATE_INTERVAL = "8s"

#: Folder for the pictures; unset: none are stored, and the load is shorter.
PICTURES = os.environ.get("LENGTHWISE_PICTURES")

#: Metrics that the local stack lacks, and where they come from.
ELSEWHERE = {
    "lengthwise_autoscaler_desired_replicas": "the operator",
    "lengthwise_operator_service_ready": "the operator",
    "vllm:(kv|gpu)_cache_usage_perc": "a real vLLM; the simulated one has no KV cache",
}


eventually = partial(waiting.eventually, within_s=WITHIN_S, every_s=0.1)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


# ------------------------------------------------------------- without a stack


def test_dashboards_are_valid_and_every_panel_has_a_description() -> None:
    count = 0
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        ids = [p["id"] for p in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert at["x"] + at["w"] <= 24
            assert not cells & taken, f"{panel['title']} overlaps another panel"
            taken |= cells
            if panel["type"] != "row":
                count += 1
                assert panel["description"].endswith(".")
                assert all(t["datasource"]["uid"] == "${datasource}" for t in panel["targets"])
    assert 20 <= count <= 28


def test_the_operator_exports_the_metrics_that_the_local_stack_lacks() -> None:
    """The cluster tests look up the rest of ELSEWHERE, vLLM's metrics, in a real vLLM."""
    exported = {metric.name for metric in OperatorMetrics().registry.collect()}
    wanted = {name for name in ELSEWHERE if name.startswith("lengthwise_")}
    assert wanted
    assert wanted <= exported


# ------------------------------------------------------------- with a stack


@dataclass
class Monitored:
    """A stack under load, and the Prometheus that scrapes it."""

    prometheus: dashboards.Prometheus
    start_s: float
    end_s: float

    def over(self, expr: str) -> list[dashboards.Series]:
        return self.prometheus.over(
            dashboards.expand(expr, span_s=self.end_s - self.start_s, rate_interval=RATE_INTERVAL),
            start_s=self.start_s,
            end_s=self.end_s,
            step_s=1,
        )


def environment_of(parent: int, module: str) -> dict[str, str]:
    """Read the environment that the stack gave to one of its programs."""
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().decode().split("\0")
            above = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if line[1:3] == ["-m", module] and above == str(parent):
                pairs = (folder / "environ").read_bytes().decode().split("\0")
                return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        except (OSError, UnicodeDecodeError):
            continue
    raise AssertionError(f"no {module} runs under {parent}")


async def load(url: str, *, waves: int, each: int, every_s: float) -> None:
    """Send bursts of chat requests; short prompts get short answers."""
    chance = random.Random(5)  # noqa: S311 - not for secrets
    bodies = workload.bundled_bodies(max_tokens=400)

    async def ask(http: httpx.AsyncClient, kind: str, body: dict[str, Any], stream: bool) -> None:
        tokens = chance.randint(5, 60) if kind == "short" else chance.randint(60, 300)
        request = {**body, "model": "simulated", "stream": stream}
        request["vllm_xargs"] = {"output_tokens": tokens}
        if tokens <= 60:
            request["max_tokens"] = chance.choice([60, 120, 400])
        await http.post("/v1/chat/completions", json=request)

    async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as http:
        tasks = []
        for _ in range(waves):
            for request in workload.mix(bodies, count=each, seed=chance.randrange(2**31)):
                tasks.append(
                    asyncio.create_task(
                        ask(http, request.kind, dict(request.body), chance.random() < 0.5)
                    )
                )
            await http.post("/v1/chat/completions", json={"model": "simulated"})  # a 400
            await asyncio.sleep(every_s)  # the time between two waves
        await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitoring")
    engine_port = ports.find_free()
    port = ports.find_free({engine_port})
    prometheus_port = ports.find_free({engine_port, port})
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *argv: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder))
        return processes[-1]

    def python(name: str, *argv: str) -> subprocess.Popen[bytes]:
        return start(name, sys.executable, "-m", *argv)

    try:
        python(
            *("engine", "lengthwise_worker.engines.simulated", "--port", str(engine_port)),
            *("--slots", "4", "--tokens-per-s", "150", "--scheduling-policy", "priority"),
        )
        eventually(lambda: answers(f"http://127.0.0.1:{engine_port}/health"), "the engine")
        up = python(
            *("up", "lengthwise_cli.main", "up", "--engine", "vllm", "--slots", "4"),
            *("--engine-url", f"http://127.0.0.1:{engine_port}", "--port", str(port)),
            *("--data-dir", str(folder / "data"), "--predictor-timeout-ms", "1000"),
        )

        def serving() -> bool:
            found = httpx.get(f"http://127.0.0.1:{port}/v1/queues/simulated", timeout=5)
            return found.is_success and bool(found.json()["workers"])

        eventually(lambda: answers(f"http://127.0.0.1:{port}/readyz") and serving(), "the stack")
        worker = environment_of(up.pid, "lengthwise_worker")["LENGTHWISE_WORKER_METRICS_PORT"]
        predictor = environment_of(up.pid, "lengthwise_predictor")["LENGTHWISE_PREDICTOR_PORT"]
        # The labels that the monitors of chart and operator add by relabeling.
        jobs = {
            "queue": (port, {"component": "queue"}),
            "predictor": (predictor, {"component": "predictor"}),
            "worker": (worker, {"component": "engine", "service": "simulated", "pod": "e-0"}),
            "vllm": (engine_port, {"component": "engine", "service": "simulated", "pod": "e-0"}),
        }
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {
                    "job_name": name,
                    "static_configs": [{"targets": [f"127.0.0.1:{at}"], "labels": labels}],
                }
                for name, (at, labels) in jobs.items()
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        start(
            *("prometheus", "prometheus", f"--config.file={folder}/prometheus.yaml"),
            f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{prometheus_port}",
        )
        prometheus = dashboards.Prometheus(f"http://127.0.0.1:{prometheus_port}")
        eventually(lambda: answers(f"http://127.0.0.1:{prometheus_port}/-/ready"), "Prometheus")
        eventually(lambda: sum(s.values[0] for s in prometheus.now("up")) == 4, "four targets up")
        start_s = time.time()
        waves = 12 if PICTURES else 4
        asyncio.run(load(f"http://127.0.0.1:{port}", waves=waves, each=30, every_s=4))
        for _ in range(4):  # what the queue learns is known some answers after its first fit
            if prometheus.now("lengthwise_learning_tau_b"):
                break
            asyncio.run(load(f"http://127.0.0.1:{port}", waves=1, each=30, every_s=4))
        yield Monitored(prometheus=prometheus, start_s=start_s, end_s=time.time())
        prometheus.close()
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


def queries() -> list[Any]:
    return [
        pytest.param(target.expr, id=f"{panel.title}: {target.legend}")
        for path in DASHBOARDS
        for panel in dashboards.read(path)[1]
        for target in panel.targets
    ]


@needs_prometheus
@pytest.mark.slow
@pytest.mark.parametrize("expr", queries())
def test_every_query_of_a_panel_returns_data(monitored: Monitored, expr: str) -> None:
    found = monitored.over(expr)  # a query that does not parse raises here
    if any(name in expr for name in ELSEWHERE):
        return
    assert any(math.isfinite(value) for series in found for value in series.values)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_uses_series_that_exist(monitored: Monitored, rule: dict[str, Any]) -> None:
    """An alert with a misspelt name would never fire."""
    monitored.prometheus.now(rule["expr"])
    for name in set(re.findall(r"\blengthwise_\w+", rule["expr"])):
        if name not in ELSEWHERE:
            assert monitored.prometheus.now(f"count({name})"), f"{name} is not scraped"


@needs_prometheus
@pytest.mark.slow
def test_no_alert_fires_on_a_healthy_stack(monitored: Monitored) -> None:
    firing = monitored.prometheus.now('ALERTS{alertstate="firing"}')
    assert [series.labels["alertname"] for series in firing] == []


@needs_prometheus
@pytest.mark.slow
def test_wait_and_counterfactual_wait_are_of_the_same_jobs(monitored: Monitored) -> None:
    """The dashboard divides one by the other."""
    [ours] = monitored.prometheus.now("lengthwise_job_wait_seconds_count")
    [fcfs] = monitored.prometheus.now("lengthwise_fcfs_counterfactual_wait_seconds_count")
    assert ours.values == fcfs.values
    assert ours.values[0] >= 120


@needs_prometheus
@pytest.mark.slow
def test_the_pictures_can_be_drawn(monitored: Monitored, tmp_path: Path) -> None:
    """For docs/: `LENGTHWISE_PICTURES=docs/pictures pytest tests/chart -k pictures` stores them."""
    folder = Path(PICTURES or tmp_path)
    for path in DASHBOARDS:
        title, panels = dashboards.read(path)
        out = folder / f"dashboard-{path.stem}.png"
        dashboard_pictures.draw(
            title,
            panels,
            monitored.prometheus,
            start_s=monitored.start_s,
            end_s=monitored.end_s,
            step_s=1,
            rate_interval=RATE_INTERVAL,
            path=out,
        )
        assert out.read_bytes().startswith(b"\x89PNG")
