"""The engines that a worker can drive, and the registry that names them.

To add an engine:

1. Write its module, or a folder if it needs several: a class that implements `base.Engine`, and a
   function `from_settings(settings)` that builds it. An engine with an OpenAI-compatible endpoint
   subclasses `openai_http.OpenAIEngine`.
2. Add one line to `ENGINES`. The setting `LENGTHWISE_WORKER_ENGINE` accepts its names and no
   others, so no other list changes.
3. If it needs settings of its own, add them to `lengthwise_worker.settings`.

Engines are imported when they are opened, because some need packages that others do not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lengthwise_worker.batching import BatchingMode
from lengthwise_worker.errors import BadSettings

if TYPE_CHECKING:
    from lengthwise_worker.engines.base import Engine
    from lengthwise_worker.settings import Settings

#: Modes of an engine that batches continuously. `none` and `static` limit what it gets at once.
_CONTINUOUS = (BatchingMode.CONTINUOUS, BatchingMode.STATIC, BatchingMode.NONE)

#: Modes of an engine that runs the batches that this worker forms.
_STATIC = (BatchingMode.SEQUENCE, BatchingMode.STATIC, BatchingMode.NONE)


@dataclass(frozen=True, kw_only=True)
class RegisteredEngine:
    """An entry of the registry.

    `module`: the module with `from_settings(settings)`. `batching`: the modes that the engine
    supports, the recommended one first.
    """

    module: str
    batching: tuple[BatchingMode, ...] = _CONTINUOUS


#: `LENGTHWISE_WORKER_ENGINE` -> the engine.
ENGINES: dict[str, RegisteredEngine] = {
    "vllm": RegisteredEngine(module="lengthwise_worker.engines.vllm"),
    "openai": RegisteredEngine(module="lengthwise_worker.engines.openai_http"),
    "llama.cpp": RegisteredEngine(module="lengthwise_worker.engines.llama_cpp"),
    "simulated": RegisteredEngine(module="lengthwise_worker.engines.simulated.engine"),
    "transformers": RegisteredEngine(
        module="lengthwise_worker.engines.transformers.engine", batching=_STATIC
    ),
}


def known_engine(name: str) -> str:
    """Return `name` if it names an engine. Validates `Settings.engine`.

    Raises:
        ValueError: It does not; the message lists the names.
    """
    if name not in ENGINES:
        raise ValueError(f"must be one of {', '.join(ENGINES)}; it is {name!r}")
    return name


def open_engine(settings: Settings) -> Engine:
    """Build the engine that the settings name. Nothing is started or sent yet.

    Raises:
        BadSettings: The engine cannot be built with these settings.
    """
    spec = ENGINES[settings.engine]
    if settings.batching not in spec.batching:
        *others, last = spec.batching
        raise BadSettings(
            f"LENGTHWISE_WORKER_BATCHING={settings.batching} does not fit "
            f"LENGTHWISE_WORKER_ENGINE={settings.engine}: use "
            f"{', '.join(others)} or {last}."
        )
    build: Callable[[Settings], Engine] = importlib.import_module(spec.module).from_settings
    return build(settings)
