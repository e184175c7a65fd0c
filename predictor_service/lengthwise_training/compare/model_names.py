"""Names of the models in a table: from their cards, and never two alike.

Called by `served_model` and `predictor_bench`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lengthwise_predictor.settings import BUNDLED


def names_of(models: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[str]:
    """Return a name for each model: name, version and precision from its card.

    Args:
        models: Folder and card of each, no folder twice.

    Returns:
        In their order. Models whose cards are alike carry their folder as well.
    """
    names = ["bundled" if folder == BUNDLED else _by_card(card) for folder, card in models]
    often = Counter(names)
    return [
        name if often[name] == 1 else f"{name} ({folder})"
        for name, (folder, _) in zip(names, models, strict=True)
    ]


def _by_card(card: Mapping[str, Any]) -> str:
    parts = (card.get(key) for key in ("name", "version", "precision"))
    return " ".join(str(part) for part in parts if part)
