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
        """Compute one vector for each text or pair of texts, float32, (batch, width).

        The texts of a pair attend to each other.

        Args:
            ids: int64, (batch, seq), the text's own tokens, right-padded with `pad_id`.
            second: int64, (batch, another seq), the other text of each pair; None: single texts.
        """
        full, mask = self.with_specials(ids)
        more: dict[str, Any] = {}
        sign = mask.to(self.model.dtype)
        if second is not None:
            full, mask, kind = self.with_second(full, mask, second)
            sign = mask.to(self.model.dtype) * (1 - 2 * kind).to(self.model.dtype)
            if getattr(self.model.config, "type_vocab_size", 0) > 1:
                more["token_type_ids"] = kind
        seq = full.shape[1]
        place = torch.arange(seq, device=ids.device)
        keep = mask[:, None, None, :]
        if self.causal:
            keep = keep & (place[None, :] <= place[:, None])[None, None]
        bias = (1.0 - keep.to(self.model.dtype)) * BLOCKED
        # The mask has its final form, (batch, 1, seq, seq): the code that expands a shorter one
        # differs between models, and some of it cannot be exported.
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
            at = (mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
            return states.gather(1, at).squeeze(1)
        # For a pair, the mean of the first text minus that of the second: with one mean of both,
        # MiniLM learned little in three epochs (docs/research/experiments.md, "two in one input").
        vector = self._mean(states, sign.clamp(min=0))
        return vector if second is None else vector - self._mean(states, (-sign).clamp(min=0))

    @staticmethod
    def _mean(states: Tensor, share: Tensor) -> Tensor:
        weight = share.unsqueeze(-1)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)

    def with_specials(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Put the ids between the special tokens: (batch, longer seq).

        Returns:
            The ids, and where there is a token.
        """
        place = torch.arange(ids.shape[1], device=ids.device)
        # The last position that is not padding: a text may contain the padding token's name.
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
        self, full: Tensor, mask: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append a second text to the first, without padding in between.

        Args:
            full: From `with_specials`, of the first text.
            mask: The same.
            second: int64, (batch, seq).

        Returns:
            The ids, where there is a token, and which text each token belongs to (0 or 1).
        """
        other, other_mask = self.with_specials(second)
        # The first text's end token stands between them; without one, the second's start token.
        skip = len(self.before) if self.after else 0
        other, other_mask = other[:, skip:], other_mask[:, skip:]
        kind = torch.cat([torch.zeros_like(full), torch.ones_like(other)], dim=1)
        full, mask = torch.cat([full, other], dim=1), torch.cat([mask, other_mask], dim=1)
        place = torch.arange(full.shape[1], device=full.device).unsqueeze(0)
        order = torch.argsort(place + full.shape[1] * (~mask).to(torch.int64), dim=1)
        mask = mask.to(torch.int64).gather(1, order) > 0
        return full.gather(1, order), mask, kind.gather(1, order)


def keep_layers(model: Any, layers: int | None) -> Any:
    """Keep only the lowest layers of a model, in place, and drop its pooler, which is not used.

    Raises:
        ValueError: It has fewer layers than that.
    """
    count = int(model.config.num_hidden_layers)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if layers is None or layers == count:
        return model
    if not 1 <= layers < count:
        raise ValueError(f"--layers is {layers}, but the backbone has {count}")
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                setattr(module, name, child[:layers])
    model.config.num_hidden_layers = layers
    return model


def is_decoder(model: Any) -> bool:
    """Return whether tokens attend only to earlier ones: its type has no masked-language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model.config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
