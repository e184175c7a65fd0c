"""The usage that an engine reports is stored with the job: totals and details."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.scripted_engine import Script, ScriptedEngine, as_json

from lengthwise_contract.states import JobState
from lengthwise_store.output_reader import read_end

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

DETAILS = {"completion_tokens_details": {"reasoning_tokens": 5}, "cached": 'a " b'}
USAGE = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10} | DETAILS


def plan(path: str, body: dict[str, Any]) -> Script:
    if not body["stream"]:
        message = {"content": "y", "reasoning": "hm"}
        return as_json({"choices": [{"index": 0, "message": message}], "usage": USAGE})
    events = [
        {"choices": [{"index": 0, "delta": {"content": "y"}}]},
        {"choices": [], "usage": USAGE},
    ]
    return Script(
        pieces=[f"data: {json.dumps(e)}\n\n".encode() for e in events] + [b"data: [DONE]\n\n"]
    )


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_details_of_the_usage_are_stored_with_the_job(rig: Rig, stream: bool) -> None:
    async def body() -> None:
        async with (
            ScriptedEngine(plan, models=[rig.queue]).listening() as engine,
            rig.working(engine.url, engine="openai"),
        ):
            await rig.submit("j1", stream=stream)
            job = await rig.state("j1", JobState.SUCCEEDED)
            assert (job.prompt_tokens, job.output_tokens, job.usage_details) == (3, 7, DETAILS)
            end = read_end((await rig.output("j1"))[-1])
            assert (end.output_tokens, end.usage_details) == (7, DETAILS)

    rig.run(body)
