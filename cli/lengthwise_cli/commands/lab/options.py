"""Options that several commands of `lengthwise lab` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(help="Folder of recorded lengths, traces and predictions. Default: synthetic."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Samples = Annotated[
    list[Path],
    typer.Option("--samples", help="A samples.jsonl of `bench serve --out`; may be repeated."),
]
SjfOrder = Annotated[
    str,
    typer.Option(
        "--sjf",
        help="The order of the sjf runs: due-K-wait-C with the queue's overtake_factor and "
        "overtake_wait_factor, or due-K. Default: the order of a queue with default settings.",
    ),
]
