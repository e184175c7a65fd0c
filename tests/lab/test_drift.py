"""Streams whose predictor becomes bad, through the real store on a real Valkey."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lengthwise_cli.main import build
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_lab.drift import streams
from lengthwise_lab.drift.chart import draw
from lengthwise_lab.drift.report import StreamReport, report
from lengthwise_lab.drift.run import Outcomes, serve
from lengthwise_lab.drift.streams import STREAMS, StreamRequest
from lengthwise_lab.drift.unknown_llm import MeasuredPrompt, measure, read
from lengthwise_lab.errors import BadWorkload
from lengthwise_lab.loadtest.measures import tau_b

VARIANTS = {
    "fcfs": QueueSettings(policy="fcfs", learning="off"),
    "lengthwise": QueueSettings(),
    "plain_sjf": QueueSettings(min_rank_accuracy=None, calibrate=False, learning="off"),
}


def served(
    redis_url: str, name: str, count: int
) -> tuple[StreamReport, list[StreamRequest], dict[str, Outcomes]]:
    requests = streams.draw(STREAMS[name], count, rate_per_s=1.2, seed=3)

    async def all_variants() -> dict[str, Outcomes]:
        return {
            name: await serve(redis_url, requests, settings, queue=name, slots=2, ms_per_token=5.0)
            for name, settings in VARIANTS.items()
        }

    runs = asyncio.run(all_variants())
    return report(STREAMS[name], requests, runs), requests, runs


@pytest.mark.parametrize(
    ("name", "want"), [("steady", (0.45, 0.55)), ("random", (-0.1, 0.1)), ("reversed", (-1, -0.4))]
)
def test_a_stream_has_the_rank_quality_of_its_name(name: str, want: tuple[float, float]) -> None:
    requests = [r for r in streams.draw(STREAMS[name], 3000, rate_per_s=1, seed=1) if r.phase == 0]
    tau = tau_b([r.p50_tokens for r in requests], [float(r.tokens) for r in requests])
    assert tau is not None
    assert want[0] < tau < want[1]
    inside = sum(r.p10_tokens <= r.tokens <= r.p90_tokens for r in requests) / len(requests)
    if name == "steady":
        assert inside == pytest.approx(0.8, abs=0.03)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reversed_predictor_is_detected_and_costs_nothing_after_that(
    redis_url: str, tmp_path: Path
) -> None:
    found, requests, runs = served(redis_url, "reversed", 500)
    bad, good = found.phases
    assert bad.plain_sjf_ratio > 1.02
    assert bad.change is not None
    assert bad.change.answers <= 64
    assert bad.after_detection_ratio == pytest.approx(1.0, abs=0.05)
    assert bad.wrong_checks == 0
    assert good.detected
    assert found.coverage == pytest.approx(0.8, abs=0.1)
    draw([found], [requests], [runs], limit=0.6, path=tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_good_predictor_is_not_suspended_because_of_the_order_of_a_burst(redis_url: str) -> None:
    # Under short-first the last answers of a long queue have similar predictions, and half of
    # their pairs are in the wrong order. A rating by all pairs suspended a good predictor.
    found, _, runs = served(redis_url, "burst", 500)
    assert found.phases[0].wrong_checks == 0
    assert found.means_s["lengthwise"] < 0.8 * found.means_s["fcfs"]
    assert len(runs["lengthwise"].observations) > 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_prints_json_and_writes_the_chart(tmp_path: Path) -> None:
    command = ["bench", "drift", "--stream", "scaled", "--requests", "300", "--json"]
    done = CliRunner().invoke(build(), [*command, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "drift.json").read_text())
    assert [s["stream"] for s in printed["streams"]] == ["scaled"]
    assert (tmp_path / "drift.png").exists()
    wrong = CliRunner().invoke(build(), ["bench", "drift", "--stream", "sideways"])
    assert wrong.exit_code != 0


def test_an_unknown_llm_is_calibrated_from_its_own_answers(tmp_path: Path) -> None:
    rng = random.Random(1)  # noqa: S311 - a reproducible stream
    lines = []
    for i in range(400):
        words = rng.randint(1, 30)
        tokens = int(3 * words * rng.lognormvariate(0, 0.3)) + 1
        prompt = f"Write {words} words about number {i}."
        lines.append(json.dumps({"prompt": prompt, "output_tokens": [tokens], "model": "m"}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    prompts = read(tmp_path / "data.jsonl", llm="m", limit=300, seed=1)

    def predict(prompt: str, llm: str) -> tuple[float, float, float]:
        tokens = 12.0 * int(prompt.split()[1])  # four times too long, and far too certain
        return tokens / 1.01, tokens, tokens * 1.01

    def of_all(known: Sequence[MeasuredPrompt], unknown: Sequence[MeasuredPrompt]) -> list[float]:
        return [sum(one.tokens for one in known) / len(known)] * len(unknown)

    windows = measure(prompts, predict, of_all)
    assert [(w.first, w.end) for w in windows] == [(0, 100), (100, 250), (250, 300)]
    last = windows[-1]
    assert last.calibrated_mae < 0.3 * last.raw_mae
    assert last.bag_of_words_mae is not None
    assert last.calibrated_mae < last.bag_of_words_mae
    assert (last.raw_coverage or 0) < 0.2
    assert last.calibrated_coverage == pytest.approx(0.8, abs=0.2)
    assert last.calibrated_tau_b == pytest.approx(last.tau_b, abs=0.05)
    with pytest.raises(BadWorkload, match="0 usable rows of unknown"):
        read(tmp_path / "data.jsonl", llm="unknown", limit=300, seed=1)
