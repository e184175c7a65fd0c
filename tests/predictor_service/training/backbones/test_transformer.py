"""Hugging Face backbones: real models of a few thousand weights, saved as large ones are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx")

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers  # noqa: E402

from lengthwise_predictor.errors import ModelUnusable  # noqa: E402
from lengthwise_predictor.features import window  # noqa: E402
from lengthwise_predictor.model import LengthModel  # noqa: E402
from lengthwise_training.backbones import hidden_states  # noqa: E402
from lengthwise_training.backbones.config import BackboneConfig  # noqa: E402
from lengthwise_training.backbones.loading import load_backbone  # noqa: E402
from lengthwise_training.data.examples import read_rows  # noqa: E402
from lengthwise_training.export.onnx_export import Precision  # noqa: E402
from lengthwise_training.fitting.config import FitConfig  # noqa: E402
from lengthwise_training.objectives.tasks import Task  # noqa: E402
from lengthwise_training.runs.run import (  # noqa: E402
    export_run,
    train_task,
)

WINDOW = 24


def save_backbone(folder: Path, kind: str) -> Path:
    """Save a tiny model with random weights and its own tokenizer, as `save_pretrained` does.

    Args:
        folder: Created.
        kind: `bert`, with [CLS] and [SEP], or `opt`, with </s> in front and padding number 1.
    """
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if kind == "bert" else ["<s>", "<pad>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Please give me a recipe for number 3"] * 9, trainer)
    template = "[CLS] $A [SEP]" if kind == "bert" else "</s> $A"
    marks = ["[CLS]", "[SEP]"] if kind == "bert" else ["</s>"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(m, tokenizer.token_to_id(m)) for m in marks]
    )
    torch.manual_seed(0)
    if kind == "bert":
        shape = transformers.BertConfig(
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        model = transformers.BertModel(shape)
    else:
        shape = transformers.OPTConfig(
            vocab_size=400,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            ffn_dim=64,
            word_embed_proj_dim=16,
            max_position_embeddings=64,
        )
        model = transformers.OPTModel(shape)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["bert", "opt"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("hub") / request.param, request.param)


@pytest.fixture(scope="module")
def data(write_rows: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


def config(name: str, **more: Any) -> FitConfig:
    return FitConfig(
        task=Task.LISTMLE,
        backbone=BackboneConfig(name=name, layers=2, window=WINDOW),
        epochs=10,
        batch=16,
        learning_rate=1e-2,
        encoder_rate=2e-3,
        hidden=32,
        threads=1,
        **more,
    )


@pytest.mark.slow
@pytest.mark.parametrize("tune_epochs", [0, 2, 10], ids=["frozen", "tuned first", "tuned"])
def test_a_hugging_face_model_learns_is_exported_and_served(
    backbone: Path, data: Path, tmp_path: Path, tune_epochs: int
) -> None:
    mine = config(str(backbone), tune_epochs=tune_epochs)
    metrics = train_task(mine, data, tmp_path)
    assert metrics["tau_b"] > 0.3  # random weights carry little information, but some
    assert metrics["parity_max"] < 1e-3
    model = LengthModel(tmp_path / "fp32", provider="cpu")
    model.warm_up(2)
    texts = ["Please give me a name for number 3.", "Please give me a essay for number 4."]
    together = model.run([model.encode(t, "terse-1b") for t in texts])
    for text, row in zip(texts, together, strict=True):
        assert np.abs(model.run([model.encode(text, "terse-1b")])[0] - row).max() < 1e-3
    assert together[0, 1] < together[1, 1]
    assert np.isfinite(model.run([model.encode("", "terse-1b")])).all()


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8], ids=str)
def test_a_transformer_is_exported_small_from_its_folder_alone(
    data: Path, tmp_path: Path, precision: Precision
) -> None:
    folder = save_backbone(tmp_path / "bert", "bert")
    train_task(config(str(folder)), data, tmp_path / "run")
    for file in folder.iterdir():
        file.unlink()  # the run has its own copy of what it needs
    card = export_run(tmp_path / "run", precision)
    assert card["parity_max"] < 0.5
    want = {Precision.FP16: "float16", Precision.INT8: "int8"}[precision]
    assert LengthModel(tmp_path / "run" / precision, provider="cpu").card["precision"] == want


@pytest.mark.parametrize(
    ("kind", "marks"),
    [("bert", ("[CLS]", "[SEP]")), ("opt", ("</s>",))],
    ids=["bert", "opt"],
)
def test_a_folder_is_read_as_the_hub_lays_it_out(
    tmp_path: Path, kind: str, marks: tuple[str, ...]
) -> None:
    # The hub's OPT has no tokenizer.json, and older BERTs have a pickle of weights.
    folder = save_backbone(tmp_path / kind, kind)
    if kind == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "please", "give"]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        settings: dict[str, Any] = {"do_lower_case": True}
    else:
        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        plain.model.save(str(folder))  # vocab.json, merges.txt
        settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}
        settings |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.save(transformers.AutoModel.from_pretrained(folder).state_dict(), folder / "w")
    (folder / "model.safetensors").unlink()
    (folder / "w").rename(folder / "pytorch_model.bin")
    encoder, tokenizer = load_backbone(BackboneConfig(name=str(folder), window=WINDOW))
    got = tokenizer.encode("please give").tokens
    assert tuple(t for t in got if t in ("[CLS]", "[SEP]", "</s>")) == marks
    assert len(encoder.before) + len(encoder.after) == len(marks)
    assert encoder.causal == (kind == "opt")


def test_the_vector_is_the_models_own(backbone: Path) -> None:
    encoder, tokenizer = load_backbone(BackboneConfig(name=str(backbone), window=WINDOW))
    model = transformers.AutoModel.from_pretrained(backbone).eval()
    text = "Please give me a recipe"
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    padded = torch.cat([ids, torch.full((1, 3), encoder.pad_id)], dim=1)
    with torch.inference_mode():
        full = torch.tensor([tokenizer.encode(text).ids])
        states = model(input_ids=full, attention_mask=torch.ones_like(full)).last_hidden_state
        want = states[0, -1] if encoder.causal else states[0].mean(0)
        assert torch.allclose(encoder(ids)[0], want, atol=1e-5)
        assert torch.allclose(encoder(padded)[0], want, atol=1e-5)


def test_a_long_prompt_keeps_both_ends_and_the_special_tokens(backbone: Path) -> None:
    encoder, tokenizer = load_backbone(BackboneConfig(name=str(backbone), window=WINDOW))
    ids = tokenizer.encode("ab " * 20 + "cd " * 300 + "ef " * 20, add_special_tokens=False).ids
    kept = window(ids, encoder.max_tokens)
    full, there = encoder.with_specials(torch.tensor([kept]))
    assert full.shape == (1, WINDOW)
    assert bool(there.all())
    got = full[0].tolist()
    before, after = encoder.before, encoder.after
    assert got[: len(before)] == before
    assert got[len(got) - len(after) :] == after
    inside = got[len(before) : len(got) - len(after)]
    tail = encoder.max_tokens // 4
    assert inside == [*ids[: encoder.max_tokens - tail], *ids[-tail:]]


def test_the_special_tokens_of_a_shorter_text_are_at_its_own_end(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "bert", "bert")
    encoder, _ = load_backbone(BackboneConfig(name=str(folder), window=WINDOW))
    full, there = encoder.with_specials(torch.tensor([[9, 9, 9, 9], [9, 9, 0, 0]]))
    assert full.tolist() == [[1, 9, 9, 9, 9, 2], [1, 9, 9, 2, 0, 0]]
    assert there.sum(1).tolist() == [6, 4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"layers": 9}, "has 3"), ({"window": 400}, "at most 64"), ({"window": 4}, "no room")],
    ids=["layers", "window", "no room"],
)
def test_settings_that_a_backbone_does_not_support_are_refused(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    folder = save_backbone(tmp_path / "bert", "bert")
    with pytest.raises(ValueError, match=message):
        load_backbone(dataclasses.replace(BackboneConfig(name=str(folder), window=WINDOW), **wrong))


@pytest.mark.slow
def test_hidden_states_of_an_llm_train_a_predictor_of_their_own(data: Path, tmp_path: Path) -> None:
    llm = save_backbone(tmp_path / "opt", "opt")
    vectors = tmp_path / "vectors.npz"
    prompts = [row.prompt for row in read_rows(data)[0]]
    assert hidden_states.collect_vectors(str(llm), prompts, vectors) > 0
    mine = config("hidden")
    metrics = train_task(mine, data, tmp_path / "run", hidden=vectors)
    assert metrics["tau_b"] > 0.3  # random weights carry little information, but some
    prompt = prompts[0]
    model = hidden_states.HiddenModel(tmp_path / "run" / "fp32")
    answer = model.predict(prompt, hidden_states.lookup_vectors(vectors, [prompt])[0], "terse-1b")
    assert 1 <= answer.p10_tokens <= answer.p50_tokens <= answer.p90_tokens < 1e5
    with pytest.raises(ModelUnusable, match="hidden states"):
        LengthModel(tmp_path / "run" / "fp32", provider="cpu")


def test_hidden_states_are_the_models_own_and_collected_once(tmp_path: Path) -> None:
    llm, out = save_backbone(tmp_path / "opt", "opt"), tmp_path / "vectors.npz"
    prompts = ["Please give me a poem", "Hi"]
    assert hidden_states.collect_vectors(str(llm), prompts[:1], out) == 1
    assert hidden_states.collect_vectors(str(llm), prompts, out) == 1
    model = transformers.AutoModel.from_pretrained(llm).eval()
    tokenizer = Tokenizer.from_file(str(llm / "tokenizer.json"))
    with torch.inference_mode():
        ids = torch.tensor([tokenizer.encode(prompts[0]).ids])
        want = model(input_ids=ids).last_hidden_state[0, -1].numpy()
    assert np.abs(hidden_states.lookup_vectors(out, prompts)[0] - want).max() < 1e-5
    with pytest.raises(ValueError, match="lacks the vectors of 1 of 1"):
        hidden_states.lookup_vectors(out, ["never asked"])
    with pytest.raises(hidden_states.VectorsMismatch, match="another file"):
        hidden_states.collect_vectors(str(llm), prompts, out, layer=1)
