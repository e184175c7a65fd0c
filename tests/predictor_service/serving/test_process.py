"""A real predictor process: its start, and a reload on SIGHUP."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from tests.predictor_service.serving.model_folders import make_model, switch
from tests.waiting import eventually

#: No step here takes this long, even on a busy machine.
PATIENCE_S = 90.0

ASK = {"model": "anything", "prompt": "Explain how a heat pump works."}


@pytest.mark.slow
def test_a_process_without_its_default_model_reports_why_in_its_last_line(tmp_path: Path) -> None:
    # The condition of the LLMService once was "Application startup failed. Exiting."
    done = subprocess.run(
        [sys.executable, "-m", "lengthwise_predictor"],
        env={
            **os.environ,
            "LENGTHWISE_PREDICTOR_MODEL_DIR": str(tmp_path / "missing"),
            "LENGTHWISE_PREDICTOR_PORT": "0",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert str(tmp_path / "missing" / "model.json") in last
    assert "point model_dir at a model" in last


@pytest.mark.slow
def test_sighup_replaces_the_model_of_a_real_server_under_traffic(tmp_path: Path) -> None:
    one, two = make_model(tmp_path / "1", "one"), make_model(tmp_path / "2", "two")
    link = tmp_path / "current"
    link.symlink_to(one)
    env = os.environ | {
        "LENGTHWISE_PREDICTOR_MODEL_DIR": str(link),
        "LENGTHWISE_PREDICTOR_RELOAD_EVERY_S": "0",
        "LENGTHWISE_PREDICTOR_PORT": "0",
    }
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "lengthwise_predictor"], env=env, stderr=log, stdout=log
    )
    try:

        def listens() -> re.Match[str] | None:
            assert server.poll() is None
            return re.search(r"127\.0\.0\.1:(\d+)", (tmp_path / "log").read_text())

        port = eventually(listens, "the predictor listens")
        url = f"http://127.0.0.1:{port[1]}"
        seen: list[tuple[int, str]] = []
        over = threading.Event()

        def traffic() -> None:
            with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
                while not over.is_set():
                    answer = client.post("/v1/predict", json=ASK)
                    seen.append((answer.status_code, answer.json().get("model_version", "")))

        clients = [threading.Thread(target=traffic) for _ in range(3)]
        for client in clients:
            client.start()
        switch(link, two)
        server.send_signal(signal.SIGHUP)
        eventually(lambda: (200, "two") in seen, "the second model answers")
        over.set()
        for client in clients:
            client.join()
        assert {status for status, _ in seen} == {200}
        assert {version for _, version in seen} <= {"one", "two"}
        answer = httpx.post(f"{url}/v1/predict", json=ASK, timeout=PATIENCE_S)
        assert answer.json()["model_version"] == "two"
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
        shutil.copyfileobj(log, sys.stdout)
        log.close()
