"""A model folder, run with serving's own code, and the interface of compared predictors."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from lengthwise_predictor.model import LengthModel
from lengthwise_training.backbones.devices import Device
from lengthwise_training.compare.model_names import names_of
from lengthwise_training.data.rows import LengthTable
from lengthwise_training.scoring.scores import PredictedLengths


class ComparedPredictor(Protocol):
    """The interface of every predictor in a comparison."""

    def predict(self, table: LengthTable) -> PredictedLengths:
        """Predict the length of each row."""


class ServedModel:
    """A model folder that serving could load, run with serving's code."""

    def __init__(self, directory: Path, device: Device = "cpu") -> None:
        """Load it.

        Raises:
            ModelUnusable: It cannot be loaded, or not onto that device.
        """
        self.directory = directory
        self.model = LengthModel(directory, provider=device)
        [self.name] = names_of([(directory, self.model.card)])

    def predict(self, table: LengthTable) -> PredictedLengths:
        """Predict p10, p50 and p90 of each row.

        LLMs with the same embedding row share a prediction.
        """
        out = np.zeros((len(table), 3))
        by_prompt: dict[int, list[int]] = {}
        for row, prompt in enumerate(table.prompt_index):
            by_prompt.setdefault(int(prompt), []).append(row)
        bar = tqdm(by_prompt.items(), desc=self.name, disable=None if len(by_prompt) > 1 else True)
        for prompt, rows in bar:
            llms = {self.model.llm_row(str(table.llms[r])): str(table.llms[r]) for r in rows}
            encoded = self.model.encode_for(table.prompts[prompt], list(llms.values()))
            predictions = [self.model.prediction(x) for x in self.model.run(encoded)]
            place = {llm: i for i, llm in enumerate(llms)}
            for r in rows:
                p = predictions[place[self.model.llm_row(str(table.llms[r]))]]
                out[r] = p.p10_tokens, p.p50_tokens, p.p90_tokens
        return PredictedLengths(p50=out[:, 1], p10=out[:, 0], p90=out[:, 2])
