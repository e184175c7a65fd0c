"""Folders of models, made from the bundled one. Used by the tests of serving."""

from __future__ import annotations

import json
from pathlib import Path

from lengthwise_predictor.settings import BUNDLED


def make_model(folder: Path, version: str) -> Path:
    """Make the bundled model under another version; the large files are links."""
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (folder / name).symlink_to(BUNDLED / name)
    card = json.loads((BUNDLED / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"version": version}))
    return folder


def switch(link: Path, folder: Path) -> None:
    """Point a link to another folder, in one step."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(folder)
    fresh.replace(link)
