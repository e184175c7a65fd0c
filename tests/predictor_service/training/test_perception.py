"""The stated length of a reply, whatever the reply is; and the cost of asking a real LLM."""

from __future__ import annotations

import pytest

pytest.importorskip("httpx")
pytest.importorskip("scipy")

from lengthwise_training.compare.self_perception import Wording, self_perceptions
from lengthwise_training.compare.stated_length import stated_tokens
from lengthwise_training.data.rows import LengthRow, LengthTable
from lengthwise_worker.engines.simulated.batch import Faults, SimulatedBatch
from lengthwise_worker.engines.simulated.embedded import SimulatedServer


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ("120", 120),
        ("Length: 1,200 tokens\nThe sea is", 1200),
        ("about 10 000 tokens", 10_000),
        ("~1.5k tokens.", 1500),
        ("100 words", 133),
        ("between 50 and 150 tokens", 100),
        ("50-100", 75),
        ("two hundred and fifty tokens", 250),
        ("one thousand two hundred", 1200),
        ("a dozen tokens", 12),
        ("2 paragraphs, so 300 tokens", 300),
        ("In 3 steps: 40 words", 53.2),
        ("I would say 150.", 150),
        ("**Length**: 80", 80),
        ("1000\n\nThe sea is", 1000),
        ("I cannot know that.", None),
        # These answer the prompt, and state nothing.
        ("The first park was opened in 1955, and another", None),
        ("1. Steel: made of iron\n2. Copper: 10", None),
        ("A full piano has 88 keys.", None),
        ("", None),
        ("0", None),
        ("9" * 50, None),
        ("\x00\ufffd 🙂", None),
    ],
)
def test_a_length_is_read_from_any_reply(reply: str, want: float | None) -> None:
    assert stated_tokens(reply) == (pytest.approx(want) if want is not None else None)


@pytest.mark.timeout(20)  # the test is that it ends: a regular expression may take for ever
def test_a_long_hostile_reply_is_read_in_bounded_time() -> None:
    assert stated_tokens("one hundred and " * 20_000) is None
    assert stated_tokens("1,111" * 20_000 + " - ") == 1


def test_an_llm_is_asked_once_a_prompt_and_pays_for_what_it_says() -> None:
    server = SimulatedServer(SimulatedBatch(slots=4, tokens_per_s=20_000.0), model="m")
    server.start()
    rows = [LengthRow(f"p{i}", llm, "s", (i + 1,), (False,)) for i in range(5) for llm in "ab"]
    try:
        [asked] = self_perceptions(server.url, "m", [Wording.LENGTH_ONLY]).values()
        predicted = asked.predict(LengthTable(rows))
    finally:
        server.stop()
    assert asked.cost.asked == 5  # once a prompt, not once a row
    assert asked.cost.output_tokens == 5 * 12
    assert asked.cost.seconds > 0
    assert len(asked.replies) == 5
    # Its words are w0, w1, ..., which are no lengths; once they were read as such.
    assert (asked.cost.stated, set(predicted.p50.tolist())) == (0, {1.0})


def test_an_endpoint_that_answers_nothing_is_an_error() -> None:
    server = SimulatedServer(SimulatedBatch(slots=4, tokens_per_s=20_000.0), model="m")
    server.batch.misbehave(Faults(status=400))
    server.start()
    try:
        [asked] = self_perceptions(server.url, "m", [Wording.LENGTH_ONLY]).values()
        with pytest.raises(ValueError, match="answered none of 1"):
            asked.predict(LengthTable([LengthRow("p", "m", "s", (5,), (False,))]))
    finally:
        server.stop()
