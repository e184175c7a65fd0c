"""`lengthwise up` as a process of its own: it serves, recovers, keeps its jobs and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests import waiting

from lengthwise_contract.queue_settings import QueueSettings

pytestmark = pytest.mark.slow

#: Time limit for a stack to start, to recover or to stop, s.
WITHIN_S = 60.0


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "lengthwise_cli.main", *args]


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its console is wide, so that it wraps no line."""
    return subprocess.run(
        command(*args),
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


eventually = partial(waiting.eventually, within_s=WITHIN_S, every_s=0.05)


@dataclass
class Up:
    """A running `lengthwise up` with the simulated engine."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    data_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def printed(self) -> str:
        return self.output.read_text()

    def children(self) -> dict[int, str]:
        """pid -> command line of the processes that the stack has started."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                command_line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if stat[1] == str(self.process.pid) and stat[0] != "Z":
                found[int(folder.name)] = command_line
        return found

    def pid(self, part: str) -> int:
        """The child whose command line contains `part`."""
        return next(pid for pid, command_line in self.children().items() if part in command_line)

    def kill(self, part: str) -> None:
        """kill -9 the child whose command line contains `part`; wait until the stack reports it."""
        before = self.printed().count("killed by SIGKILL")
        os.kill(self.pid(part), signal.SIGKILL)
        eventually(lambda: self.printed().count("killed by SIGKILL") > before, f"{part} is dead")

    def healthy(self) -> bool:
        """Whether the queue service answers and has a worker."""
        try:
            view = httpx.get(f"{self.url}/v1/queues/simulated", timeout=5)
        except httpx.TransportError:
            return False
        return view.status_code == 200 and bool(view.json()["workers"])


def start(folder: Path, port: int, *flags: str) -> Up:
    """Start a stack without waiting for it."""
    output = folder / "output"
    data_dir = folder / "data"
    flags = ("--engine", "simulated", "--slots", "2", *flags)
    with output.open("wb") as log:
        process = subprocess.Popen(
            command("up", "--port", str(port), "--data-dir", str(data_dir), *flags),
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "COLUMNS": "200"},
        )
    return Up(process=process, port=port, output=output, data_dir=data_dir)


def stop(up: Up) -> int:
    """Stop a stack by Ctrl-C; its exit code."""
    if up.process.poll() is None:
        up.process.send_signal(signal.SIGINT)
    try:
        return up.process.wait(WITHIN_S)
    finally:
        up.process.kill()
        up.process.wait()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Up]:
    """A stack that serves; the tests of a module share it, and none leaves it broken."""
    stack = start(tmp_path_factory.mktemp("up"), free_port())
    try:
        serves(stack)
        yield stack
    finally:
        stop(stack)


def serves(stack: Up) -> None:
    """Wait until the stack prints that it serves."""
    eventually(
        lambda: "Ctrl-C stops" in stack.printed() or stack.process.poll() is not None, "it serves"
    )
    assert stack.process.poll() is None, stack.printed()


def submit(up: Up, tokens: int, *, wait: bool = False) -> str:
    """Submit a job of this many tokens and return its id; `wait`: once its answer has started."""
    body = {
        "model": "simulated",
        "messages": [{"role": "user", "content": f"{tokens} words, please"}],
        "vllm_xargs": {"output_tokens": tokens},
        "max_tokens": 4000,
    }
    response = httpx.post(f"{up.url}/v1/jobs", json={"body": body}, timeout=10)
    assert response.status_code == 202, response.text
    job_id = str(response.json()["id"])
    if wait:
        eventually(lambda: job(up, job_id)["first_output_ms"] is not None, "it is being answered")
    return job_id


def job(up: Up, job_id: str) -> dict[str, Any]:
    """A job's view; state "unknown" while the service is unreachable."""
    try:
        response = httpx.get(f"{up.url}/v1/jobs/{job_id}", timeout=5)
    except httpx.TransportError:
        return {"state": "unknown", "first_output_ms": None}
    if response.status_code >= 500:
        return {"state": "unknown", "first_output_ms": None}
    assert response.status_code == 200, response.text
    view: dict[str, Any] = response.json()
    return view


def answered(up: Up, job_id: str) -> dict[str, Any]:
    eventually(
        lambda: job(up, job_id)["state"] not in ("queued", "running", "unknown"), "it has ended"
    )
    view = job(up, job_id)
    assert view["state"] == "succeeded", view
    return view


# ------------------------------------------------------------------------------- it serves


def test_a_simulated_stack_says_that_its_answers_and_predictions_mean_nothing(up: Up) -> None:
    eventually(lambda: "predictions mean nothing here" in up.printed(), "the stack says so")


