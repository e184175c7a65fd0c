"""`lengthwise train` and `lengthwise export` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import eventually
from typer.testing import CliRunner

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.main import build

SMALL = [
    *("--window", "24", "--batch", "16", "--epochs", "6"),
    *("--learning-rate", "0.01", "--threads", "1"),
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    kinds = {"poem": 40, "essay": 900, "name": 4, "recipe": 400}
    with path.open("w") as out:
        for i in range(160):
            kind = list(kinds)[i % 4]
            row = {
                "prompt": f"A {kind} for {i}",
                "model": "m",
                "output_tokens": kinds[kind] + i % 7,
            }
            out.write(json.dumps(row) + "\n")
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build(), list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.mark.slow
def test_without_the_extra_the_message_has_the_pip_command(rows: Path, tmp_path: Path) -> None:
    # A module that is None cannot be imported, as one that is not installed.
    arguments = ["train", "--task", "listmle", "--data", str(rows), "--out", str(tmp_path / "run")]
    code = (
        "import sys; sys.modules['torch'] = None; "
        f"from lengthwise_cli.main import main; sys.argv[1:] = {arguments!r}; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch, which is not installed: pip install 'lengthwise[train]'" in done.stderr


def test_the_tasks_can_be_listed_without_rows() -> None:
    pytest.importorskip("torch")
    from lengthwise_training.objectives.tasks import Task

    assert run("train", "--task", "list").split() == list(Task)


def test_training_without_rows_or_a_folder_is_refused_with_both_flags() -> None:
    pytest.importorskip("torch")
    with pytest.raises(BadUsage, match="--data, and a folder for the run, --out"):
        run("train", "--task", "listmle")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "nonsense"], "no task 'nonsense'"),
        ([], "--all-tasks"),
        (["--task", "listmle", "--all-tasks"], "--all-tasks"),
        (["--task", "listmle", "--pooling", "best"], "auto, mean, first, last"),
        (["--task", "listmle", "--backbone", "hidden"], "--hidden FILE"),
        (["--task", "listmle", "--device", "tpu"], "auto, cpu, cuda"),
    ],
    ids=["task", "neither", "both", "pooling", "hidden without vectors", "device"],
)
def test_an_error_about_a_flag_names_the_valid_values(
    arguments: list[str], message: str, rows: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    with pytest.raises(BadUsage, match=message):
        run("train", *arguments, "--data", str(rows), "--out", str(tmp_path / "run"))


@pytest.mark.slow
def test_a_trained_task_is_exported_and_both_commands_print_their_measurements(
    rows: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    out = str(tmp_path / "run")
    printed = run("train", "--task", "listmle", "--data", str(rows), "--out", out, *SMALL, "--json")
    report = json.loads(printed)
    assert report["task"] == "listmle"
    assert report["tau_b"] > 0.3
    card = json.loads(run("export", out, "--precision", "int8", "--json"))
    assert card["precision"] == "int8"
    assert (tmp_path / "run" / "int8" / "MODEL_CARD.md").is_file()
    assert "log tokens at most" in run("export", out, "--precision", "fp16")
    with pytest.raises(BadUsage, match="must be fp32, fp16 or int8"):
        run("export", out, "--precision", "int3")
    with pytest.raises(BadUsage, match="holds no run"):
        run("export", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "want"), [("tiny", "LENGTHWISE_PREDICTOR_MODEL_DIR="), ("hidden", "HiddenModel(")]
)
def test_training_ends_with_how_to_use_the_model(
    rows: Path, tmp_path: Path, backbone: str, want: str
) -> None:
    pytest.importorskip("torch")
    import numpy as np

    from lengthwise_training.backbones import hidden_states

    keys = [
        hidden_states.vector_key(json.loads(line)["prompt"])
        for line in rows.read_text().splitlines()
    ]
    vectors = np.random.default_rng(7).normal(size=(len(keys), 4))
    np.savez(tmp_path / "v.npz", keys=np.array(keys), vectors=vectors)
    flags = ["--hidden", str(tmp_path / "v.npz")] if backbone == "hidden" else []
    out = str(tmp_path / "run")
    printed = run(
        *("train", "--task", "quantiles", "--data", str(rows), "--out", out, *SMALL),
        *("--backbone", backbone, *flags),
    )
    assert want in printed.splitlines()[-1]
    assert f"{out}/fp32" in printed.splitlines()[-1]


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_model(rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    common = ["--task", "pairwise", "--data", str(rows), *SMALL, "--epochs", "12"]
    killed = tmp_path / "killed"
    arguments = ["-m", "lengthwise_cli.main", "train", *common, "--out", str(killed)]
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:

        def saved() -> bool:
            assert process.poll() is None, "it ended before its first checkpoint"
            return (killed / "checkpoint.pt").exists()

        eventually(saved, "the first checkpoint", within_s=100, every_s=0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (killed / "metrics.json").exists()
    with pytest.raises(BadUsage, match="unfinished"):
        run("export", str(killed))
    resumed = json.loads(run("train", *common, "--out", str(killed), "--json"))
    whole = json.loads(run("train", *common, "--out", str(tmp_path / "whole"), "--json"))
    assert resumed["tau_b"] == whole["tau_b"]
    weights = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("killed", "whole")]
    assert weights[0] == weights[1]
