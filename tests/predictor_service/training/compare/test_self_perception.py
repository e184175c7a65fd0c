"""Asking an LLM for its own lengths, and the cost of that."""

from __future__ import annotations

import pytest

pytest.importorskip("httpx")
pytest.importorskip("scipy")

from lengthwise_training.compare.self_perception import Wording, self_perceptions
from lengthwise_training.data.rows import LengthRow, LengthTable
from lengthwise_worker.engines.simulated.batch import Faults, SimulatedBatch
from lengthwise_worker.engines.simulated.embedded import SimulatedServer


def test_an_llm_is_asked_once_per_prompt_and_its_reply_is_counted_as_cost() -> None:
    server = SimulatedServer(SimulatedBatch(slots=4, tokens_per_s=20_000.0), model="m")
    server.start()
    rows = [LengthRow(f"p{i}", llm, "s", (i + 1,), (False,)) for i in range(5) for llm in "ab"]
    try:
        [asked] = self_perceptions(server.url, "m", [Wording.LENGTH_ONLY]).values()
        predicted = asked.predict(LengthTable(rows))
    finally:
        server.stop()
    assert asked.cost.prompts == 5  # once per prompt, not once per row
    assert asked.cost.output_tokens == 5 * 12
    assert asked.cost.seconds > 0
    assert len(asked.replies) == 5
    # Its words are w0, w1, ..., which are not lengths, but were once read as such.
    assert (asked.cost.stated, set(predicted.p50.tolist())) == (0, {1.0})


def test_an_endpoint_that_answers_no_request_is_an_error() -> None:
    server = SimulatedServer(SimulatedBatch(slots=4, tokens_per_s=20_000.0), model="m")
    server.batch.misbehave(Faults(status=400))
    server.start()
    try:
        [asked] = self_perceptions(server.url, "m", [Wording.LENGTH_ONLY]).values()
        with pytest.raises(ValueError, match="answered none of 1"):
            asked.predict(LengthTable([LengthRow("p", "m", "s", (5,), (False,))]))
    finally:
        server.stop()
