"""Every task, from rows to a served file, on small made-up data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from lengthwise_predictor.model import LengthModel  # noqa: E402
from lengthwise_training.backbones.config import BackboneConfig  # noqa: E402
from lengthwise_training.data.examples import TEST_FOLD  # noqa: E402
from lengthwise_training.export.onnx_export import Precision  # noqa: E402
from lengthwise_training.fitting import trainer  # noqa: E402
from lengthwise_training.fitting.config import FitConfig, load_config  # noqa: E402
from lengthwise_training.fitting.fit import fit  # noqa: E402
from lengthwise_training.fitting.prepared import PreparedRows  # noqa: E402
from lengthwise_training.objectives.config import TaskConfig  # noqa: E402
from lengthwise_training.objectives.tasks import Task  # noqa: E402
from lengthwise_training.runs.all_tasks import tasks_table, train_all  # noqa: E402
from lengthwise_training.runs.measure import answer_test_rows, score_test_rows  # noqa: E402
from lengthwise_training.runs.run import (  # noqa: E402
    RunMismatch,
    export_run,
    prepare_run,
    train_task,
    trainer_type,
)
from lengthwise_training.scoring.baselines import Constant  # noqa: E402

SMALL = FitConfig(
    task=Task.QUANTILES,
    backbone=BackboneConfig(dim=16, window=24),
    numbers=TaskConfig(label_max_tokens=2048, classes=10, linear_bins=256),
    epochs=10,
    batch=16,
    learning_rate=1e-2,
    hidden=32,
    threads=1,
)


@pytest.fixture(scope="module")
def data(write_rows: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def prepared(data: Path) -> PreparedRows:
    return prepare_run(SMALL, data)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_task(SMALL, data, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", list(Task), ids=str)
def test_a_task_learns_and_serving_predicts_what_training_measured(
    task: Task, data: Path, prepared: PreparedRows, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, task=task)
    metrics = train_task(config, data, tmp_path, prepared=prepared)
    # Three classes carry little information; the other tasks reach 0.7 and more.
    assert metrics["tau_b"] > 0.25
    examples = prepared.examples
    learn = examples.rows_where(examples.folds != TEST_FOLD).as_table()
    test = examples.rows_where(examples.folds == TEST_FOLD).as_table()
    constant = score_test_rows(test, Constant(learn).predict(test))
    assert constant["tau_b"] == 0.0
    assert metrics["mae_tokens"] < constant["mae_tokens"]
    assert metrics["parity_max"] < 1e-3
    model = LengthModel(tmp_path / "fp32", provider="cpu")
    # The run is finished: `fit` only loads it.
    predictor, _ = fit(prepared, config, tmp_path, trainer_type(task))
    rows, want, _ = answer_test_rows(predictor, prepared, config)
    where = zip(rows.prompt_index, rows.llm_index, strict=True)
    texts = [(rows.prompts[p], rows.llms[m]) for p, m in where]
    got = np.stack([model.run([model.encode(*t)])[0] for t in texts])
    assert np.abs(got - want.numpy()).max() < 1e-3
    assert (got[:, 0] <= got[:, 1]).all()
    assert (got[:, 1] <= got[:, 2]).all()
    answer = model.predict("Please give me an essay for number 7.", "terse-1b")
    assert 1 <= answer.p10_tokens <= answer.p50_tokens <= answer.p90_tokens < 1e5


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8], ids=str)
def test_a_smaller_precision_is_served_and_its_card_records_the_difference(
    trained: Path, precision: Precision
) -> None:
    card = export_run(trained, precision)
    exact = LengthModel(trained / "fp32", provider="cpu")
    small = LengthModel(trained / precision, provider="cpu")
    assert card["bytes"] < (trained / "fp32" / "model.onnx").stat().st_size * 0.6
    assert 0 < card["parity_max"] < 0.5
    text = "Please give me a recipe for number 3."
    want, got = exact.predict(text, "chatty-1b"), small.predict(text, "chatty-1b")
    assert np.log(got.p50_tokens / want.p50_tokens) == pytest.approx(0, abs=card["parity_max"] * 2)


def test_a_run_leaves_its_settings_and_a_card_behind(trained: Path) -> None:
    config, more = load_config(trained)
    assert config == SMALL
    assert more["llms_learned"] == ["lab/chatty-1b", "lab/terse-1b"]
    page = (trained / "fp32" / "MODEL_CARD.md").read_text()
    for part in ("`quantiles`", "| own |", "not known to Lengthwise", "## Limits", "tau-b"):
        assert part in page


def test_an_unknown_llm_is_predicted_between_the_known_ones(trained: Path) -> None:
    model = LengthModel(trained / "fp32", provider="cpu")
    text = "Please give me a recipe for number 3."
    terse, other, chatty = (
        model.predict(text, llm).p50_tokens for llm in ("terse-1b", "unknown", "chatty-1b")
    )
    assert terse < other < chatty
    assert 1.4 < chatty / terse < 2.9


def test_most_answers_lie_between_p10_and_p90(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert 0.6 < metrics["coverage"] < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("task", [Task.LISTMLE, Task.PAIR_CROSS_ENCODER], ids=str)
def test_a_killed_run_ends_in_the_same_model(
    task: Task, prepared: PreparedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    config = dataclasses.replace(SMALL, task=task, epochs=5)
    kind = trainer_type(task)
    whole, _ = fit(prepared, config, _folder(tmp_path / "whole"), kind)
    save, saves = trainer.TaskTrainer.save, 0

    def save_then_die(*args: Any) -> None:
        nonlocal saves
        save(*args)
        saves += 1
        if saves == 2:
            raise Killed

    half = _folder(tmp_path / "half")
    monkeypatch.setattr(trainer.TaskTrainer, "save", save_then_die)
    with pytest.raises(Killed):
        fit(prepared, config, half, kind)
    monkeypatch.undo()
    resumed, progress = fit(prepared, config, half, kind)
    assert progress.epoch == 5
    for name, want in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], want), name


def test_a_folder_of_another_run_is_not_overwritten(trained: Path, data: Path) -> None:
    other = dataclasses.replace(SMALL, epochs=3)
    with pytest.raises(RunMismatch, match="--restart"):
        train_task(other, data, trained)


def test_a_finished_run_is_not_trained_again(trained: Path, data: Path) -> None:
    before = (trained / "weights.safetensors").stat().st_mtime_ns
    metrics = train_task(SMALL, data, trained)
    assert metrics["task"] == "quantiles"
    assert (trained / "weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("task", [Task.REGRESSION_LOG, Task.QUANTILES, Task.DISTRIBUTION], ids=str)
def test_answers_cut_at_a_cap_do_not_count_as_short(
    task: Task, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    # Essays have 900 and 1,800 tokens, all of them cut at 300.
    data = write_rows(tmp_path / "cut.jsonl", cap=300)
    config = dataclasses.replace(SMALL, task=task)
    metrics = train_task(config, data, tmp_path / "run")
    assert metrics["card"]["cut_samples"] > 0.15 * metrics["card"]["samples"]
    model = LengthModel(tmp_path / "run" / "fp32", provider="cpu")
    essay = model.predict("Please give me a essay for number 500, and take care of 3.", "chatty-1b")
    assert essay.p90_tokens > 300


@pytest.mark.slow
def test_the_table_has_every_task_and_the_baselines_on_the_same_rows(
    data: Path, tmp_path: Path
) -> None:
    tasks = (Task.LISTMLE, Task.CLASSES_EQUAL_WIDTH)
    report = train_all(SMALL, data, tmp_path, tasks=tasks)
    rows = {r["predictor"]: r for r in report["rows"]}
    assert set(rows) == {
        "listmle",
        "classes-equal-width",
        "constant",
        "prompt length",
        "bag of words, one for all LLMs",
        "ceiling: mean of the other samples",
    }
    assert len({r["n"] for r in rows.values()}) == 1
    assert rows["constant"]["tau_b"] == 0.0
    # Classes are also scored as their inventors decide: by the likeliest class alone.
    assert rows["classes-equal-width"]["likeliest_tau_b"] > 0.3
    assert "likeliest_tau_b" not in rows["listmle"]
    text = tasks_table(report)
    assert text.count("\n") == 1 + len(rows)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
