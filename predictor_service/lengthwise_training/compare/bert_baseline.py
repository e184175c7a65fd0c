"""BERT-base with random weights, by PyTorch and by ONNX Runtime; called by `predictor_bench`.

Random weights compute as long as trained ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lengthwise_predictor.model import choose_providers
from lengthwise_training.backbones.devices import Device, torch_device

#: BERT reads at most this many tokens; longer prompts are cut to it, as its users do.
BERT_MOST_TOKENS = 512

#: Predicts for a batch of texts; its result is not used.
Call = Callable[[], object]


class Bert:
    """BERT-base with random weights; its tokenizer is left out, which is in its favour."""

    def __init__(self, scratch: Path, device: Device) -> None:
        """Build the model, and its ONNX file.

        Raises:
            ImportError: torch or transformers is not installed.
            DeviceAbsent: PyTorch does not see that device.
        """
        import torch
        from transformers import BertConfig, BertModel

        self._device = torch_device(device)

        torch.manual_seed(0)
        torch.set_num_threads(1)
        self._torch = torch
        # Plain attention is easier to trace; PyTorch is timed with the fast one.
        self._model = BertModel(BertConfig(), add_pooling_layer=False).eval()
        path = scratch / "bert.onnx"
        plain = BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False).eval()
        plain.load_state_dict(self._model.state_dict())
        example = torch.randint(1000, 20_000, (2, 16))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the TorchScript exporter is deprecated
            torch.onnx.export(
                _LastState(plain),
                (example, torch.ones_like(example)),
                str(path),
                dynamo=False,
                opset_version=17,
                input_names=["ids", "mask"],
                output_names=["state"],
                dynamic_axes={
                    "ids": {0: "batch", 1: "seq"},
                    "mask": {0: "batch", 1: "seq"},
                    "state": {0: "batch", 1: "seq"},
                },
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = choose_providers(device, ort.get_available_providers())
        self._session = ort.InferenceSession(str(path), options, providers=providers)
        ids = example.numpy()
        with torch.inference_mode():
            want = self._model(input_ids=example).last_hidden_state.numpy()
        [got] = self._session.run(None, {"ids": ids, "mask": np.ones_like(ids)})
        #: Largest difference between PyTorch and ONNX Runtime.
        self.difference = float(np.abs(want - got).max())
        self._model.to(self._device)

    def through_torch(self, tokens: int, batch: int) -> Call:
        """Return one forward pass by PyTorch."""
        torch, model = self._torch, self._model
        ids = torch.randint(1000, 20_000, (batch, min(tokens, BERT_MOST_TOKENS)))
        ids = ids.to(self._device)

        def call() -> object:
            with torch.inference_mode():
                # A GPU call returns before it is done: the copy back waits for it.
                return model(input_ids=ids).last_hidden_state.cpu()

        return call

    def through_onnx(self, tokens: int, batch: int) -> Call:
        """Return one forward pass by ONNX Runtime."""
        session, rng = self._session, np.random.default_rng(0)
        ids = rng.integers(1000, 20_000, (batch, min(tokens, BERT_MOST_TOKENS)))
        mask = np.ones_like(ids)
        return lambda: session.run(None, {"ids": ids, "mask": mask})


def _LastState(model: Any) -> Any:
    import torch

    class LastState(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    return LastState().eval()
