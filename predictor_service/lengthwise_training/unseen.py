"""`python -m lengthwise_training.unseen --data DIR --llm NAME ...`: how good for an unseen LLM?

Trains without the named LLMs and without the validation prompts, then asks the model, which knows
neither, for those LLMs on those prompts. The bag of words is fitted on the same rows.
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
from lengthwise_training import backbone as backbones
from lengthwise_training.backbone import Backbone
from lengthwise_training.dataset import Dataset, build, read_records, split
from lengthwise_training.evaluate import Scores, compare, table
from lengthwise_training.train import train
from lengthwise_training.train_config import TrainConfig

#: One talkative and one terse LLM of the bundled model's data, of different makers.
DEFAULT_LLMS = ("google/gemma-3-4b-it", "mistralai/Mistral-7B-Instruct-v0.3")


def measure(
    dataset: Dataset, backbone: Backbone, llms: Sequence[str], config: TrainConfig
) -> dict[str, Scores]:
    """Scores on the named LLMs' validation rows, of what was trained without them.

    Raises:
        ValueError: An LLM is not in the data.
    """
    missing = sorted(set(llms) - set(dataset.llms))
    if missing:
        raise ValueError(f"{missing} are not in the data, which has {dataset.llms}")
    hidden = np.isin(dataset.llm_index, [dataset.llms.index(name) for name in llms])
    held = split(dataset)
    seen = dataclasses.replace(
        dataset.rows_where(~hidden), llms=[n for n in dataset.llms if n not in llms]
    )
    renumbered = {n: i for i, n in enumerate(seen.llms)}
    seen = dataclasses.replace(
        seen, llm_index=np.array([renumbered[dataset.llms[i]] for i in seen.llm_index])
    )
    with tempfile.TemporaryDirectory() as scratch:
        train(seen, backbone, Path(scratch), config, hold_out=True, rivals=False)
        return compare(
            dataset.rows_where(~hidden & ~held),
            dataset.rows_where(hidden & held),
            LengthModel(Path(scratch), provider="cpu"),
            per_llm=False,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of length records")
    parser.add_argument("--llm", action="append", help="LLM to leave out; again for more")
    parser.add_argument("--backbone", type=Path, help="folder of a pretrained encoder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = TrainConfig()
    dataset = build(read_records(options.data, sources=config.sources))
    llms = options.llm or DEFAULT_LLMS
    print(table(measure(dataset, backbones.load(options.backbone), llms, config)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
