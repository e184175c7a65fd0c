"""The device of a network: the CPU, or a GPU by CUDA."""

from __future__ import annotations

from typing import Literal, get_args

Device = Literal["auto", "cpu", "cuda"]

#: Values of `--device`.
DEVICES: tuple[str, ...] = get_args(Device)


class DeviceAbsent(ValueError):
    """The requested device is missing; the message says what to do."""


def torch_device(requested: Device) -> Literal["cpu", "cuda"]:
    """Choose where PyTorch computes; `auto` is CUDA if PyTorch sees a device.

    Raises:
        DeviceAbsent: `cuda` is requested, and PyTorch sees none.
    """
    import torch

    if requested == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if requested == "auto":
        return "cpu"
    why = (
        "this PyTorch was built without CUDA: install one from https://pytorch.org/get-started"
        if torch.version.cuda is None
        else "the driver or the device is missing: see nvidia-smi"
    )
    raise DeviceAbsent(
        f"--device is cuda, but PyTorch {torch.__version__} sees no CUDA device; {why}, or give "
        "--device auto to use the CPU"
    )
