"""Where networks compute: on the CPU, or on a GPU by CUDA; called by what loads one."""

from __future__ import annotations

from typing import Literal, get_args

Device = Literal["auto", "cpu", "cuda"]

#: What `--device` may say.
DEVICES: tuple[str, ...] = get_args(Device)


class DeviceAbsent(ValueError):
    """The device that was asked for is not there; the message says what to do."""


def torch_device(asked: Device) -> Literal["cpu", "cuda"]:
    """Where PyTorch shall compute; `auto` is CUDA if PyTorch sees a device.

    Raises:
        DeviceAbsent: `cuda` is asked for, and PyTorch sees none.
    """
    import torch

    if asked == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "auto":
        return "cpu"
    why = (
        "this PyTorch was built without CUDA: install one from https://pytorch.org/get-started"
        if torch.version.cuda is None
        else "the driver or the device is missing: see nvidia-smi"
    )
    raise DeviceAbsent(
        f"--device is cuda, but PyTorch {torch.__version__} sees no CUDA device; {why}, or give "
        "--device auto to go on without"
    )