def test_the_openai_client_gets_an_answer_and_a_stream(up: Up) -> None:
    client = openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0, timeout=60)
    with client:
        assert [m.id for m in client.models.list()] == ["simulated"]
        messages: Any = [{"role": "user", "content": "Say hello."}]
        whole = client.chat.completions.create(
            model="simulated", messages=messages, max_tokens=8, temperature=0
        )
        pieces = client.chat.completions.create(
            model="simulated", messages=messages, max_tokens=8, temperature=0, stream=True
        )
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    assert text == whole.choices[0].message.content


def test_submit_shows_the_prediction_on_one_stream_and_the_answer_on_the_other(
    up: Up, tmp_path: Path
) -> None:
    got = run("submit", "Say hello.", "--max-tokens", "5", "--url", up.url, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    assert "predicted" in got.stderr
    assert "5 tokens" in got.stderr
    assert got.stdout.strip()


def test_submit_without_waiting_prints_the_ids_of_a_files_jobs(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"prompt": "One", "max_tokens": 3}\n{"prompt": "Two", "max_tokens": 4}\n')
    got = run("submit", "--file", str(path), "--url", up.url, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    assert [answered(up, job_id)["output_tokens"] for job_id in got.stdout.split()] == [3, 4]


def test_top_prints_one_frame_with_what_was_done(up: Up, tmp_path: Path) -> None:
    done = answered(up, submit(up, 6))
    got = run("top", "--once", "--url", up.url, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    queue = QueueSettings()
    order = f"sjf, k {queue.overtake_factor:g}, wait factor {queue.overtake_wait_factor:g}"
    assert f"simulated  {order}  1 worker, 2 slots" in got.stdout
    assert done["id"] in got.stdout


def test_without_model_the_queue_that_has_a_worker_is_used(up: Up, tmp_path: Path) -> None:
    # A data directory keeps the queue of every model that it served, and the commands that `up`
    # prints refused to choose.
    httpx.put(f"{up.url}/v1/queues/served-last-week", json={}).raise_for_status()
    got = run("submit", "Say hello.", "--max-tokens", "3", "--url", up.url, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    assert "3 tokens" in got.stderr


def test_bench_compares_the_policies_and_puts_the_settings_back(up: Up, tmp_path: Path) -> None:
    settings = httpx.get(f"{up.url}/v1/queues/simulated").json()["settings"]
    flags = ("--requests", "8", "--max-tokens", "20", "--json", "--url", up.url)
    got = run("bench", "serve", *flags, cwd=tmp_path)
    assert got.returncode == 0, got.stderr
    report = json.loads(got.stdout)
    for policy in ("fcfs", "sjf"):
        assert (report[policy]["requests"], report[policy]["failed"]) == (8, 0)
        assert 0 < report[policy]["ttft_mean_s"] <= report[policy]["mean_s"]
        assert report[policy]["mean_s"] <= report[policy]["max_s"]
        assert report[policy]["output_tokens"] > 8
    assert report["fcfs"]["output_tokens"] == report["sjf"]["output_tokens"]
    assert report["slots"] == 2
    assert 0 < report["oracle"]["mean_s"] <= report["oracle"]["model_fcfs_mean_s"]
    assert httpx.get(f"{up.url}/v1/queues/simulated").json()["settings"] == settings


# ------------------------------------------------------------------------------- it recovers


def test_a_job_whose_worker_was_killed_is_answered_by_the_next(up: Up) -> None:
    job_id = submit(up, 100, wait=True)
    up.kill("lengthwise_worker")
    view = answered(up, job_id)
    assert (view["attempt"], view["output_tokens"]) == (2, 100)
    eventually(lambda: "the worker is back" in up.printed(), "the worker is back")


def test_jobs_are_answered_although_the_queue_service_was_killed(up: Up) -> None:
    job_ids = [submit(up, 60, wait=True), submit(up, 60), submit(up, 10), submit(up, 10)]
    up.kill("lengthwise_queue")
    for job_id in job_ids:
        assert answered(up, job_id)["attempt"] == 1
    eventually(lambda: "the queue service is back" in up.printed(), "the queue service is back")


def test_submit_loses_no_token_when_the_queue_service_is_killed(up: Up) -> None:
    reader = subprocess.Popen(
        command("submit", "A long answer with many words", "--max-tokens", "150", "--url", up.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        snapshot = f"{up.url}/v1/queues/simulated/snapshot"
        eventually(lambda: bool(httpx.get(snapshot).json()["running"]), "it runs")
        job_id = httpx.get(snapshot).json()["running"][0]["id"]
        eventually(lambda: job(up, job_id)["first_output_ms"] is not None, "it is being answered")
        up.kill("lengthwise_queue")
        printed, notes = reader.communicate(timeout=WITHIN_S)
    finally:
        reader.kill()
    assert reader.returncode == 0, notes
    assert "resuming the stream" in notes
    want = answered(up, job_id)["response"]["choices"][0]["message"]["content"]
    assert printed.strip() == want.strip()


def test_nothing_acknowledged_is_lost_when_valkey_is_killed(up: Up) -> None:
    job_ids = [submit(up, 40) for _ in range(8)]
    up.kill("valkey-server")
    for job_id in job_ids:
        assert answered(up, job_id)["output_tokens"] == 40
    eventually(lambda: "Valkey is back" in up.printed(), "Valkey is back")


def test_jobs_are_accepted_without_a_prediction_while_the_predictor_is_away(up: Up) -> None:
    up.kill("lengthwise_predictor")
    assert answered(up, submit(up, 5))["output_tokens"] == 5
    eventually(lambda: "the predictor is back" in up.printed(), "the predictor is back")


def test_a_stack_whose_queue_service_requires_a_key_uses_the_key_of_the_commands(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The commands ended with "Its operator gives you one", which the operator read.
    key = "sk-lw-" + "k" * 40
    monkeypatch.setenv("LENGTHWISE_QUEUE_API_KEY", key)
    monkeypatch.setenv("LENGTHWISE_API_KEY", key)
    stack = start(tmp_path, free_port())
    try:
        serves(stack)
        got = run("submit", "Say hello.", "--max-tokens", "3", "--url", stack.url, cwd=tmp_path)
        assert got.returncode == 0, got.stderr
        monkeypatch.delenv("LENGTHWISE_API_KEY")
        got = run("top", "--once", "--url", stack.url, cwd=tmp_path)
        assert got.returncode == 1
        assert "LENGTHWISE_API_KEY" in got.stderr
    finally:
        stop(stack)


# ------------------------------------------------------------------------------- it stops


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_with_exit_code_0(
    tmp_path: Path, free_port: Callable[[], int], number: int
) -> None:
    stack = start(tmp_path, free_port())
    try:
        serves(stack)
        children = stack.children()
        assert len(children) == 4
        submit(stack, 30, wait=True)
        stack.process.send_signal(number)
        assert stack.process.wait(WITHIN_S) == 0, stack.printed()
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        assert "killed" not in stack.printed()
    finally:
        stop(stack)


def test_jobs_outlive_the_stack_and_kill_9_of_it_leaves_no_process(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    first = start(tmp_path, free_port())
    try:
        serves(first)
        job_ids = [submit(first, 200), submit(first, 200), submit(first, 3)]
        children = first.children()
        first.process.kill()
        first.process.wait()
        eventually(lambda: not any(map(running, children)), "all children are gone")
    finally:
        stop(first)
    second = start(tmp_path, free_port())
    try:
        serves(second)
        for job_id in job_ids:
            answered(second, job_id)
    finally:
        assert stop(second) == 0


def running(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# ------------------------------------------------------------------------------- errors


def refused(tmp_path: Path, *flags: str) -> str:
    """What `lengthwise up` prints when it exits with 1."""
    data = ("--data-dir", str(tmp_path / "other"))
    got = run("up", "--engine", "simulated", *data, *flags, cwd=tmp_path)
    assert got.returncode == 1, got.stdout
    assert "Traceback" not in got.stderr
    return got.stderr


def test_a_port_in_use_is_refused_with_the_flag_to_change(up: Up, tmp_path: Path) -> None:
    error = refused(tmp_path, "--port", str(up.port))
    assert f"port {up.port}" in error
    assert "--port" in error


def test_a_data_directory_in_use_is_refused(
    up: Up, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    error = refused(tmp_path, "--port", str(free_port()), "--data-dir", str(up.data_dir))
    assert "another `lengthwise up`" in error


def test_an_engine_that_does_not_answer_is_refused_by_its_url(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    flags = ("--port", str(free_port()), "--engine", "vllm")
    assert url in refused(tmp_path, *flags, "--engine-url", url)
    assert "needs --engine-url" in refused(tmp_path, *flags)


def test_a_redis_that_does_not_answer_is_refused(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    assert "--redis-url" in refused(tmp_path, "--port", str(free_port()), "--redis-url", url)


def test_a_service_that_does_not_answer_is_named_with_what_to_do(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for args in (("submit", "Hi"), ("top", "--once"), ("bench", "serve")):
        got = run(*args, "--url", url, cwd=tmp_path)
        assert got.returncode == 1
        assert url in got.stderr
        assert "lengthwise up" in got.stderr


def test_a_flag_can_be_given_by_environment(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENGTHWISE_UP_PORT", str(up.port))
    assert f"port {up.port}" in refused(tmp_path)
