"""Devices: the choice, and that no training step mixes two devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from lengthwise_predictor.errors import ModelUnusable  # noqa: E402
from lengthwise_predictor.settings import BUNDLED  # noqa: E402
from lengthwise_training.backbones.config import BackboneConfig  # noqa: E402
from lengthwise_training.backbones.devices import DeviceAbsent, torch_device  # noqa: E402
from lengthwise_training.compare import predictor_bench  # noqa: E402
from lengthwise_training.compare.served_model import ServedModel  # noqa: E402
from lengthwise_training.fitting.assembly import untrained  # noqa: E402
from lengthwise_training.fitting.config import FitConfig, load_config  # noqa: E402
from lengthwise_training.objectives.tasks import Task  # noqa: E402
from lengthwise_training.runs.run import (  # noqa: E402
    RunMismatch,
    prepare_run,
    train_task,
    trainer_type,
)

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@without_gpu
def test_missing_cuda_is_refused_and_the_message_says_what_to_do() -> None:
    with pytest.raises(DeviceAbsent, match=r"sees no CUDA device; .*--device auto"):
        torch_device("cuda")


@without_gpu
def test_auto_without_a_gpu_is_the_cpu() -> None:
    assert torch_device("auto") == "cpu"
    assert torch_device("cpu") == "cpu"


def test_auto_with_a_gpu_is_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto") == torch_device("cuda") == "cuda"
    assert torch_device("cpu") == "cpu"


def test_a_model_on_a_device_that_onnx_runtime_lacks_is_refused() -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA")
    with pytest.raises(ModelUnusable, match="install the `gpu` extra"):
        ServedModel(BUNDLED, "cuda")
    with pytest.raises(ModelUnusable, match="install the `gpu` extra"):
        predictor_bench.bench([BUNDLED], device="cuda")
    assert ServedModel(BUNDLED, "auto").model.provider == "CPUExecutionProvider"


@pytest.mark.slow
def test_a_run_continues_only_on_the_device_it_started_on(
    write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    config = FitConfig(
        task=Task.LISTMLE, backbone=BackboneConfig(dim=16, window=24), epochs=1, threads=1
    )
    data = write_rows(tmp_path / "rows.jsonl")
    prepared = prepare_run(config, data)
    train_task(config, data, tmp_path / "run", prepared=prepared)
    assert load_config(tmp_path / "run")[0].device == "cpu"
    elsewhere = dataclasses.replace(config, device="cuda")
    with pytest.raises(RunMismatch):
        train_task(elsewhere, data, tmp_path / "run", prepared=prepared)


@pytest.mark.slow
@pytest.mark.parametrize("task", list(Task), ids=str)
def test_a_training_step_computes_on_one_device_only(
    task: Task, write_rows: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PyTorch's `meta` device replaces the GPU: it computes shapes only, and refuses tensors of
    # another device, as CUDA does. Its optimizers are not fused.
    adam = torch.optim.AdamW

    def unfused(groups: Any, **more: Any) -> Any:
        return adam(groups, **{**more, "fused": False})

    monkeypatch.setattr(torch.optim, "AdamW", unfused)
    config = FitConfig(task=task, backbone=BackboneConfig(dim=16, window=24), batch=16, threads=1)
    prepared = prepare_run(config, write_rows(tmp_path / "rows.jsonl"))
    predictor = untrained(prepared, config)
    there: Any = dataclasses.replace(config, device="meta")  # type: ignore[arg-type]
    run = trainer_type(task)(prepared, there, predictor)
    run.epoch(0, _Bar())
    assert {p.device.type for p in run.predictor.parameters()} == {"meta"}


class _Bar:
    def update(self) -> None:
        """Do nothing."""
