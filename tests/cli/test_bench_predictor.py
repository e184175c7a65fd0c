"""What `lengthwise bench predictor` prints, from figures made by hand."""

from __future__ import annotations

import pytest

from lengthwise_cli.commands.bench.predictor import _print


def test_a_notes_pip_command_keeps_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    # [train] was read as a style and left out, and the command then installs nothing more.
    note = "BERT-base left out: pip install 'lengthwise[train]'"
    _print({"rows": [], "ratios": {}, "setting": {"notes": [note]}})
    assert f"Note: {note}\n" in capsys.readouterr().out
