"""Static batches of a real Hugging Face model: tiny, with random weights, on the CPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lengthwise_contract.states import JobState
from lengthwise_store.jobs import EntryKind
from lengthwise_worker.engines import open_engine
from lengthwise_worker.engines.transformers.engine import TransformersEngine
from lengthwise_worker.errors import BadSettings
from lengthwise_worker.settings import Settings

torch = pytest.importorskip("torch", reason="needs the extra transformers")
pytest.importorskip("transformers", reason="needs the extra transformers")

from lengthwise_worker.engines.transformers.decoder import Generation, StaticDecoder  # noqa: E402

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

PROMPTS = ["Short.", "A prompt of some length, to be padded.", "?", "Describe the sea " * 5]


@pytest.fixture
def model_path(tiny_llama: Path) -> Path:
    return tiny_llama


@pytest.fixture(scope="module")
def decoder(tiny_llama: Path) -> Iterator[StaticDecoder]:
    threads = torch.get_num_threads()
    yield StaticDecoder(tiny_llama, threads=1)
    torch.set_num_threads(threads)


def generation(decoder: StaticDecoder, prompt: str, **fields: Any) -> Generation:
    every: dict[str, Any] = {"limit": 120, "ends": decoder.ends} | fields
    return Generation(prompt=decoder.tokenizer(prompt).input_ids, **every)


def alone(decoder: StaticDecoder, prompt: str, **fields: Any) -> Generation:
    made = generation(decoder, prompt, **fields)
    decoder.decode([made])
    return made


# ---------------------------------------------------------------------- the decoder


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_a_greedy_answer_equals_that_of_the_librarys_generate(
    decoder: StaticDecoder, prompt: str
) -> None:
    ids = torch.tensor([decoder.tokenizer(prompt).input_ids])
    [want] = decoder.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=120, do_sample=False
    ).tolist()
    made = alone(decoder, prompt)
    assert made.tokens == [token for token in want[ids.shape[1] :] if token not in decoder.ends]
    assert made.finished in ("stop", "length")


@pytest.mark.parametrize("leave", [True, False], ids=["rows leave", "rows stay"])
def test_an_answer_does_not_depend_on_the_other_answers_of_its_batch(
    model_path: Path, decoder: StaticDecoder, leave: bool
) -> None:
    want = [alone(decoder, prompt).tokens for prompt in PROMPTS]
    together = StaticDecoder(model_path, leave=leave)
    made = [generation(together, prompt) for prompt in PROMPTS]
    together.decode(made)
    assert [one.tokens for one in made] == want
    assert len({len(tokens) for tokens in want}) > 1  # or no row would have left early


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.9, "top_p": 0.8, "seed": 5}],
    ids=["greedy", "sampled"],
)
def test_a_resumed_answer_equals_the_uninterrupted_one(
    decoder: StaticDecoder, fields: dict[str, Any]
) -> None:
    fields = fields | {"min_tokens": 40}
    want = [alone(decoder, prompt, **fields).tokens for prompt in PROMPTS]
    made = [generation(decoder, prompt, **fields) for prompt in PROMPTS]
    # Each time in another batch and at another place.
    decoder.decode(made, steps=7)
    assert {len(one.tokens) for one in made} == {7}
    decoder.decode(made[:2], steps=24)
    decoder.decode([made[3], made[2], made[0]], steps=3)
    decoder.decode([one for one in reversed(made) if not one.over])
    assert [one.tokens for one in made] == want


def test_rows_that_left_are_no_longer_computed(model_path: Path) -> None:
    def computed(leave: bool) -> int:
        decoder = StaticDecoder(model_path, leave=leave)
        short = [generation(decoder, f"{n}", limit=5, ends=frozenset()) for n in range(7)]
        decoder.decode([*short, generation(decoder, "long", limit=50, ends=frozenset())])
        return decoder.work.computed

    assert computed(leave=False) == 8 * 50
    assert computed(leave=True) == 8 * 5 + 45


def test_a_cancelled_answer_leaves_its_batch_and_the_others_continue(
    decoder: StaticDecoder,
) -> None:
    want = alone(decoder, PROMPTS[1], min_tokens=30).tokens
    quits = generation(decoder, PROMPTS[0], min_tokens=90)
    stays = generation(decoder, PROMPTS[1], min_tokens=30)

    def cancel(made: Generation, token: int) -> None:
        quits.cancelled = quits.cancelled or len(stays.tokens) == 10

    decoder.decode([quits, stays], on_token=cancel)
    assert stays.tokens == want
    assert 10 <= len(quits.tokens) <= 11


# ---------------------------------------------------------------------- behind a worker


def sequence(model_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "engine": "transformers",
        "batching": "sequence",
        "model_path": model_path,
        "threads": 1,
        "slots": 8,
    } | changes


async def text_of(rig: Rig, job_id: str) -> tuple[str, str]:
    """Return the text of a streamed answer, and its finish reason."""
    *chunks, _ = await rig.output(job_id)
    events = [json.loads(chunk.data) for chunk in chunks if chunk.kind is EntryKind.CHUNK]
    choices = [event["choices"][0] for event in events]
    [reason] = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return "".join(choice["delta"].get("content", "") for choice in choices), reason


ASK: dict[str, Any] = {"temperature": 0, "max_tokens": 80, "min_tokens": 5}


def chat(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["none", "static", "sequence"])
def test_every_batching_mode_gives_the_same_answers(
    rig: Rig, model_path: Path, decoder: StaticDecoder, batching: str
) -> None:
    async def body() -> None:
        async with rig.working(None, **sequence(model_path, batching=batching)):
            for at, prompt in enumerate(PROMPTS):
                # Uninformative predictions: in `sequence` mode most answers reach a cap.
                await rig.submit(
                    f"j{at}",
                    messages=chat(prompt),
                    slack_ms=float(at),
                    ignore_eos=True,
                    **(ASK | {"max_tokens": 40 + 30 * at}),
                )
            got = [await text_of(rig, f"j{at}") for at in range(len(PROMPTS))]
        for at, prompt in enumerate(PROMPTS):
            rendered = f"user: {prompt}\nassistant:"
            want = alone(decoder, rendered, limit=40 + 30 * at, ends=frozenset())
            text = decoder.tokenizer.decode(want.tokens, skip_special_tokens=True)
            assert got[at] == (text, "length")
            job = await rig.job(f"j{at}")
            assert (job.state, job.output_tokens) == (JobState.SUCCEEDED, 40 + 30 * at)

    rig.run(body)


@pytest.mark.slow
def test_answers_that_reach_a_cap_continue_in_a_later_batch(rig: Rig, model_path: Path) -> None:
    async def body() -> None:
        settings = sequence(model_path, sequence_quantile=0.3)
        async with rig.working(None, **settings) as worker:
            for at in range(6):
                await rig.submit(
                    f"j{at}", messages=chat(str(at)), ignore_eos=True, **(ASK | {"max_tokens": 300})
                )
            for at in range(6):
                await rig.state(f"j{at}", JobState.SUCCEEDED)
                assert (await rig.job(f"j{at}")).output_tokens == 300
            engine = worker._engine
            assert isinstance(engine, TransformersEngine)
            assert engine.capped > 0

    rig.run(body)


def test_streamed_and_plain_answers_have_the_same_text(rig: Rig, model_path: Path) -> None:
    async def body() -> None:
        async with rig.working(None, **sequence(model_path)):
            await rig.submit("stream", messages=chat("Hello"), **ASK)
            await rig.submit("plain", messages=chat("Hello"), stream=False, **ASK)
            text, reason = await text_of(rig, "stream")
            [whole, _] = await rig.output("plain")
        answer = json.loads(whole.data)
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": text}
        assert answer["choices"][0]["finish_reason"] == reason
        for name in ("stream", "plain"):
            job = await rig.job(name)
            assert job.output_tokens == answer["usage"]["completion_tokens"]
            assert job.prompt_tokens == answer["usage"]["prompt_tokens"]

    rig.run(body)


@pytest.mark.slow
def test_a_stop_text_ends_the_answer_before_it(rig: Rig, model_path: Path) -> None:
    ask = ASK | {"ignore_eos": True}

    async def body() -> None:
        async with rig.working(None, **sequence(model_path)):
            await rig.submit("free", messages=chat("Hello"), **ask)
            text, _ = await text_of(rig, "free")
            stop = text[20:23]
            await rig.submit("stopped", messages=chat("Hello"), stop=[stop], **ask)
            assert await text_of(rig, "stopped") == (text[: text.index(stop)], "stop")

    rig.run(body)


@pytest.mark.slow
def test_cancelling_a_job_takes_it_out_of_its_batch(rig: Rig, model_path: Path) -> None:
    long = ASK | {"max_tokens": 3500, "ignore_eos": True}

    async def body() -> None:
        async with rig.working(None, **sequence(model_path, batch_tokens=60_000)) as worker:
            await rig.submit("quits", messages=chat("a"), **long)
            await rig.submit("stays", messages=chat("b"), **(long | {"max_tokens": 400}))
            await rig.store.wait_output(rig.queue, "quits", timeout_s=20)
            await rig.store.cancel(rig.queue, "quits")
            await rig.state("quits", JobState.CANCELLED)
            await rig.state("stays", JobState.SUCCEEDED)
            engine = worker._engine
            assert isinstance(engine, TransformersEngine)
            assert engine.decoder is not None
            assert 400 <= engine.decoder.work.kept < 3500

    rig.run(body)


@pytest.mark.slow
def test_leases_are_kept_while_a_batch_is_decoded(rig: Rig, model_path: Path) -> None:
    ask = ASK | {"max_tokens": 1500, "ignore_eos": True}

    async def body() -> None:
        # The lease is shorter than the batch takes, and longer than a pause of a busy machine.
        times = {"lease_ms": 1500, "beat_ms": 150, "tick_ms": 50}
        async with rig.working(None, **sequence(model_path, **times)):
            await rig.submit("long", messages=chat("a"), stream=False, **ask)
            job = await rig.state("long", JobState.SUCCEEDED)
            assert job.attempt == 1
            assert job.started_ms is not None
            assert job.finished_ms is not None
            assert job.finished_ms - job.started_ms > times["lease_ms"]

    rig.run(body)


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"n": 2}, "n must be 1"),
        ({"tools": [{}]}, "cannot do 'tools'"),
        ({"messages": []}, "at least one message"),
        ({"max_tokens": 5000}, "more than the 4096 that the model accepts"),
        ({"temperature": "hot"}, "temperature must be a number"),
    ],
    ids=["n", "tools", "no messages", "too long", "temperature"],
)
def test_an_unsupported_request_is_refused_with_a_reason(
    rig: Rig, model_path: Path, fields: dict[str, Any], want: str
) -> None:
    async def body() -> None:
        async with rig.working(None, **sequence(model_path)):
            await rig.submit("j", **({"messages": chat("a")} | fields))
            await rig.state("j", JobState.FAILED)
        error = (await rig.job("j")).error
        assert error is not None
        assert want in error.message
        assert error.status == 400

    rig.run(body)


# ---------------------------------------------------------------------- settings


def settings(**changes: Any) -> Settings:
    return Settings(queue="m", **changes)


def test_a_folder_without_a_model_is_named(rig: Rig, tmp_path: Path) -> None:
    async def body() -> None:
        engine = open_engine(settings(**sequence(tmp_path)))
        with pytest.raises(BadSettings, match="LENGTHWISE_WORKER_MODEL_PATH"):
            await engine.start()
        await engine.aclose()

    rig.run(body)


def test_without_pytorch_the_extra_is_named(
    rig: Rig, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "lengthwise_worker.engines.transformers.decoder")

    async def body() -> None:
        engine = open_engine(settings(**sequence(model_path)))
        with pytest.raises(BadSettings, match=r"pip install 'lengthwise\[transformers\]'"):
            await engine.start()
        await engine.aclose()

    rig.run(body)


def test_the_transformers_engine_does_not_batch_continuously() -> None:
    with pytest.raises(BadSettings, match="sequence, static or none"):
        open_engine(settings(engine="transformers"))


def test_sequence_batching_is_for_the_transformers_engine() -> None:
    with pytest.raises(BadSettings, match="use continuous"):
        open_engine(settings(engine="vllm", engine_url="http://e:1", batching="sequence"))
