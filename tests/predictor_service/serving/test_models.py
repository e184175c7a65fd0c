"""Several models in one process, and a new one taking over while requests come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from lengthwise_predictor.app import create_app
from lengthwise_predictor.errors import ModelUnusable
from lengthwise_predictor.model import choose_providers
from lengthwise_predictor.settings import BUNDLED, PredictorSettings

#: Nothing here takes as long, on a busy machine either.
PATIENCE_S = 90.0

ASK = {"model": "anything", "prompt": "Explain how a heat pump works."}


def make_model(folder: Path, version: str) -> Path:
    """The bundled model under another version; the large files are links."""
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (folder / name).symlink_to(BUNDLED / name)
    card = json.loads((BUNDLED / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"version": version}))
    return folder


def turn(link: Path, folder: Path) -> None:
    """Point a link elsewhere, in one step."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(folder)
    fresh.replace(link)


@contextlib.asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    app = create_app(PredictorSettings(**settings))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://p") as client,
    ):
        yield app, client


async def ask(client: httpx.AsyncClient, path: str = "/v1/predict", **fields: Any) -> Any:
    answer = await client.post(path, json=ASK | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def serves(app: Any, version: str) -> bool:
    return bool(app.state.models.for_llm("any").model.version == version)


async def eventually(met: Callable[[], Any]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)


async def counted(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_turned_link_swaps_the_model_under_constant_traffic_and_no_request_fails(
    tmp_path: Path,
) -> None:
    one, two = make_model(tmp_path / "1", "one"), make_model(tmp_path / "2", "two")
    link = tmp_path / "current"
    link.symlink_to(one)

    async def scenario() -> None:
        async with running(model_dir=link, reload_every_s=0.05) as (app, client):
            seen: list[str] = []
            over = asyncio.Event()

            async def traffic() -> None:
                while not over.is_set():
                    seen.append((await ask(client))["model_version"])

            tasks = [asyncio.create_task(traffic()) for _ in range(4)]
            await eventually(lambda: seen)
            for folder, version in ((two, "two"), (one, "one"), (two, "two")):
                turn(link, folder)
                await eventually(partial(serves, app, version))
                await ask(client)
            over.set()
            await asyncio.gather(*tasks)  # every answer was a 200
            assert (seen[0], set(seen)) == ("one", {"one", "two"})
            assert (await ask(client))["model_version"] == "two"
            taken = 'lengthwise_predictor_reloads_total{model="default",outcome="taken"}'
            assert await counted(client, taken) == 3
            text = (await client.get("/metrics")).text
            assert 'version="two"' in text
            assert 'version="one"' not in text

    asyncio.run(scenario())


def test_a_request_in_the_line_of_the_old_model_is_answered_by_it(tmp_path: Path) -> None:
    make_model(tmp_path / "m", "one")

    async def scenario() -> None:
        async with running(model_dir=tmp_path / "m", reload_every_s=0) as (app, client):
            old = app.state.models.for_llm("x")
            waiting = old.batcher.submit([("word " * i, "x") for i in range(1, 100)])
            card = json.loads((tmp_path / "m" / "model.json").read_text())
            (tmp_path / "m" / "model.json").write_text(json.dumps(card | {"version": "two"}))
            await app.state.models.check_folders()
            assert sum(len(part) for part in waiting.result()) == 99
            assert (await ask(client))["model_version"] == "two"

    asyncio.run(scenario())


def test_a_folder_that_cannot_be_loaded_changes_nothing_until_it_is_mended(tmp_path: Path) -> None:
    make_model(tmp_path / "m", "one")

    async def scenario() -> None:
        async with running(model_dir=tmp_path / "m", reload_every_s=0) as (app, client):
            card = (tmp_path / "m" / "model.json").read_text()
            (tmp_path / "m" / "model.json").write_text("{ half of it")
            for _ in range(3):  # a folder that was refused is not tried again and again
                await app.state.models.check_folders()
            refused = 'lengthwise_predictor_reloads_total{model="default",outcome="refused"}'
            assert await counted(client, refused) == 1
            assert (await ask(client))["model_version"] == "one"
            (tmp_path / "m" / "model.json").write_text(card.replace('"one"', '"mended"'))
            await app.state.models.check_folders()
            assert (await ask(client))["model_version"] == "mended"

    asyncio.run(scenario())


def test_an_llm_has_its_own_model_and_a_request_may_name_one(tmp_path: Path) -> None:
    own = make_model(tmp_path / "own", "own")

    async def scenario() -> None:
        async with running(models={"org/Vicuna-7B-Instruct": own}) as (_, client):
            bundled = (await ask(client))["model_version"]
            assert bundled != "own"
            assert (await ask(client, model="vicuna-7b"))["model_version"] == "own"
            named = await ask(client, predictor="org/Vicuna-7B-Instruct")
            assert named["model_version"] == "own"
            back = await ask(client, model="vicuna-7b", predictor="default")
            assert back["model_version"] == bundled
            mixed = await client.post(
                "/v1/predict/batch",
                json={"inputs": [ASK | {"model": m} for m in ("a", "vicuna-7b", "b") * 20]},
            )
            got = [p["model_version"] for p in mixed.json()["predictions"]]
            assert got == [bundled, "own", bundled] * 20
            unknown = await client.post("/v1/predict", json=ASK | {"predictor": "nobody"})
            assert unknown.status_code == 404
            assert unknown.json()["error"]["param"] == "predictor"
            assert unknown.json()["error"]["code"] == "predictor_not_found"
            listed = (await client.get("/v1/models")).json()["data"]
            assert [one["id"] for one in listed] == ["default", "org/Vicuna-7B-Instruct"]

    asyncio.run(scenario())


def test_a_wrong_folder_of_one_llm_leaves_it_to_the_default_until_it_is_mended(
    tmp_path: Path,
) -> None:
    # It used to end the process: on Kubernetes a typing error in one folder took the predictor of
    # all LLMs away, over and over.
    own = make_model(tmp_path / "own", "own")
    models = {"one": own, "two": tmp_path / "missing"}

    async def scenario() -> None:
        async with running(models=models, reload_every_s=0) as (app, client):
            bundled = (await ask(client))["model_version"]
            assert (await ask(client, model="one"))["model_version"] == "own"
            assert (await ask(client, model="two"))["model_version"] == bundled
            named = await client.post("/v1/predict", json=ASK | {"predictor": "two"})
            assert named.status_code == 404
            said = (await client.get("/readyz")).json()
            assert said["models"]["one"] == {"model_version": "own", "problem": ""}
            assert said["models"]["two"]["model_version"] == bundled
            assert "missing" in said["models"]["two"]["problem"]
            make_model(tmp_path / "missing", "mended")
            await app.state.models.check_folders()
            assert (await ask(client, model="two"))["model_version"] == "mended"
            said = (await client.get("/readyz")).json()
            assert said["models"]["two"] == {"model_version": "mended", "problem": ""}

    asyncio.run(scenario())


def test_a_process_without_its_default_model_says_why_in_its_last_line(tmp_path: Path) -> None:
    # On a cluster the condition of the LLMService was "Application startup failed. Exiting."
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


def test_a_change_that_is_taken_back_is_a_problem_no_longer(tmp_path: Path) -> None:
    make_model(tmp_path / "good", "good")
    make_model(tmp_path / "bad", "bad")
    (tmp_path / "bad" / "model.json").write_text("{ half of it")
    turn(tmp_path / "current", tmp_path / "good")

    async def scenario() -> None:
        async with running(model_dir=tmp_path / "current", reload_every_s=0) as (app, client):
            for folder, known in (("bad", True), ("good", False)):
                turn(tmp_path / "current", tmp_path / folder)
                await app.state.models.check_folders()
                said = (await client.get("/readyz")).json()
                assert said["model_version"] == "good"
                assert bool(said["models"]["default"]["problem"]) is known

    asyncio.run(scenario())


def test_there_is_a_bound_on_models_because_each_takes_memory(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at most 8"):
        PredictorSettings(models={f"m{i}": tmp_path for i in range(9)})


def test_a_rank_is_the_order_of_the_predictions(tmp_path: Path) -> None:
    prompts: list[Any] = [
        "Write a long story about a whale, with many chapters.",
        "2+2? Answer with a number only.",
        [{"role": "user", "content": "Name one colour."}],
        "Explain in detail how a jet engine works, and its history.",
    ]

    async def scenario() -> None:
        async with running() as (_, client):
            answer = await client.post("/v1/rank", json={"model": "any", "prompts": prompts})
            assert answer.status_code == 200, answer.text
            got = answer.json()
            assert sorted(got["order"]) == [0, 1, 2, 3]
            assert [got["scores"][i] for i in got["order"]] == sorted(got["scores"])
            first = await ask(client, model="any", prompt=prompts[0])
            assert got["scores"][0] == pytest.approx(first["rank_score"])
            assert got["p50_tokens"][0] == pytest.approx(first["p50_tokens"])
            assert set(got["order"][:2]) == {1, 2}
            for wrong in ([], ["x"] * 1025, [7], [[7]]):
                refused = await client.post("/v1/rank", json={"model": "any", "prompts": wrong})
                assert refused.status_code == 400

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("provider", "there", "want"),
    [
        ("auto", ["CPUExecutionProvider"], ["CPUExecutionProvider"]),
        (
            "auto",
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
        (
            "cuda",
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]),
    ],
    ids=["no CUDA", "CUDA if there", "CUDA as asked", "CPU as asked"],
)
def test_the_provider_is_the_best_of_those_there(
    provider: str, there: list[str], want: list[str]
) -> None:
    assert choose_providers(provider, there) == want


def test_cuda_that_is_not_there_ends_the_start_and_names_the_extra() -> None:
    with pytest.raises(ModelUnusable, match="`gpu` extra"):
        choose_providers("cuda", ["CPUExecutionProvider"])


def test_the_target_and_what_it_allows_can_be_seen(tmp_path: Path) -> None:
    async def scenario() -> None:
        # No pass is as fast as this, so that each is over the target, and of one text.
        async with running(latency_target_ms=0.001) as (_, client):
            await ask(client)
            await ask(client)
            assert await counted(client, "lengthwise_predictor_latency_target_seconds") == 1e-6
            assert await counted(client, 'lengthwise_predictor_batch_limit{model="default"}') == 1
            assert await counted(client, "lengthwise_predictor_batches_over_target_total") == 2
            assert await counted(client, "lengthwise_predictor_wait_seconds_count") == 2

    asyncio.run(scenario())


def test_sighup_swaps_the_model_of_a_real_server_while_clients_ask(tmp_path: Path) -> None:
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
        end_s = time.monotonic() + PATIENCE_S
        while not (port := re.search(r"127\.0\.0\.1:(\d+)", (tmp_path / "log").read_text())):
            assert server.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.05)
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
        turn(link, two)
        server.send_signal(signal.SIGHUP)
        while (200, "two") not in seen and time.monotonic() < end_s:
            time.sleep(0.01)
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
