"""Runs the scenarios of one client, and prints the outcome of each as JSON. In its environment."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import traceback
from collections.abc import Callable
from typing import Any

URL = os.environ["OPENAI_BASE_URL"]
SCRIPTED = os.environ["LENGTHWISE_SCRIPTED"]
SIMULATED = os.environ["LENGTHWISE_SIMULATED"]
MESSAGES = [{"role": "user", "content": "Hello there"}]

_scenarios: dict[str, Callable[[], Any]] = {}


def scenario(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register a scenario; it fails by an exception."""
    _scenarios[function.__name__] = function
    return function


def main() -> None:
    """Run all scenarios."""
    outcomes = {}
    for name, function in _scenarios.items():
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(_awaited(result))
            outcomes[name] = "ok"
        except Exception:
            outcomes[name] = traceback.format_exc()[-2500:]
    print("\n" + json.dumps(outcomes), flush=True)  # noqa: T201 - the test reads it
    os._exit(0)  # some clients keep threads


async def _awaited(result: Any) -> Any:
    return await result


def raises(kind: type[Exception], call: Callable[[], Any]) -> Any:
    """Return the error of this kind that a call raises."""
    try:
        result = call()
    except kind as exc:
        return exc
    raise AssertionError(f"no {kind.__name__}, but {result!r}")
