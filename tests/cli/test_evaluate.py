"""`evaluate`, `adapt`, `export-chat` and `bench predictor` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lengthwise_cli.errors import BadUsage, CliError
from lengthwise_cli.main import build

pytest.importorskip("sklearn")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build(), [str(a) for a in arguments])
    if isinstance(result.exception, CliError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def written(path: Path, first: int, count: int) -> Path:
    rows = [
        {"prompt": f"{'short' if i % 2 else 'long'} answer, number {i}", "model": "org/new"}
        | {"output_tokens": (20 if i % 2 else 500) + i % 7, "source": "mine"}
        for i in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.slow
def test_evaluate_prints_rows_of_every_predictor(tmp_path: Path) -> None:
    data, train = written(tmp_path / "d", 0, 30), written(tmp_path / "t", 20, 80)
    with data.open("a") as file:
        file.write('{"prompt": "no length", "model": "m"}\n')
    got = json.loads(run("evaluate", "--data", data, "--train", train, "--json"))
    whole: dict[str, Any] = {
        r["predictor"]: r for r in got["rows"] if r["llm"] == r["source"] == "all"
    }
    assert {"bundled", "bundled+adapted", "bag of words", "constant"} <= set(whole)
    assert whole["bag of words"]["tau_b"] > 0.5
    assert {"pair_accuracy", "spearman", "mae_tokens", "latency_p50_ms"} <= set(whole["bundled"])
    assert {(r["llm"], r["source"]) for r in got["rows"]} == {
        ("all", "all"),
        ("org/new", "all"),
        ("all", "mine"),
    }
    assert any("line 31: no `output_tokens`" in note for note in got["notes"])
    assert any("10 of 80 rows" in note for note in got["notes"])
    with pytest.raises(BadUsage, match="line 31"):
        run("evaluate", "--data", data, "--strict")


def test_an_unusable_file_is_one_error_message(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="cannot read"):
        run("evaluate", "--data", tmp_path / "nowhere.jsonl")
    with pytest.raises(BadUsage, match="at least 20 are needed"):
        run("adapt", "--data", written(tmp_path / "d", 0, 5), "--out", tmp_path / "m")


def test_held_out_without_training_rows_is_refused(tmp_path: Path) -> None:
    # The flag was ignored silently.
    with pytest.raises(BadUsage, match="--train"):
        run("evaluate", "--data", written(tmp_path / "d", 0, 30), "--held-out")


@pytest.mark.slow
def test_an_adapted_model_can_be_evaluated(tmp_path: Path) -> None:
    run("adapt", "--data", written(tmp_path / "t", 0, 80), "--out", tmp_path / "mine")
    data = written(tmp_path / "d", 200, 30)
    got = json.loads(run("evaluate", "--data", data, "--model", tmp_path / "mine", "--json"))
    tau = {r["predictor"]: r["tau_b"] for r in got["rows"] if r["llm"] == r["source"] == "all"}
    [mine] = [name for name in tau if name.endswith("+adapted int8")]
    assert tau[mine] > 0.5


@pytest.mark.slow
def test_two_models_with_equal_cards_have_different_names(tmp_path: Path) -> None:
    # Every run of `train` makes a folder called fp32, and the table had one row for two models.
    for run_of in ("a", "b"):
        run("adapt", "--data", written(tmp_path / "t", 0, 80), "--out", tmp_path / run_of / "fp32")
    folders = [tmp_path / n / "fp32" for n in ("a", "b")]
    models = [part for folder in folders for part in ("--model", folder)]
    data = written(tmp_path / "d", 200, 30)
    got = json.loads(run("evaluate", "--data", data, *models, *models, "--json"))
    whole = [r["predictor"] for r in got["rows"] if r["llm"] == r["source"] == "all"]
    assert len(whole) == len(set(whole))
    assert {f"({folder})" for folder in folders} == {
        name.split(" ")[-1] for name in whole if "+adapted int8" in name
    }


def test_a_missing_device_is_one_error_message(tmp_path: Path) -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA")
    data = written(tmp_path / "d", 0, 30)
    with pytest.raises(BadUsage, match="set provider to auto"):
        run("evaluate", "--data", data, "--device", "cuda")
    with pytest.raises(BadUsage, match="auto, cpu, cuda"):
        run("bench", "predictor", "--device", "gpu")


def test_lengths_are_written_as_chats(tmp_path: Path) -> None:
    out = tmp_path / "chat.jsonl"
    run("export-chat", "--data", written(tmp_path / "d", 0, 4), "--out", out, "--bin", 100)
    labels = [json.loads(line)["messages"][-1]["content"] for line in out.read_text().splitlines()]
    assert labels == ["500", "100", "600", "100"]


@pytest.mark.slow
def test_the_bench_prints_a_row_for_each_cell(tmp_path: Path) -> None:
    got = json.loads(
        run(
            *("bench", "predictor", "--tokens", "16", "--batches", "1,2", "--rounds", 1),
            *("--calls", 2, "--no-bert", "--json", "--data", written(tmp_path / "d", 0, 30)),
        )
    )
    assert [(r["predictor"], r["batch"]) for r in got["rows"]] == [("bundled", 1), ("bundled", 2)]
    assert {"bundled", "constant"} <= {r["predictor"] for r in got["quality"]}
    with pytest.raises(BadUsage, match="whole numbers"):
        run("bench", "predictor", "--tokens", "many")
