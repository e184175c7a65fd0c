"""A Hugging Face encoder or decoder as a backbone, with its special tokens inside the graph.

The input is the text's own tokens, already cut to both ends (`features.window`). The special tokens
are added here, so no cut can lose the first or the last one.
"""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lengthwise_training.backbones.config import BLOCKED, Pooling


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
