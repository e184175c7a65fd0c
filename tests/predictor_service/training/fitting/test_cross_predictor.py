"""Two prompts in one input: what is read, what is learned, and how it is served."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx")

from lengthwise_predictor.model import LengthModel  # noqa: E402
from lengthwise_training.backbones.config import BackboneConfig  # noqa: E402
from lengthwise_training.backbones.transformer import TransformerEncoder  # noqa: E402
from lengthwise_training.export.onnx_export import Precision  # noqa: E402
from lengthwise_training.fitting.config import FitConfig  # noqa: E402
from lengthwise_training.fitting.cross_predictor import CrossPredictor, choose_anchors  # noqa: E402
from lengthwise_training.objectives.tasks import Task  # noqa: E402
from lengthwise_training.runs.all_tasks import train_all  # noqa: E402
from lengthwise_training.runs.run import export_run, prepare_run, train_task  # noqa: E402

CONFIG = FitConfig(
    task=Task.PAIR_CROSS_ENCODER,
    backbone=BackboneConfig(dim=16, window=24),
    epochs=10,
    batch=16,
    learning_rate=1e-2,
    hidden=32,
    threads=1,
)


def bert() -> TransformerEncoder:
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    model = transformers.BertModel(shape, add_pooling_layer=False).eval()
    return TransformerEncoder(model, specials=([1], [2]), pad_id=0, window=16, pooling="first")


def opt() -> TransformerEncoder:
    torch.manual_seed(0)
    shape = transformers.OPTConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    model = transformers.OPTModel(shape).eval()
    return TransformerEncoder(model, specials=([2], []), pad_id=1, window=16, pooling="last")


@pytest.mark.slow
def test_bert_reads_a_pair_as_it_was_trained_to_read_two_sentences() -> None:
    encoder = bert()
    first, second = torch.tensor([[9, 8, 7]]), torch.tensor([[5, 6]])
    ids = torch.tensor([[1, 9, 8, 7, 2, 5, 6, 2]])  # [CLS] first [SEP] second [SEP]
    kinds = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    with torch.inference_mode():
        want = encoder.model(input_ids=ids, token_type_ids=kinds).last_hidden_state[:, 0]
        assert torch.allclose(encoder(first, second), want, atol=1e-5)


def test_with_mean_pooling_a_pair_is_the_difference_of_its_texts() -> None:
    encoder = bert()
    encoder.pooling = "mean"
    ids = torch.tensor([[1, 9, 8, 7, 2, 5, 6, 2]])
    kinds = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    with torch.inference_mode():
        states = encoder.model(input_ids=ids, token_type_ids=kinds).last_hidden_state
        want = states[:, :5].mean(1) - states[:, 5:].mean(1)
        got = encoder(torch.tensor([[9, 8, 7, 0]]), torch.tensor([[5, 6]]))
        assert torch.allclose(got, want, atol=1e-5)


def test_a_decoder_reads_the_second_text_behind_the_first_and_uses_its_last_state() -> None:
    encoder = opt()
    first, second = torch.tensor([[9, 8, 7]]), torch.tensor([[5, 6]])
    with torch.inference_mode():
        ids = torch.tensor([[2, 9, 8, 7, 2, 5, 6]])
        want = encoder.model(input_ids=ids).last_hidden_state[:, -1]
        assert torch.allclose(encoder(first, second), want, atol=1e-5)


@pytest.mark.parametrize("make", [bert, opt], ids=["bert", "opt"])
def test_other_pairs_in_the_batch_do_not_change_a_pair(
    make: Callable[[], TransformerEncoder],
) -> None:
    encoder = make()
    pad = encoder.pad_id
    first = torch.tensor([[9, 8, pad, pad], [9, 8, 7, 6]])
    second = torch.tensor([[5, 6, 7], [5, pad, pad]])
    with torch.inference_mode():
        together = encoder(first, second)
        alone = [encoder(first[:1, :2], second[:1]), encoder(first[1:], second[1:, :1])]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)
        assert not torch.allclose(together[:1], encoder(second[:1], first[:1, :2]), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8], ids=str)
def test_a_small_cross_encoder_is_exported_from_its_folder_and_served(
    write_rows: Callable[..., Path], tmp_path: Path, precision: Precision
) -> None:
    metrics = train_task(CONFIG, write_rows(tmp_path / "rows.jsonl"), tmp_path / "run")
    # Lists of its test rows, ordered by pairwise comparisons: about log2(n) per prompt.
    assert metrics["inserted_tau_b"] > 0.25
    assert 2 < metrics["questions_per_prompt"] < 6
    assert metrics["latency_p50_ms"] > 0
    card = export_run(tmp_path / "run", precision)
    # Int8 takes its scale from all anchors at once, so a cross-encoder loses more than others.
    assert card["parity_max"] < (2 if precision is Precision.INT8 else 0.1)
    model = LengthModel(tmp_path / "run" / precision, provider="cpu")
    short = model.predict("Please give me a name for number 3.", "terse-1b")
    long = model.predict("Please give me a essay for number 4.", "terse-1b")
    assert short.rank_score < long.rank_score


def test_a_pretrained_cross_encoder_learns_for_three_epochs_by_default() -> None:
    large = dataclasses.replace(CONFIG, backbone=BackboneConfig(name="some/bert"), epochs=15)
    assert (large.passes, large.tuned) == (3, 3)
    assert dataclasses.replace(large, tune_epochs=5).passes == 5
    assert dataclasses.replace(large, tune_epochs=0).tuned == 0
    assert dataclasses.replace(large, task=Task.QUANTILES).passes == 15


@pytest.mark.slow
def test_hidden_states_have_no_pair_to_read(
    write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    from lengthwise_training.backbones import hidden_states
    from lengthwise_training.data.examples import read_rows

    data, vectors = write_rows(tmp_path / "rows.jsonl"), tmp_path / "v.npz"
    prompts = [row.prompt for row in read_rows(data)[0]]
    rng = np.random.default_rng(0)
    found = {hidden_states.vector_key(p): rng.normal(size=4).astype(np.float32) for p in prompts}
    hidden_states._write(vectors, found, "made up")
    config = dataclasses.replace(CONFIG, backbone=BackboneConfig(name="hidden"))
    with pytest.raises(ValueError, match="reads two texts at once"):
        train_task(config, data, tmp_path / "run", hidden=vectors)
    both = (Task.PAIR_CROSS_ENCODER, Task.LISTMLE)
    report = train_all(config, data, tmp_path / "all", tasks=both, hidden=vectors, baselines=False)
    assert [r["predictor"] for r in report["rows"]] == ["listmle"]


def test_anchors_are_spread_over_the_ranks_and_short_where_there_is_a_choice() -> None:
    logs = np.arange(100, dtype=np.float64)
    sizes = [3 if i % 10 == 8 else 50 for i in range(100)]
    chosen = choose_anchors(logs, sizes, 5)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 5
    assert [sizes[i] for i in chosen] == [3] * 5
    assert np.abs(chosen - np.array([10, 30, 50, 70, 90])).max() <= 4
    assert len(choose_anchors(logs[:3], sizes[:3], 8)) <= 3  # fewer prompts than anchors


def test_a_model_of_fewer_anchors_takes_the_saved_ones(
    write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, epochs=1)
    prepared = prepare_run(config, write_rows(tmp_path / "rows.jsonl"))
    from lengthwise_training.fitting.assembly import untrained

    whole, empty = untrained(prepared, config), untrained(prepared, config)
    assert isinstance(empty, CrossPredictor)
    empty.anchor_ids, empty.anchor_features = empty.anchor_ids[:2, :1], empty.anchor_features[:2]
    empty.load_state_dict(whole.state_dict())
    assert torch.equal(empty.anchor_ids, whole.anchor_ids)
