"""Several models in one process, and a new one that takes over while requests arrive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from tests.predictor_service.serving.model_folders import make_model, switch
from tests.waiting import eventually_async

from lengthwise_predictor.app import create_app
from lengthwise_predictor.settings import PredictorSettings

#: No step here takes this long, even on a busy machine.
PATIENCE_S = 90.0


ASK = {"model": "anything", "prompt": "Explain how a heat pump works."}


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


async def counted(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.slow
def test_a_switched_link_replaces_the_model_under_constant_traffic_and_no_request_fails(
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
            await eventually_async(lambda: seen, "the first answer")
            for folder, version in ((two, "two"), (one, "one"), (two, "two")):
                switch(link, folder)
                await eventually_async(partial(serves, app, version), f"model {version} serves")
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


@pytest.mark.slow
def test_a_request_in_the_queue_of_the_old_model_is_answered_by_it(tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_folder_that_cannot_be_loaded_changes_nothing_until_it_is_fixed(tmp_path: Path) -> None:
    make_model(tmp_path / "m", "one")

    async def scenario() -> None:
        async with running(model_dir=tmp_path / "m", reload_every_s=0) as (app, client):
            card = (tmp_path / "m" / "model.json").read_text()
            (tmp_path / "m" / "model.json").write_text("{ half of it")
            for _ in range(3):  # a refused folder is not tried again before it changes
                await app.state.models.check_folders()
            refused = 'lengthwise_predictor_reloads_total{model="default",outcome="refused"}'
            assert await counted(client, refused) == 1
            assert (await ask(client))["model_version"] == "one"
            (tmp_path / "m" / "model.json").write_text(card.replace('"one"', '"fixed"'))
            await app.state.models.check_folders()
            assert (await ask(client))["model_version"] == "fixed"

    asyncio.run(scenario())


@pytest.mark.slow
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
            unknown = await client.post("/v1/predict", json=ASK | {"predictor": "unknown"})
            assert unknown.status_code == 404
            assert unknown.json()["error"]["param"] == "predictor"
            assert unknown.json()["error"]["code"] == "predictor_not_found"
            listed = (await client.get("/v1/models")).json()["data"]
            assert [one["id"] for one in listed] == ["default", "org/Vicuna-7B-Instruct"]

    asyncio.run(scenario())


@pytest.mark.slow
def test_an_llm_with_a_wrong_folder_gets_the_default_model_until_it_is_fixed(
    tmp_path: Path,
) -> None:
    # It used to end the process: on Kubernetes, a typing error in one folder restarted the
    # predictor of all LLMs again and again.
    own = make_model(tmp_path / "own", "own")
    models = {"one": own, "two": tmp_path / "missing"}

    async def scenario() -> None:
        async with running(models=models, reload_every_s=0) as (app, client):
            bundled = (await ask(client))["model_version"]
            assert (await ask(client, model="one"))["model_version"] == "own"
            assert (await ask(client, model="two"))["model_version"] == bundled
            named = await client.post("/v1/predict", json=ASK | {"predictor": "two"})
            assert named.status_code == 404
            state = (await client.get("/readyz")).json()
            assert state["models"]["one"] == {"model_version": "own", "problem": ""}
            assert state["models"]["two"]["model_version"] == bundled
            assert "missing" in state["models"]["two"]["problem"]
            make_model(tmp_path / "missing", "fixed")
            await app.state.models.check_folders()
            assert (await ask(client, model="two"))["model_version"] == "fixed"
            state = (await client.get("/readyz")).json()
            assert state["models"]["two"] == {"model_version": "fixed", "problem": ""}

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_folder_with_an_unexpected_fault_does_not_keep_the_next_one_from_being_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("odd", "whole"):
        make_model(tmp_path / name, "one")
    default = make_model(tmp_path / "default", "one")
    folders = {name: tmp_path / name for name in ("odd", "whole")}

    async def scenario() -> None:
        async with running(model_dir=default, models=folders, reload_every_s=0) as (app, _):
            registry = app.state.models
            load = registry._load_model

            def faulty(folder: Path) -> Any:
                if folder.name == "odd":
                    raise RuntimeError("a bug")
                return load(folder)

            monkeypatch.setattr(registry, "_load_model", faulty)
            for name in ("odd", "whole"):
                card = json.loads((tmp_path / name / "model.json").read_text())
                changed = json.dumps(card | {"version": "two"})
                (tmp_path / name / "model.json").write_text(changed)
            await registry.check_folders()
            assert (registry.version("odd"), registry.version("whole")) == ("one", "two")
            assert "RuntimeError" in registry.problem("odd")

    asyncio.run(scenario())


def test_a_change_that_is_undone_is_no_longer_a_problem(tmp_path: Path) -> None:
    make_model(tmp_path / "good", "good")
    make_model(tmp_path / "bad", "bad")
    (tmp_path / "bad" / "model.json").write_text("{ half of it")
    switch(tmp_path / "current", tmp_path / "good")

    async def scenario() -> None:
        async with running(model_dir=tmp_path / "current", reload_every_s=0) as (app, client):
            for folder, known in (("bad", True), ("good", False)):
                switch(tmp_path / "current", tmp_path / folder)
                await app.state.models.check_folders()
                state = (await client.get("/readyz")).json()
                assert state["model_version"] == "good"
                assert bool(state["models"]["default"]["problem"]) is known

    asyncio.run(scenario())


def test_the_number_of_models_is_limited_because_each_takes_memory(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at most 8"):
        PredictorSettings(models={f"m{i}": tmp_path for i in range(9)})
    assert len(PredictorSettings(models={f"m{i}": tmp_path for i in range(8)}).models) == 8


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


def test_metrics_show_the_latency_target_and_the_batch_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        # No pass is this fast, so each one exceeds the target and has one text.
        async with running(latency_target_ms=0.001) as (_, client):
            await ask(client)
            await ask(client)
            assert await counted(client, "lengthwise_predictor_latency_target_seconds") == 1e-6
            assert await counted(client, 'lengthwise_predictor_batch_limit{model="default"}') == 1
            assert await counted(client, "lengthwise_predictor_batches_over_target_total") == 2
            assert await counted(client, "lengthwise_predictor_wait_seconds_count") == 2

    asyncio.run(scenario())
