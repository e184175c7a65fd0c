"""Real clients, each in an environment of its own, and the stack that they talk to.

A client's packages never meet ours: `uv` makes a virtual environment for each file of
`requirements/`, and npm a folder for `node/`. They are kept below `.venv/clients`, and made again
when their requirements change.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.clients.tool_engine import ToolEngine
from tests.waiting import eventually
from uv import find_uv_bin

from lengthwise_queue.__main__ import make_server
from lengthwise_queue.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Longest installation of one client, and longest run of one program, s.
INSTALL_S, RUN_S = 240, 300

#: What uv and npm print when no registry answers.
_AWAY = (
    *("error sending request", "dns error", "Could not connect", "timed out", "Connection refused"),
    *("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ECONNRESET"),
)


@dataclass(frozen=True)
class Stack:
    """Where the stack listens, and its models."""

    url: str
    scripted: str = "scripted"  #: Calls tools and answers in JSON.
    simulated: str = "simulated"  #: Answers with random words.


@pytest.fixture(scope="session")
def stack(valkey_port: int) -> Iterator[Stack]:
    """A queue service with two queues, and a worker process for each."""
    redis_url = f"redis://127.0.0.1:{valkey_port}/3"  # other tests empty database 0
    server = make_server(Settings(redis_url=redis_url, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started, "the queue service starts")
    port = server.servers[0].sockets[0].getsockname()[1]
    made = Stack(f"http://127.0.0.1:{port}")
    engine = ToolEngine(made.scripted)
    engine.start()
    workers = []
    try:
        for queue, engine_settings in (
            (made.scripted, {"ENGINE": "vllm", "ENGINE_URL": engine.url}),
            (made.simulated, {"ENGINE": "simulated", "SIMULATED_TOKENS_PER_S": "400"}),
        ):
            httpx.put(f"{made.url}/v1/queues/{queue}", json={}).raise_for_status()
            settings = {"REDIS_URL": redis_url, "QUEUE": queue, "METRICS_PORT": "0"}
            env = {f"LENGTHWISE_WORKER_{k}": v for k, v in (settings | engine_settings).items()}
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "lengthwise_worker"],
                    env=os.environ | env,
                    stderr=subprocess.DEVNULL,
                )
            )
        for queue in (made.scripted, made.simulated):
            eventually(partial(_workers, f"{made.url}/v1/queues/{queue}"), "a worker is there")
        yield made
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(20)
        engine.stop()
        server.should_exit = True
        thread.join(20)


def _workers(url: str) -> object:
    return httpx.get(url).json()["workers"]


# ------------------------------------------------------------------------------- installation


def _run(command: list[str], **how: Any) -> None:
    """Run an installer; skip the test when no registry answers."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, **how)
    if done.returncode == 0:
        return
    for line in done.stderr.splitlines():
        if any(word in line for word in _AWAY):
            pytest.skip(f"no package registry: {line.strip()[:200]}")
    pytest.fail(f"{' '.join(command)}\n{done.stderr[-3000:]}")


def _folder(name: str, *inputs: Path) -> tuple[Path, Path]:
    """The folder of a client, emptied if its requirements changed; and the stamp of a whole one."""
    contents = b"".join(path.read_bytes() for path in inputs) + sys.version.encode()
    at = Path(sys.prefix) / "clients" / name
    stamp = at / f"complete-{hashlib.sha256(contents).hexdigest()[:16]}"
    if not stamp.exists():
        shutil.rmtree(at, ignore_errors=True)
    return at, stamp


def _pip_setting(name: str) -> str:
    """A setting of pip: from its environment variable or its file; "" if it has none."""
    variable = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
    if variable is not None:
        return variable
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _python_of(name: str) -> Path:
    requirements = HERE / "requirements" / f"{name}.txt"
    at, stamp = _folder(name, requirements)
    python = at / "bin" / "python"
    if not stamp.exists():
        uv = find_uv_bin()
        _run([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(at)])
        # uv does not read the settings of pip.
        index = _pip_setting("index-url")
        more = ["--default-index", index] if index else []
        more += [part for link in _pip_setting("find-links").split() for part in ("-f", link)]
        install = [uv, "pip", "install", "--quiet", "--python", str(python), *more]
        _run([*install, "--requirements", str(requirements)])
        stamp.touch()
    return python


def _node_folder() -> Path:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm (Debian's package npm has one)")
    inputs = [HERE / "node" / name for name in ("package.json", "package-lock.json")]
    at, stamp = _folder("node", *inputs)
    if not stamp.exists():
        at.mkdir(parents=True)
        for path in inputs:
            shutil.copy(path, at)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=at)
        stamp.touch()
    shutil.copy(HERE / "node" / "client.mjs", at)
    return at


@pytest.fixture(scope="session")
def python_of() -> Callable[[str], Path]:
    """Returns the interpreter of a client's environment, by the name of its requirements."""
    return _python_of


# ------------------------------------------------------------------------------- programs


@pytest.fixture(scope="session")
def outcomes(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], dict[str, str]]:
    """Runs a client's program, once, and returns the outcome of each of its scenarios by name.

    The outcome is "ok", or the traceback.
    """
    known: dict[str, dict[str, str]] = {}

    def run(client: str, program: str) -> dict[str, str]:
        home = tmp_path_factory.mktemp(client)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),  # none of them finds settings of this machine
            "OPENAI_API_KEY": "any",
            "OPENAI_BASE_URL": f"{stack.url}/v1",
            "LENGTHWISE_SCRIPTED": stack.scripted,
            "LENGTHWISE_SIMULATED": stack.simulated,
            "NO_PROXY": "*",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HF_HUB_OFFLINE": "1",
            "LLM_USER_PATH": str(home),
        }
        if program.endswith(".mjs"):
            command = ["node", str(_node_folder() / program)]
        else:
            command = [str(_python_of(client)), str(HERE / "programs" / program)]
        done = subprocess.run(
            command, env=env, cwd=home, capture_output=True, text=True, timeout=RUN_S
        )
        if done.returncode != 0:
            return defaultdict(lambda: f"{program} failed: {done.stderr[-3000:]}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def of(client: str, program: str) -> dict[str, str]:
        if client not in known:
            known[client] = run(client, program)
        return known[client]

    return of
