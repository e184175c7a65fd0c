"""Measures the bundled model on LLMs and sources that it was not trained on.

`python -m lengthwise_training.bundled.unseen --data DIR --llm NAME` trains without that LLM and
without the validation prompts, then predicts for that LLM on those prompts. `--source NAME` trains
without that source, and predicts for its prompts. The bag of words is fitted on the same rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lengthwise_predictor.model import LengthModel
from lengthwise_training.backbones import pretrained
from lengthwise_training.backbones.pretrained import Backbone
from lengthwise_training.bundled.dataset import (
    Dataset,
    build_dataset,
    read_records,
    validation_rows,
)
from lengthwise_training.bundled.dataset_scores import DatasetScores
from lengthwise_training.bundled.evaluate import compare_with_baselines, scores_table
from lengthwise_training.bundled.train import train
from lengthwise_training.bundled.train_config import TrainConfig

#: One wordy and one terse LLM of the bundled model's data, of different makers.
DEFAULT_LLMS = ("google/gemma-3-4b-it", "mistralai/Mistral-7B-Instruct-v0.3")


def measure_unseen(
    dataset: Dataset,
    backbone: Backbone,
    config: TrainConfig,
    *,
    llms: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> dict[str, DatasetScores]:
    """Score a model on an LLM or a source that it was trained without.

    For an LLM, the validation prompts are predicted; for a source, all prompts that no other source
    has.

    Raises:
        ValueError: An LLM or a source is not in the data.
    """
    missing = sorted({*llms, *sources} - {*dataset.llms, *dataset.row_sources})
    if missing:
        raise ValueError(f"{missing} are not among {dataset.llms} and {set(dataset.row_sources)}")
    of_llm = np.isin(dataset.llm_index, [dataset.llms.index(name) for name in llms])
    of_source = np.isin(dataset.row_sources, sources)
    left = ~of_llm & ~of_source
    held = validation_rows(dataset)
    known = np.unique(dataset.llm_index[left])
    seen = dataset.rows_where(left)
    seen = dataclasses.replace(
        seen,
        llms=[dataset.llms[i] for i in known],
        llm_index=np.searchsorted(known, seen.llm_index),
    )
    new = ~np.isin(dataset.prompt_index, dataset.prompt_index[left])
    wanted = (of_source & new) | (of_llm & ~of_source & held)
    with tempfile.TemporaryDirectory() as scratch:
        train(seen, backbone, Path(scratch), config, hold_out=True, baselines=False)
        return compare_with_baselines(
            dataset.rows_where(left & ~held),
            dataset.rows_where(wanted),
            LengthModel(Path(scratch), provider="cpu"),
            per_llm=False,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of length records")
    parser.add_argument("--llm", action="append", help="LLM to leave out; again for more")
    parser.add_argument(
        "--source", action="append", help="source to leave out, or one never learned from"
    )
    parser.add_argument("--backbone", type=Path, help="folder of a pretrained encoder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = TrainConfig()
    sources = options.source or ()
    dataset = build_dataset(read_records(options.data, sources=[*(config.sources or ()), *sources]))
    llms = options.llm or (() if sources else DEFAULT_LLMS)
    scores = measure_unseen(
        dataset, pretrained.load_pretrained(options.backbone), config, llms=llms, sources=sources
    )
    print(scores_table(scores))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
