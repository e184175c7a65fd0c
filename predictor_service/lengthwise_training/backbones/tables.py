"""Embedding tables in few bits: the tables are nearly all of a small text model's size."""

# mypy: disallow-subclassing-any=False, warn-return-any=False
# (torch is not followed by mypy, so all that comes from it is Any)

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Columns that share a scale in a 4-bit table.
GROUP = 32


class Int8Table(nn.Module):
    """int8 with one float16 scale for each row."""

    def __init__(self, weight: Tensor) -> None:
        """`weight`: float32, (rows, columns)."""
        super().__init__()
        scale = (weight.abs().amax(dim=1, keepdim=True) / 127.0).clamp(min=1e-7).half()
        self.register_buffer("scale", scale)
        self.register_buffer(
            "codes", (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows by number: float32, (..., columns)."""
        out: Tensor = self.codes[ids].float() * self.scale[ids].float()
        return out


class Int4Table(nn.Module):
    """Four bits for each number, two to a byte, with a float16 scale for every `GROUP` columns."""

    def __init__(self, weight: Tensor) -> None:
        """`weight`: float32, (rows, columns), an even number of columns.

        If the columns are not a multiple of `GROUP`, each row has one scale.
        """
        super().__init__()
        rows, columns = weight.shape
        self.columns = columns
        self.group = GROUP if columns % GROUP == 0 else columns
        grouped = weight.reshape(rows, -1, self.group)
        scale = (grouped.abs().amax(dim=2, keepdim=True) / 7.5).clamp(min=1e-6).half()
        codes = (grouped / scale.float() + 7.5).round().clamp(0, 15).to(torch.uint8)
        codes = codes.reshape(rows, columns)
        half = columns // 2
        self.register_buffer("scale", scale.squeeze(2))  # (rows, columns / group)
        self.register_buffer("codes", codes[:, :half] * 16 + codes[:, half:])

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows by number: float32, (..., columns)."""
        both = self.codes[ids].float()
        high = torch.floor(both / 16.0)
        codes = torch.cat([high, both - 16.0 * high], dim=-1) - 7.5
        scale = self.scale[ids].float().unsqueeze(-1)  # (..., columns / group, 1)
        grouped = codes.reshape(*ids.shape, self.columns // self.group, self.group) * scale
        return grouped.reshape(*ids.shape, self.columns)


class SparseTable(nn.Module):
    """A table with mostly zero rows: the others as int8, and column 0 as float16.

    Column 0 is kept apart because its numbers have another size than the rest.
    """

    def __init__(self, weight: Tensor) -> None:
        """`weight`: float32, (rows, 1 + columns); fewer than 32,767 rows differ from 0."""
        super().__init__()
        full = weight.abs().amax(dim=1) > 0
        kept = torch.cat([torch.zeros_like(weight[:1]), weight[full]])
        if len(kept) > 32_767:
            raise ValueError(f"{len(kept)} rows are not 0, at most 32,766 fit the index")
        place = torch.zeros(len(weight), dtype=torch.int16)
        place[full] = torch.arange(1, len(kept), dtype=torch.int16)
        self.register_buffer("place", place)
        self.register_buffer("first", kept[:, :1].half())
        self.rest = Int8Table(kept[:, 1:])

    def parts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows by number, column 0 and the others: float32, (..., 1) and (..., columns)."""
        at = self.place[ids].long()
        return self.first[at].float(), self.rest(at)
