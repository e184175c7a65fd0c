"""The registry of engines: the one list that names them."""

from __future__ import annotations

import asyncio
import importlib

import pytest
from pydantic import ValidationError

from lengthwise_worker.engines import ENGINES, open_engine
from lengthwise_worker.errors import BadSettings
from lengthwise_worker.settings import Settings


@pytest.mark.parametrize("name", ENGINES)
def test_every_registered_engine_is_built_from_its_settings(name: str) -> None:
    batching = ENGINES[name].batching[0]
    engine = open_engine(
        Settings(queue="m", engine=name, engine_url="http://engine:8000", batching=batching)
    )
    # With a URL, a simulated engine is another process, whose API is that of vLLM.
    assert engine.kind == ("vllm" if name == "simulated" else name)


@pytest.mark.parametrize("name", ENGINES)
def test_every_registered_module_has_a_function_that_builds_it(name: str) -> None:
    assert callable(importlib.import_module(ENGINES[name].module).from_settings)


def test_a_simulated_engine_without_a_url_is_embedded() -> None:
    assert open_engine(Settings(queue="m", engine="simulated")).kind == "simulated"


def test_an_unknown_engine_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ValidationError, match="must be one of vllm, openai") as refused:
        Settings(queue="m", engine="no-such-engine")
    assert all(name in str(refused.value) for name in ENGINES)


def test_an_openai_engine_without_a_url_names_the_variable() -> None:
    engine = open_engine(Settings(queue="m", engine="openai"))
    with pytest.raises(BadSettings, match="LENGTHWISE_WORKER_ENGINE_URL"):
        asyncio.run(engine.start())
