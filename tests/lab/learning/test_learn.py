"""`bench learn`: made-up traffic through the product's predictor, learner and promotion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_lab.learning.order import gains

TOPICS = {"a poem": 60, "an essay": 700, "the capital": 12, "a function": 250, "a name": 5}


def rows(count: int, *, llm: str = "new-llm", seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Make rows whose length follows from the topic, in an order that no predictor knows."""
    rng = np.random.default_rng(seed)
    names, lengths = list(TOPICS), list(TOPICS.values())
    shuffled = dict(zip(names, lengths[::-1] if seed else lengths[2:] + lengths[:2], strict=True))
    out = []
    for i in range(count):
        topic = names[int(rng.integers(len(names)))]
        prompt = f"Give me {topic} for the number {i} and the word {rng.integers(50)}."
        tokens = max(1, round(shuffled[topic] * float(rng.lognormal(0, 0.2))))
        out.append({"prompt": prompt, "model": llm, "source": "made", "output_tokens": tokens})
    return [row | more for row in out]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run the command on some rows and return its streams."""

    def run(given: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        words = ["bench", "learn", "--data", str(path), "--seeds", "1", "--json", *options]
        got = CliRunner().invoke(build(words), words)
        assert got.exit_code == 0, got.output
        streams: list[dict[str, Any]] = json.loads(got.stdout)["streams"]
        return streams

    return run


@pytest.mark.slow
def test_lengths_that_follow_from_the_topic_are_learned_and_served(
    bench: Callable[..., list[dict[str, Any]]],
) -> None:
    [stream] = bench(rows(360), "--no-order")
    assert (stream["llm"], stream["source"]) == ("new-llm", "made")
    assert stream["predict_us"] > 0
    assert stream["fit_ms"] > 0
    after = {one["jobs"]: one for one in stream["after"]}
    assert list(after) == [0, 50, 100, 250]
    assert after[0]["tau_learned"] == after[0]["tau_static"]  # nothing was learned yet
    assert after[250]["tau_learned"] > after[250]["tau_static"] + 0.2
    assert after[250]["tau_served"] > after[250]["tau_static"] + 0.2
    assert after[250]["served"] == ["learned"]


@pytest.mark.slow
def test_applications_and_cut_answers_and_a_change_are_replayed(
    bench: Callable[..., list[dict[str, Any]]],
) -> None:
    mixed = rows(160, app="first") + rows(160, seed=1, app="second")
    options = ("--application", "app", "--cap", "100", "--no-order", "--by", "llm")
    [stream] = bench(mixed, *options)
    last = stream["after"][-1]
    assert last["tau_learned"] > last["tau_static"]
    assert "within_served" in last
    both = rows(200) + rows(200, llm="other-llm", seed=1)
    [changed] = bench(both, "--change-to", "other-llm", "--no-order")
    assert changed["llm"] == "new-llm"
    assert changed["after"][-1]["jobs"] == 250


@pytest.mark.slow
def test_a_file_with_too_few_rows_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(40)))
    words = ["bench", "learn", "--data", str(path)]
    got = CliRunner().invoke(build(words), words)
    assert got.exit_code != 0
    assert "give a file with more rows" in str(got.exception)


@pytest.mark.slow
def test_the_gain_of_an_order_is_between_none_and_the_oracles() -> None:
    rng = np.random.default_rng(0)
    tokens = np.maximum(1, rng.lognormal(5, 1, 300)).astype(int).tolist()
    prices = {
        "right": [float(t) for t in tokens],
        "random": rng.permutation(tokens).astype(float).tolist(),
    }
    got = gains(tokens, [20] * 300, prices, load=1.2, requests=600)
    assert got["right"].share > 0.4
    assert abs(got["random"].share) < 0.15
    assert got["right"].p99_ratio < 1.6
